// The model in the page: Almgren-Chriss (2001) under the linear law, as tributary_opt.optimization has it.
// A market is {eta, gamma, sigma, epsilon, price, contract_multiplier}; tests hold these functions to the Python ones.
"use strict";
const model = (() => {
  // Shares of the order traded in each slice at kappa T = k, from the closed form, no differences.
  function acShares(k, n) {
    const shares = new Array(n);
    const whole = -Math.expm1(-2 * k);
    for (let j = 0; j < n; j++) {
      const end = j / n, middle = (j + 0.5) / n;
      shares[j] = k > 0
        ? (Math.exp(-k * end) * -Math.expm1(-k / n) * (1 + Math.exp(-2 * k * (1 - middle)))) / whole
        : 1 / n;
    }
    return shares;
  }

  const etaTilde = (m, tau, permanent) => (permanent === "midprice" ? m.eta : m.eta - (m.gamma * tau) / 2);

  // kappa T of a level of the grid: {kind: "urgency" | "lambda", value}.
  function kappaT(m, level, horizon, n, permanent) {
    const tau = horizon / n, a = etaTilde(m, tau, permanent);
    if (!(a > 0)) return 0; // no optimum: TWAP
    if (level.kind === "urgency") return level.value;
    const u = Math.sqrt((level.value * m.contract_multiplier) / a) * m.sigma * tau;
    return 2 * n * Math.asinh(u / 2);
  }

  // What a schedule costs: expected cost [currency], its variance [currency^2], both in bps of the arrival notional.
  function cost(m, size, shares, horizon, permanent) {
    const n = shares.length, tau = horizon / n, a = etaTilde(m, tau, permanent) / tau;
    let squares = 0, risk = 0, left = 0;
    // From the end, so that what is held is a sum of small things and no difference of large ones.
    for (let j = n - 1; j >= 0; j--) {
      squares += shares[j] * shares[j];
      risk += left * left;
      left += shares[j];
    }
    const mult = m.contract_multiplier;
    const expected = (m.epsilon * size + (m.gamma * size * size) / 2 + a * size * size * squares) * mult;
    const variance = m.sigma * m.sigma * tau * size * size * risk * mult * mult;
    const notional = size * m.price * mult;
    return {
      expected_cost: expected, cost_variance: variance,
      expected_cost_bps: (expected / notional) * 1e4, cost_sd_bps: (Math.sqrt(variance) / notional) * 1e4,
    };
  }

  const ac = (m, size, level, horizon, n, permanent) => {
    const k = kappaT(m, level, horizon, n, permanent), shares = acShares(k, n);
    return { urgency: k, shares, ...cost(m, size, shares, horizon, permanent) };
  };
  const twap = (m, size, horizon, n, permanent) => {
    const shares = acShares(0, n);
    return { urgency: 0, shares, ...cost(m, size, shares, horizon, permanent) };
  };
  const atOnce = (m, size, horizon, n, permanent) => {
    const shares = new Array(n).fill(0);
    shares[0] = 1;
    return { urgency: null, shares, ...cost(m, size, shares, horizon, permanent) };
  };
  // By the hours of a 24/7 market's clock, from 00:00 UTC; a slice gets its share of the horizon's volume.
  const vwap = (m, size, hours, horizon, n, permanent) => {
    const until = (t) => {
      const days = Math.floor(t / 24), hour = t - 24 * days;
      let sum = days * hours.reduce((a, b) => a + b, 0);
      for (let h = 0; h < 24; h++) sum += hours[h] * Math.min(1, Math.max(0, hour - h));
      return sum;
    };
    const total = until(24 * horizon);
    if (!(total > 0)) return null;
    const shares = Array.from({ length: n }, (_, j) =>
      (until((24 * horizon * (j + 1)) / n) - until((24 * horizon * j) / n)) / total);
    return { urgency: null, shares, ...cost(m, size, shares, horizon, permanent) };
  };
  const holdings = (shares) => {
    const left = new Array(shares.length + 1).fill(0);
    for (let j = shares.length - 1; j >= 0; j--) left[j] = left[j + 1] + shares[j];
    return left;
  };
  return { acShares, etaTilde, kappaT, cost, ac, twap, atOnce, vwap, holdings };
})();
