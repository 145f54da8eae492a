"""Small torch modules and functions that each emit one ONNX Runtime operator while a model's own code is traced.

Every lowering is checked against the module or function that it replaces, on random numbers, before it takes its place:
what a class is called decides nothing. Where the check fails the original stays, and exports as ordinary operators.
``trace``, ``passes`` and ``native`` import from here; other rooms do not.
"""
