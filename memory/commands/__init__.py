"""The subcommands of ``python -m memory``, one module each: options in, text out.

Each module has ``add_arguments(parser)`` and ``run(options)``. ``plan`` also has the options and the inputs that the
others share. Nothing imports from this room but ``memory.__main__``.
"""
