"""Turns a target model and its drafters into a bundle: quantized ONNX graphs, their weights, and a manifest.

``bundle.export_bundle`` is all that a program needs, with an ``ExportRequest`` of ``request``. Other packages may
import ``manifest``, ``bundle_files``, ``records``, ``own_files`` and ``untrusted``, which load without torch; so this
file imports nothing. Rooms, lowest first: ``sources``, ``graph`` and ``quantization``, ``validation`` and ``writer``.
"""
