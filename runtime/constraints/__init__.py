"""Structured output: answers that follow a JSON schema, a regular expression or a grammar.

``request`` has the values in which users ask, ``compiler`` makes matchers of them for one vocabulary, and ``matcher``
is what the decoding loop sees, a ``decoding.constraint.Constraint``. The library llguidance does the parsing; it is an
extra, and imported when a constraint is first compiled. May import ``decoding`` and ``text``.
"""
