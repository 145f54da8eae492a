"""From the portable graph to the native one: the same inputs and outputs, on our own operators and packed weights.

Every module is one fusion, applied only where its pattern matches; what matches nothing stays ONNX Runtime's operator.
Weights are not touched: the packing table says how the packed file is made of the portable one. Rooms above import
``build`` alone. The layout of packed weights is the runtime's, which is imported inside functions.
"""
