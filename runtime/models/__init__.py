"""Models in ONNX Runtime: sessions, inputs and outputs, the KV cache, threads and cores.

``loader.Levels`` opens the models of a bundle as a plan says, each an ``ort_model.OrtModel``, which satisfies
``decoding.protocols.Model``. ``exact_widths`` finds the numbers of rows that agree bit for bit. ``prepacker`` is a
program of its own. Rooms above import ``loader``, ``ort_model``, ``kv_cache``, ``exact_widths`` and ``placement``.
"""
