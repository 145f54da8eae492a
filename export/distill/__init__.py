"""Trains small models: the demo family from text, and drafters from a target's answers and distributions.

``commands`` is ``python -m export train | lessons | distill | measure``, and nothing else imports from this room.
``corpus``, ``tokenizer`` and ``family`` say what is trained on what, ``lessons`` what a teacher says, ``train`` and
``muon`` train, and ``measure`` judges the result.
"""
