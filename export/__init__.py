"""Turns a target model and its drafters into a bundle: quantized ONNX graphs, their weights, and a manifest.

``bundle.export_bundle`` is all that a program needs, with an ``ExportRequest`` of ``request``. The other packages may
import ``manifest``, ``records``, ``own_files`` and ``untrusted``, which load without torch; hence this file imports
nothing. The rooms, lowest first: ``sources``, ``graph`` and ``quantization``, ``validation`` and ``writer``.
"""
