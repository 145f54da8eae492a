"""Small torch modules and functions that each emit one ONNX Runtime operator while a model's own code is traced.

Every lowering is checked against the module or function it replaces, on random numbers, before it takes its place:
what a class is called decides nothing. Where the check fails the original stays, and exports as ordinary operators.
"""

from export.manifest import PocketspecError


class UnsupportedGraphError(PocketspecError, RuntimeError):
    """A model whose graph would be wrong or cannot be built; the message names the model type and the reason."""


__all__ = ["UnsupportedGraphError"]
