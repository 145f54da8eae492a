"""Times the kernels, for ``python -m runtime kernels``: what rows cost, and how instruction sets compare.

``rows`` times MatMulPanel beside ONNX Runtime's MatMulNBits; ``instruction_sets`` times every set of this processor on
the same work. ``runtime.commands.kernels`` imports them; no other room does.
"""
