"""Floating-point faults fail every test of this room; underflow alone is harmless."""

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def _floating_point_faults_raise() -> Iterator[None]:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        yield
