"""Reads bundles, our own and those of onnxruntime-genai's builder, and keeps what is found out about them here.

``foreign.read_bundle`` reads the manifest of either kind, and ``check_bundle`` checks the files. ``device_cache``
stores results by bundle and device. ``external_data`` checks that a graph reads no file outside its bundle, and finds
where its tensors lie; ``protobuf`` replaces fields of a graph file. Every room above may import all four.
"""
