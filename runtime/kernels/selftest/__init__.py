"""The self-test of the native library: cases, the NumPy reference, golden digests, and the program that compares.

``reference`` and ``attention_reference`` compute what ``runtime/kernels/ARITHMETIC.md`` specifies. ``run`` is a program
that ``runtime.kernels.library`` starts. ``cases``, ``numbers`` and ``onnx_bytes`` (random data, models of a few nodes)
may be imported by whoever needs a small model without the onnx package.
"""
