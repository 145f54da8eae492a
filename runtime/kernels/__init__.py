"""The native int4 operators inside ONNX Runtime: their C++, how it is built, trusted and chosen."""
