"""Measures decoding: contenders side by side on the same prompts, in one table with all that it takes to doubt it.

``contenders`` names ways to decode, ``measure`` runs them in turns and records every answer, ``summary`` computes what
records come to, ``report``, ``table`` and ``plots`` show it. A drafter called ``perfect`` knows the answers of plain
decoding and costs nothing: what it reaches is the ceiling.
"""
