"""Turns a target model and its drafters into quantized ONNX graphs and a manifest.

This file stays empty of imports so that ``export.manifest``, which the other packages read, loads without torch.
"""
