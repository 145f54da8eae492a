"""Weights in 4 or 8 bits: how a matrix is cut into blocks, and the methods that choose their codes and scales.

``quantize.QUANTIZERS`` has the methods by name: plain rounding, a search (``scale_search``), and ``gptq``. ``blocks``
has the stored form and undoes it; ``calibration`` measures on a text which columns matter. Rooms above may import
``quantize``, ``blocks`` and ``calibration``.
"""
