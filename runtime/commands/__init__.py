"""The subcommands of ``python -m runtime``, one module each. What they compute lives in ``runtime`` itself.

Modules here import ONNX Runtime only when they run, so that help and refusals come at once.
"""
