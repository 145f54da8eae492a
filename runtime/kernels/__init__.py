"""The native operators inside ONNX Runtime: their C++ (``native``), and how it is built, tested, trusted and chosen.

``ARITHMETIC.md`` specifies what they compute. ``selection.Chooser`` opens a level with the best kernels that work here;
``backends`` has what the rest of the runtime may know of kernels, ``library`` the compiled library and its verdict.
``selftest`` tests it, ``timing`` times it, ``weights`` packs what it reads. Rooms above import these modules.
"""
