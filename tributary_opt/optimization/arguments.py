"""What arguments must be. Arrays first, then what the single-order functions take.

Wrong types and shapes raise here. Bad values raise where the same rule holds for all; those of single orders come back
in words, for the trajectory to carry.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FloatArray", "Permanent", "Side"]

FloatArray = NDArray[np.float64]
Permanent = Literal["paper", "midprice"]
Side = Literal["sell", "buy"]


def _floats(name: str, value: Any) -> FloatArray:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got {array.dtype} ({type(value).__name__})")
    return array.astype(np.float64, copy=False)


def _in_range(value: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(value) & (value >= 0))


def _non_negative(name: str, value: Any) -> FloatArray:
    array = _floats(name, value)
    if not _in_range(array).all():
        raise ValueError(f"{name} must be finite and >= 0, got {array[~_in_range(array)].flat[0]}")
    return array


def _positive(name: str, value: Any) -> FloatArray:
    array = _floats(name, value)
    good = _in_range(array) & (array > 0)
    if not good.all():
        raise ValueError(f"{name} must be finite and > 0, got {array[~good].flat[0]}")
    return array


def _representable(name: str, value: FloatArray) -> FloatArray:
    if not np.isfinite(value).all():
        raise ValueError(f"{name} is beyond the double range: use other units (a larger currency or contract)")
    return value


def _check_steps(n_steps: Any) -> int:
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)):
        raise TypeError(f"n_steps must be an integer, got {type(n_steps).__name__}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be >= 1, got {n_steps}")
    return int(n_steps)


def _check_permanent(permanent: Any) -> None:
    if permanent not in ("paper", "midprice"):
        raise ValueError(f'permanent must be "paper" or "midprice", got {permanent!r}')


def _output(name: str, array: FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    if array is None:
        return np.empty(shape)
    if array.shape != shape or array.dtype != np.float64 or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous float64 of shape {shape}, got {array.dtype} {array.shape}")
    return array


def _number(name: str, value: Any) -> float:
    """A real number as float; anything else is a wrong type."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond the double range
        return math.inf


def _aversion(name: str, value: Any) -> tuple[float, list[str]]:
    """λ, and what is wrong with it."""
    lam = _number(name, value)
    if math.isfinite(lam) and lam >= 0:
        return lam, []
    return lam, [
        f"{name} must be finite and >= 0, got {lam:g}: 0 is risk-neutral; for everything at once take "
        "generate_market_order_trajectory"
    ]


def _shares(volume_profile: ArrayLike, n_steps: int) -> tuple[FloatArray, list[str]]:
    """Shares of the volume that sum to 1, flat where there is none; and what is to say about it."""
    volume = _floats("volume_profile", volume_profile)
    if volume.shape != (n_steps,):
        raise ValueError(f"volume_profile must have one entry for each of {n_steps} slices, got shape {volume.shape}")
    flat = np.full(n_steps, 1.0 / n_steps)
    if not _in_range(volume).all():
        return flat, ["volume_profile must be finite and >= 0: give a window with trades in it"]
    if not volume.any():
        return flat, ["volume_profile is all zero: taken as flat, VWAP is TWAP then; use a window with trades in it"]
    scaled = volume / volume.max()
    return scaled / math.fsum(scaled), []


def _whole(name: str, value: Any) -> int | None:
    """A whole number as int, None for another number; anything else is a wrong type."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = _number(name, value)
    return int(number) if number.is_integer() else None


def _check_side(side: Any) -> None:
    if side not in ("sell", "buy"):
        raise ValueError(f'side must be "sell" or "buy", got {side!r}')
