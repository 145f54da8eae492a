"""The algorithm, without ONNX Runtime: draft, verify, accept, commit; and the values it is written in.

``loop`` is the decoding loop. ``draft`` has its values (Draft, Step, Pick, Verdict) and ``protocols`` what it asks of
models, drafters, schedulers and acceptance rules. ``sampling`` goes from logits to tokens, ``stop`` ends answers,
``stats`` counts. Every room above may import these modules; the acceptance rules are in ``acceptance``.
"""
