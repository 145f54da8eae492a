"""Acceptance rules, one a file: which drafted tokens stand, and the one more token that every step yields.

Each rule is a class that satisfies ``decoding.protocols.Verifier``: ``greedy``, ``sample_and_match``, ``block``,
``recursive``, and ``synthetic`` for benchmarks with random weights. ``coins``, ``rows`` and ``distributions`` are their
helpers. ``runtime.speculation`` chooses among them; drafters with a model inside use some as well.
"""
