"""Columns of numbers for a page, packed: typed arrays in one gzip stream, as base64 text. `data.js` unpacks them.

The bytes of a number stand apart (all first bytes, all second bytes, …): neighbours are alike there, and gzip finds
that. The browser unpacks a column when it is first looked at.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import numpy as np
import pandas as pd

_MANTISSA = 23
_SINGLE = (1e-36, 1e38)
_LEVEL = 6
"""Of gzip; 9 takes three times as long for a fiftieth of the size."""


class Packer:
    """Collects arrays; what `add` and `words` return stands for them in the JSON that `packed` takes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: np.ndarray, bits: int | None = None) -> dict[str, Any]:
        """An array of any shape, flat; NaN for what is missing.

        Parameters
        ----------
        values : ndarray
            Of floats, or of integers below 256 (uint8).
        bits : int, optional
            Bits of the mantissa that are worth keeping: 11 are 3 digits, 17 are 5, 23 a single's 7. None keeps a double
            as it is. [-]
        """
        flat = np.ascontiguousarray(values).ravel()
        if flat.dtype != np.uint8:
            flat = flat.astype("<f8")
            if bits is not None and _fits(flat):
                flat = _rounded(flat.astype("<f4"), bits)
        kind = {"|u1": "u1", "<f4": "f4", "<f8": "f8"}[flat.dtype.str]
        planes = flat.view(np.uint8).reshape(-1, flat.itemsize).T.tobytes()
        place = {"kind": kind, "at": self._size, "n": len(flat)}
        self._parts.append(planes)
        self._size += len(planes)
        return place

    def words(self, values: pd.Series) -> dict[str, Any]:
        """A column of texts: the words it is made of, and which one stands where; None for what is missing."""
        codes, words = pd.factorize(values.astype(object), use_na_sentinel=True)
        return {"words": [str(word) for word in words], "codes": self.add(np.where(codes < 0, np.nan, codes))}

    def packed(self, content: dict[str, Any]) -> str:
        """The arrays and a JSON that says where they are, as base64 of gzip."""
        header = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        whole = struct.pack("<I", len(header)) + header + b"".join(self._parts)
        return compressed(whole)


def compressed(content: bytes) -> str:
    """Bytes as base64 of gzip: text that may stand in a script element. The same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, _LEVEL, mtime=0)).decode()


def _fits(values: np.ndarray) -> bool:
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    return not len(size) or bool(size.min() > _SINGLE[0] and size.max() < _SINGLE[1])


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Singles with so many bits of mantissa, to nearest."""
    drop = _MANTISSA - bits
    if not drop:
        return values
    whole = values.view(np.uint32)
    near = (whole + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near.view(np.float32), values)
