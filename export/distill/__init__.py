"""Trains small models: the demo family from text, and drafters from a target's answers and distributions.

``commands`` is ``python -m export train | lessons | distill | measure``, and nothing else imports from this room.
``one_command`` is ``distill --target``: ``pipeline`` has its stages, ``kinds`` one kind of drafter a file, ``prompts``
and ``answers`` what the target says, ``learning`` and ``held_out`` how it is judged, ``result`` what comes out.
``corpus``, ``tokenizer`` and ``family`` say what is trained on what, ``lessons`` what a teacher says, ``train`` and
``muon`` train (``devices`` and ``processes``: where), and ``measure`` judges the result.
"""
