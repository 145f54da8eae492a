"""What an engine has read and said, kept: in memory for another answer, in a file for another process.

``identity`` says what rows of a KV cache depend on, ``held`` which rows the open levels hold. ``snapshot`` copies them
and puts them back; ``saving`` and ``restoring`` do so with a file, whose parts are ``record`` and ``tensor_file``.
``kept`` has the latest conversations beside the current one, within the plan.
Rooms above may import ``held``, ``snapshot``, ``saving``, ``restoring``, ``kept`` and
``errors``.
"""
