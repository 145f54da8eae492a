"""Chooses the drafter and the draft size of every step: one policy a file; decoding methods are in ``methods``."""
