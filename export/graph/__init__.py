"""From a model's own code to ONNX graphs, without weights: portable ones, and native ones for our kernels.

``trace.lower`` traces a model into a ``LoweredGraph``, whose ``recipe`` says how each initializer is made of the
checkpoint; ``lowering`` and ``passes`` do the work in between. ``kv_variants``, ``sparse_tables`` and ``native.build``
read a graph that is written. Rooms above may import these modules; ``lowering`` and the passes are for this room alone.
"""
