"""One mapping of a packed file for all sessions that read it: a target, and drafters that are part of it.

ONNX Runtime maps the weights of every session anew. Pages would be in memory once all the same, but a process that maps
them twice counts them twice among its resident bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.manifest import PACKED_FILE_NAME, PACKING_TABLE_NAME
from runtime.kernels.weights.layout import SCALE_TYPES
from runtime.kernels.weights.packing_table import MatrixEntry, read_table


class SharedWeights:
    """The matrices of the packed file in folder ``place``, as ``table`` describes them; sessions read them from here.

    It must live as long as the sessions.
    """

    def __init__(self, place: Path, table: Path) -> None:
        self._file = np.memmap(place / PACKED_FILE_NAME, np.uint8, "r")
        matrices = read_table(table / PACKING_TABLE_NAME)[0].matrices
        # ONNX Runtime's values hold no reference to the arrays.
        self._arrays = {name: array for matrix in matrices for name, array in self._initializers(matrix)}
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays.items()}

    def add_to(self, options: ort.SessionOptions) -> None:
        """Has a session with ``options`` read these matrices here, by the names of its initializers."""
        for name, value in self._values.items():
            options.add_initializer(name, value)

    def _initializers(self, matrix: MatrixEntry) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """The initializers that export makes of a matrix, and the high plane of its codes (``export.graph.native``)."""
        layout, name = matrix.layout, f"{matrix.name}.panels"
        codes = self._array(matrix.codes.target, layout.codes_shape, np.dtype(np.uint8))
        yield f"{name}.codes", codes
        if layout.planes == 2:
            yield f"{name}.codes.high", codes[: layout.panels]
        yield f"{name}.scales", self._array(matrix.scales.target, layout.scales_shape, SCALE_TYPES[matrix.scale_type])
        if matrix.zero_points is not None:
            zeros = self._array(matrix.zero_points.target, layout.zero_points_shape, np.dtype(np.uint8))
            yield f"{name}.zero_points", zeros

    def _array(self, position: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        size = int(np.prod(shape)) * dtype.itemsize
        return self._file[position : position + size].view(dtype).reshape(shape)
