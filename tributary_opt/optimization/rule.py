"""The 1 % / 10 % rule: impact parameters from volume, spread and volatility, where nothing better is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.arguments import FloatArray, _floats

__all__ = ["RuleParameters", "rule_parameters"]


@dataclass(frozen=True)
class RuleParameters:
    """What `rule_parameters` gives; every array has the broadcast shape of its arguments."""

    eta: FloatArray  #: temporary impact. [currency·day/contract²]
    gamma: FloatArray  #: permanent impact. [currency/contract²]
    sigma: FloatArray  #: volatility. [currency/contract/√day]
    epsilon: FloatArray  #: half-spread. [currency/contract]
    reference_rate: FloatArray  #: the rate at which linear and power law meet, 1 % of ADV per day. [contracts/day]
    valid: NDArray[np.bool_]  #: where all arguments were admissible; the numbers are NaN elsewhere. [-]


def rule_parameters(
    daily_volume: ArrayLike, daily_spread: ArrayLike, daily_volatility: ArrayLike, price: ArrayLike
) -> RuleParameters:
    """Impact parameters of many markets by Almgren and Chriss's rule of thumb.

    Trading 1 % of the daily volume in a day costs one spread of temporary impact, selling 10 % of it moves the price by
    one spread for good:

        η = spread / (0.01 V),  γ = spread / (0.10 V),  σ = volatility · price,  ε = spread / 2.

    Parameters
    ----------
    daily_volume : array_like
        V > 0. [contracts/day]
    daily_spread : array_like
        Bid-ask spread >= 0, of the price and not relative to it. A zero spread gives η = 0: no schedule can be derived
        from it but TWAP. [currency/contract]
    daily_volatility : array_like
        Standard deviation of the relative price change over a day, >= 0. [1/√day]
    price : array_like
        Arrival price > 0. [currency/contract]

    Returns
    -------
    RuleParameters
        NaN, with ``valid`` False, where an argument is inadmissible or a result leaves the double range.

    Raises
    ------
    TypeError, ValueError
        For arguments that are no numbers or do not broadcast.

    References
    ----------
    Almgren & Chriss (2001), "Optimal execution of portfolio transactions", J. Risk 3(2), section 3.4.
    """
    volume, spread, volatility, price = np.broadcast_arrays(
        _floats("daily_volume", daily_volume),
        _floats("daily_spread", daily_spread),
        _floats("daily_volatility", daily_volatility),
        _floats("price", price),
    )
    valid = (volume > 0) & (spread >= 0) & (volatility >= 0) & (price > 0)
    for array in (volume, spread, volatility, price):
        valid &= np.isfinite(array)
    volume, spread, volatility, price = (np.where(valid, array, 1.0) for array in (volume, spread, volatility, price))
    with np.errstate(over="ignore", divide="ignore"):  # beyond the range becomes inf, and invalid below
        results = [
            spread / (0.01 * volume),
            spread / (0.10 * volume),
            volatility * price,
            0.5 * spread,
            0.01 * volume,
        ]
    for array in results:
        valid &= np.isfinite(array)
    eta, gamma, sigma, epsilon, reference_rate = (np.where(valid, array, np.nan) for array in results)
    return RuleParameters(eta, gamma, sigma, epsilon, reference_rate, valid)
