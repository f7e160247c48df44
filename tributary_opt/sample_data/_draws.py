"""Counter-based random numbers: the i-th draw of a stream is a function of (key, i), so no draw depends on another.

A generator with a state would make a market's ticks depend on how many markets stand before it in the list. Here a
key is made from seed, market, day and purpose, and draw i of it is the i-th output of SplitMix64 started at that key
(Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

UInts = NDArray[np.uint64]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_POISSON_EXACT_BELOW = 64.0


def text_key(text: str) -> int:
    """64-bit key of a text, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stream_key(keys: UInts, number: int, purpose: int) -> UInts:
    """Keys of one purpose on one day (or any other numbered thing), shape of `keys`."""
    salt = _mix(np.array([(number << 8) + purpose], dtype=np.uint64) * _GOLDEN)
    return _mix(keys ^ salt)


def bits(keys: UInts, index: Ints) -> UInts:
    """64 random bits for each (key, index)."""
    return _mix(keys + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(keys: UInts, index: Ints) -> Floats:
    """Uniform on the open interval (0, 1). [-]"""
    return ((bits(keys, index) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(keys: UInts, index: Ints) -> Floats:
    """Standard normal by Box and Muller from the two halves of one draw; never beyond 6.7 in size. [-]"""
    word = bits(keys, index)
    radius = ((word >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    angle = (word & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * np.pi * 2.0**-32)
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(angle)


def poisson(keys: UInts, mean: Floats) -> Ints:
    """One Poisson number a key.

    Inversion of the distribution function below a mean of 64; above it a Cornish-Fisher expansion of the normal
    quantile, mean + √mean z + (z² - 1)/6, whose mean and variance are exact to 1/mean.
    """
    first = np.zeros(mean.shape, dtype=np.int64)
    z = normal(keys, first)
    count = np.floor(mean + np.sqrt(mean) * z + (z * z - 1.0) / 6.0 + 0.5)

    small = mean < _POISSON_EXACT_BELOW
    m, u = mean[small], uniform(keys[small], first[small] + 1)
    term = np.exp(-m)
    below = term.copy()
    n = np.zeros(m.shape)
    for k in range(1, 200):
        n += u > below
        term = term * m / k
        below += term
    count[small] = n
    return np.maximum(count, 0.0).astype(np.int64)


def _mix(x: UInts) -> UInts:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
