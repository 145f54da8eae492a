"""Compares decoding methods on the same prompts in one run, and shows how certain each number is.

``contenders`` turns names into settings, ``measure`` runs them in turns and records every answer, ``summary`` computes
from the records, and ``report``, ``table`` and ``plots`` show the result. ``conversation`` and ``memory`` are
benchmarks of their own. ``runtime.commands`` imports these modules; no other room does.
"""
