"""The subcommands of ``python -m runtime``, one module each: options in, text out. The work is done in other rooms.

Each module has ``add_arguments(parser)`` and ``run(options)``; ``options`` holds the options they share. Modules import
ONNX Runtime only when they run, so that help and refusals come at once. Nothing imports from this room but
``runtime.__main__``.
"""
