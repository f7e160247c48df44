// The model in the page, as tributary_opt.optimization has it: linear and power law, both conventions of the permanent
// impact, volume time, caps. A market is {eta, gamma, sigma, epsilon, price, contract_multiplier, adv, alpha,
// reference_rate}, a setting {horizon, n, permanent, law, alpha, maxParticipation, maxSlice}; a test holds what comes
// out to the published rows.
"use strict";
const model = (() => {
  const known = (v) => typeof v === "number" && isFinite(v);

  // Weights of the slices of a schedule that begins with the first of `sessions` ({at, hour}: where each hour of the
  // calendar's clock begins, from 0 to 1 of the session), in trading days' worth; null where nothing is known.
  function sliceWeights(sessions, hours, horizon, n) {
    if (!hours || !hours.every((h) => isFinite(h) && h >= 0)) return null;
    const weights = new Array(n).fill(0), step = horizon / n;
    for (let s = 0; s < sessions.length; s++) {
      const { at, hour } = sessions[s], length = hour.map((_, q) => at[q + 1] - at[q]), perHour = new Array(24).fill(0);
      hour.forEach((h, q) => (perHour[h] += length[q]));
      const share = hour.map((h, q) => (hours[h] * length[q]) / perHour[h]), total = share.reduce((a, b) => a + b, 0);
      if (!(total > 0)) return null;
      for (let q = 0; q < hour.length; q++) {
        const from = s + at[q], to = s + at[q + 1], rate = share[q] / total / length[q];
        for (let j = Math.max(0, Math.floor(from / step) - 1); j < n && j * step < to; j++) {
          weights[j] += rate * Math.max(0, Math.min(to, (j + 1) * step) - Math.max(from, j * step));
        }
      }
    }
    return weights;
  }
  // Shares of the horizon's volume and variance by slice; null where the volume is not known, and the clock is all.
  function profile(sessions, volumeHours, varianceHours, horizon, n) {
    const volume = sliceWeights(sessions, volumeHours, horizon, n);
    const total = volume ? volume.reduce((a, b) => a + b, 0) : 0;
    if (!(total > 0)) return null;
    const variance = sliceWeights(sessions, varianceHours, horizon, n), risk = variance ? variance.reduce((a, b) => a + b, 0) : 0;
    return { total, volume: volume.map((w) => w / total), variance: risk > 0 ? variance.map((w) => w / risk) : new Array(n).fill(1 / n) };
  }

  // Everything in fractions of the order, costs in units of a X^(1+k): impact[j] y^(1+k), risk r·risk[j]·z².
  function problem(m, size, s, hours = null, capped = false) {
    const n = s.n, tau = s.horizon / n, power = s.law === "power", k = power ? (known(m.alpha) ? m.alpha : s.alpha) : 1;
    const rate = known(m.reference_rate) ? m.reference_rate : 0.01 * m.adv, paper = s.permanent === "paper";
    const level = k === 1 ? (paper ? m.eta - (m.gamma * tau) / 2 : m.eta) / tau : (m.eta * rate ** (1 - k)) / tau ** k;
    const w = hours ? hours.volume : null, impact = new Array(n), risk = new Array(n), cap = new Array(n);
    const volume = m.adv * (hours ? hours.total : s.horizon);
    for (let j = 0; j < n; j++) {
      impact[j] = w && w[j] > 0 ? (1 / (n * w[j])) ** k : 1;
      risk[j] = hours ? n * hours.variance[j] : 1;
      cap[j] = w && !(w[j] > 0) ? 0 : Infinity;
      if (capped && known(s.maxParticipation)) cap[j] = Math.min(cap[j], (s.maxParticipation * volume * (w ? w[j] : 1 / n)) / size);
      if (capped && known(s.maxSlice)) cap[j] = Math.min(cap[j], s.maxSlice);
    }
    return { m, size, n, tau, k, level, impact, risk, cap, bend: paper && k < 1 ? (m.gamma * size ** (1 - k)) / level : 0,
      horizon: s.horizon, even: !hours && !cap.some((c) => c < Infinity), linear: k === 1 && !cap.some((c) => c < 1 && c > 0) };
  }

  // The risk r of a level of the grid, {kind: "urgency" | "lambda", value}, and the urgency that it is.
  function risk(p, level) {
    if (!(p.level > 0)) return { r: 0, urgency: 0 };
    const { n, k } = p;
    if (level.kind === "urgency") {
      const d = level.value / n;
      return { r: k === 1 ? (2 * Math.sinh(Math.min(d, 290) / 2)) ** 2 : k * Math.min(d, 1e60) ** (k + 1), urgency: level.value };
    }
    const r = (level.value * p.m.contract_multiplier * p.m.sigma ** 2 * p.tau * p.size ** (1 - k)) / p.level;
    return { r: Math.min(r, 1e125), urgency: k === 1 ? 2 * n * Math.asinh(Math.sqrt(r) / 2) : n * (r / k) ** (1 / (k + 1)) };
  }

  // Shares of the order traded in each slice at kappa T = u, constant coefficients and linear law: the closed form.
  function acShares(u, n) {
    u = Math.min(u, 2000 * n); // all at once long before
    const shares = new Array(n), whole = -Math.expm1(-2 * u);
    for (let j = 0; j < n; j++) {
      const end = j / n, middle = (j + 0.5) / n;
      shares[j] = u > 0 ? (Math.exp(-u * end) * -Math.expm1(-u / n) * (1 + Math.exp(-2 * u * (1 - middle)))) / whole : 1 / n;
    }
    return shares;
  }

  // The optimum from the conditions it keeps: from a last costate c backward, y_j where the marginal cost is c_j, then
  // c_{j-1} = c_j + 2 r_{j-1} z_{j-1}. What is held at the start rises with c; c is where it is the order.
  function shoot(p, r) {
    const { n, k, impact, cap, bend } = p, y = new Array(n);
    const room = cap.reduce((a, c) => a + Math.min(c, 1), 0);
    if (!(room >= 1 - n * 2.3e-16)) return null; // the caps leave no room for the order
    const turn = (j) => (bend > 0 ? ((k * (k + 1) * impact[j]) / bend) ** (1 / (1 - k)) : Infinity);
    if (bend > 0 && cap.some((c, j) => c > 0 && Math.min(c, 1) > turn(j))) return null; // beyond convexity
    const slice = (j, c) => {
      let x = (c / ((1 + k) * impact[j])) ** (1 / k);
      if (bend > 0) {
        const top = turn(j);
        for (let i = 0; i < 60 && x < top; i++) { // Newton from below on a concave function: it does not overshoot
          const miss = c - (1 + k) * impact[j] * x ** k + bend * x, step = miss / ((1 + k) * k * impact[j] * x ** (k - 1) - bend);
          if (!(step > 1e-16 * x)) break;
          x += step;
        }
        x = Math.min(x, top);
      }
      return Math.min(cap[j], x);
    };
    const held = (c, last) => {
      let z = 0;
      for (let j = last; j >= 0; j--) {
        z += y[j] = cap[j] > 0 ? slice(j, c) : 0;
        if (z > 1e3) return z;
        if (j) c += 2 * r * p.risk[j - 1] * z;
      }
      return z;
    };
    let last = n - 1, low = Math.log(1e-300), high = Math.log(2 * (1 + k) * Math.max(...impact));
    // Where even the smallest last costate overshoots, what the last slices trade is nothing.
    while (last > 0 && held(Math.exp(low), last) > 1) y[last--] = 0;
    for (let i = 0; i < 80 && high - low > 1e-15; i++) {
      const middle = (low + high) / 2;
      if (held(Math.exp(middle), last) > 1) high = middle;
      else low = middle;
    }
    const total = held(Math.exp((low + high) / 2), last);
    for (let j = last + 1; j < n; j++) y[j] = 0;
    return y.map((v) => v / total);
  }
  // Linear law without binding caps: what is held is proportional to the last costate, one sweep is enough.
  function sweep(p, r) {
    const { n, impact, cap } = p, y = new Array(n);
    let c = 1, z = 0;
    for (let j = n - 1; j >= 0; j--) {
      z += y[j] = cap[j] > 0 ? c / (2 * impact[j]) : 0;
      if (j) c += 2 * r * p.risk[j - 1] * z;
      if (c > 1e150) {
        for (let i = j; i < n; i++) y[i] /= 1e150;
        c /= 1e150;
        z /= 1e150;
      }
    }
    return y.map((v) => v / z);
  }

  // What a schedule costs: expected cost [currency], its variance [currency^2], both in bps of the arrival notional.
  function priced(p, shares, urgency) {
    const { m, n, k, size } = p;
    let temporary = 0, squares = 0, variance = 0, left = 0, half = 0;
    // From the end, so that what is held is a sum of small things and no difference of large ones.
    for (let j = n - 1; j >= 0; j--) {
      temporary += p.impact[j] * shares[j] ** (1 + k);
      squares += shares[j] * shares[j];
      variance += p.risk[j] * left * left;
      if (left <= 0.5 && left + shares[j] > 0.5) half = (j + 1 - (0.5 - left) / shares[j]) * p.tau;
      left += shares[j];
    }
    const mult = m.contract_multiplier, gamma = (m.gamma * size * size) / 2;
    const expected = (m.epsilon * size + gamma - (p.bend > 0 ? gamma * squares : 0) + p.level * size ** (1 + k) * temporary) * mult;
    const of = m.sigma ** 2 * p.tau * size * size * variance * mult * mult, notional = size * m.price * mult;
    return { urgency, shares, half_life: half, expected_cost: expected, cost_variance: of,
      expected_cost_bps: (expected / notional) * 1e4, cost_sd_bps: (Math.sqrt(of) / notional) * 1e4 };
  }

  // The schedules: optimal at a level of the grid; null where the caps leave no room.
  function optimal(p, level) {
    const { r, urgency } = risk(p, level);
    const shares = p.even && p.k === 1 ? acShares(urgency, p.n) : p.linear ? sweep(p, r) : shoot(p, r);
    return shares && priced(p, shares, urgency);
  }
  const twap = (p) => priced(p, new Array(p.n).fill(1 / p.n), 0);
  const atOnce = (p) => priced(p, Array.from({ length: p.n }, (_, j) => (j ? 0 : 1)), null);
  const vwap = (p, hours) => priced(p, hours ? hours.volume : new Array(p.n).fill(1 / p.n), 0);
  const holdings = (shares) => {
    const left = new Array(shares.length + 1).fill(0);
    for (let j = shares.length - 1; j >= 0; j--) left[j] = left[j + 1] + shares[j];
    return left;
  };
  return { sliceWeights, profile, problem, risk, acShares, optimal, twap, atOnce, vwap, holdings };
})();
