"""Cells of columns whose values are arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rows_where(known: NDArray[np.bool_], rows: NDArray[np.float64]) -> NDArray[np.object_]:
    """Each row of a table as one cell, None where it is not known."""
    cells = np.full(len(rows), None, dtype=object)
    cells[known] = np.fromiter(rows[known], dtype=object, count=int(known.sum()))
    return cells
