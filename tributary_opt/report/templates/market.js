// One market: its frontier, schedules, history, profile, response and costs.
"use strict";
const days = (h) => `${figure(h)} trading day${h === 1 ? "" : "s"}`;
const saidLevel = (l) => (l.kind === "urgency" ? `urgency κT = ${figure(l.value)}` : `λ = ${figure(l.value)} /currency`);
const PERCENT_95 = 1.959963984540054;

function controls() {
  const middle = (list) => Math.floor((list.length - 1) / 2);
  const options = (id, texts, pick) => $(id).replaceChildren(...texts.map((t, i) => element("option", t, { value: i, ...(i === pick ? { selected: "" } : {}) })));
  options("size", grid.order_sizes_pct_adv.map((s) => `${figure(s)} % of ADV`), middle(grid.order_sizes_pct_adv));
  options("horizon", grid.horizons.map(days), 0);
  options("risk", grid.risk_levels.map(saidLevel), middle(grid.risk_levels));
  for (const id of ["size", "horizon", "risk"]) $(id).addEventListener("change", () => chosen >= 0 && trading(chosen));
}
function choose(i) {
  chosen = i;
  for (const tr of $("markets").tBodies[0].rows) tr.setAttribute("aria-selected", Number(tr.dataset.i) === i);
  $("detail").hidden = false;
  detail();
  $("detail").scrollIntoView({ block: "start" });
}
function detail() {
  const i = chosen;
  $("h-detail").textContent = named(M.market_id[i], cell("token_id", i));
  $("verdict").textContent = [M.status[i], cell("grade", i) && `grade ${M.grade[i]}`, cell("reason", i), cell("detail", i), cell("grade_reason", i),
    cell("kind", i), cell("calendar", i) && `calendar ${M.calendar[i]}`, cell("method", i) && `method ${M.method[i]}`].filter(Boolean).join(" · ");
  trading(i);
  past(i);
  hours(i);
  response(i);
  costs(i);
  $("columns").replaceChildren(element("tbody"));
  for (const c of D.columns) {
    const tr = element("tr"), exact = D.markets[c.name].kind !== "number" || D.markets[c.name].values.kind === "f8";
    tr.append(element("th", c.name, { scope: "row", title: c.meaning }), element("td", figure(M[c.name][i], exact ? 6 : 5), { class: "n", title: figure(M[c.name][i], exact ? 17 : 5) }),
      element("td", unit(c.unit)), element("td", c.meaning, { class: "meaning" }));
    $("columns").tBodies[0].append(tr);
  }
}

// --- frontier and schedules ---------------------------------------------------------------------------------------
const market = (i) => Object.fromEntries([...["eta", "gamma", "sigma", "epsilon", "price", "adv", "alpha", "reference_rate"].map((c) => [c, cell(c, i)]),
  ["contract_multiplier", missing(cell("contract_multiplier", i)) ? 1 : M.contract_multiplier[i]]]);
const usable = (i) => M.status[i] === "ok" && !missing(M.eta[i]) && M.adv[i] > 0 && M.price[i] > 0;
const capped = () => grid.max_participation != null || grid.max_slice != null;
function horizonOf(i, horizon_ix) {
  const h = D.published ? D.published.until[i * grid.horizons.length + horizon_ix] : NaN;
  return missing(h) ? grid.horizons[horizon_ix] : h;
}
function setting(horizon) {
  return { horizon, n: grid.n_steps, law: grid.impact_law, alpha: grid.alpha ?? 0.5, maxParticipation: grid.max_participation ?? null, maxSlice: grid.max_slice ?? null,
    permanent: grid.permanent === "by_law" ? (grid.impact_law === "power" ? "midprice" : "paper") : grid.permanent };
}
// The strategies of the tables, by the names they have there: {label, look, profile, at(level)}; null where nothing is left.
function strategies(i, size_ix, horizon_ix) {
  const horizon = horizonOf(i, horizon_ix), m = market(i), size = (grid.order_sizes_pct_adv[size_ix] / 100) * m.adv;
  if (!(horizon > 0)) return null;
  const s = setting(horizon), sessions = D.sessions[M.calendar[i]] || [];
  const known = model.profile(sessions, cell("volume_profile", i), cell("variance_profile", i), horizon, s.n);
  const clock = model.problem(m, size, s), volume = model.problem(m, size, s, known);
  const of = { };
  if (capped()) {
    const kept = model.problem(m, size, s, known, true);
    of.almgren_chriss_capped = { label: "Almgren-Chriss, capped", short: "A-C capped", colour: "ac", dash: "solid", at: (level) => model.optimal(kept, level) };
  } else {
    of.almgren_chriss = { label: "Almgren-Chriss", short: "A-C", colour: "ac", dash: "solid", at: (level) => model.optimal(clock, level) };
    of.almgren_chriss_volume_time = { label: "Almgren-Chriss, volume time", short: "A-C volume time", colour: "volume", dash: "longdash", at: (level) => model.optimal(volume, level) };
  }
  of.twap = { label: "TWAP", colour: "twap", dash: "dash", symbol: "square", at: () => model.twap(clock) };
  of.vwap = { label: "VWAP", colour: "vwap", dash: "dot", symbol: "diamond", at: () => model.vwap(volume, known) };
  of.market_order = { label: "market order", colour: "at_once", dash: "dashdot", symbol: "x", at: () => model.atOnce(clock) };
  for (const [name, strategy] of Object.entries(of)) strategy.profile = known && /volume|vwap|capped/.test(name) ? "volume" : "clock";
  return { of, size, horizon, n: s.n };
}
function statusOf(i, strategy, size_ix, risk_ix, horizon_ix) {
  const p = D.published;
  if (!p) return null;
  if (!p.place) {
    p.place = new Map(p.rows.map((row, k) => [row.join(), k]));
    p.nth = new Map();
    for (let k = 0; k < N; k++) if (M.status[k] === "ok") p.nth.set(k, p.nth.size);
    p.codes = array(p.status);
  }
  const k = p.place.get([strategy, size_ix, risk_ix, horizon_ix].join());
  return k === undefined || !p.nth.has(i) ? null : p.statuses[p.codes[p.nth.get(i) * p.rows.length + k]];
}
function trading(i) {
  const size_ix = Number($("size").value), risk_ix = Number($("risk").value), horizon_ix = Number($("horizon").value), level = grid.risk_levels[risk_ix];
  const all = usable(i) ? strategies(i, size_ix, horizon_ix) : null;
  for (const id of ["c-frontier", "c-schedule"]) $(id).closest("figure").hidden = !all;
  for (const id of ["size", "horizon", "risk"]) $(id).disabled = !usable(i);
  $("figures").closest("div").hidden = !all;
  $("order").textContent = "";
  if (usable(i) && !all) $("order").textContent = "Nothing is left of this horizon before the market resolves: no schedules.";
  if (!all) return;
  const optimal = (strategy) => strategy.symbol === undefined;
  const now = Object.entries(all.of).map(([name, strategy]) => ({ name, ...strategy, found: strategy.at(level),
    status: statusOf(i, name, size_ix, optimal(strategy) ? risk_ix : -1, horizon_ix) }));
  $("order").textContent = `${figure(all.size)} contracts over ${days(all.horizon)} in ${all.n} slices, ${saidLevel(level)}`
    + (all.horizon < grid.horizons[horizon_ix] ? "; the market resolves before the horizon of the grid is over." : ".");
  const names = D.schedule_columns, columns = [["strategy", "Strategy"], ["expected_cost_bps", "Cost [bps]", 1], ["cost_sd_bps", "Risk [bps]", 1], ["urgency", "Urgency κT", 1],
    ["half_life", "Half done after [day]", 1], ["cost_profile", "Reckoned by"], ["status", "Published as"]];
  const body = element("tbody"), tr = element("tr"), thead = element("thead");
  for (const [key, label, n] of columns) tr.append(element("th", label, { scope: "col", class: n ? "n" : "", title: tip(names[key]) }));
  thead.append(tr);
  for (const s of now) {
    const row = element("tr"), f = s.found || {};
    row.append(element("th", s.label, { scope: "row" }));
    for (const [key, , n] of columns.slice(1)) row.append(element("td", figure(key === "cost_profile" ? s.profile : key === "status" ? s.status ?? "–" : f[key]), { class: n ? "n" : "" }));
    body.append(row);
  }
  $("figures").replaceChildren(thead, body);

  draw("c-frontier", () => {
    const top = Math.max(30, ...grid.risk_levels.filter((l) => l.kind === "urgency").map((l) => Math.min(1e3, l.value))), steps = all.n > 200 ? 30 : 80;
    const ladder = Array.from({ length: steps + 1 }, (_, u) => ({ kind: "urgency", value: u ? 0.05 * (top / 0.05) ** (u / steps) : 0 }));
    const xy = (list) => ({ x: list.map((p) => p.cost_sd_bps), y: list.map((p) => p.expected_cost_bps) });
    const hover = "risk %{x:.4g} bps<br>cost %{y:.4g} bps<extra>%{fullData.name}</extra>", traces = [], y = [];
    for (const s of now.filter(optimal)) {
      const line = ladder.map(s.at).filter(Boolean), points = grid.risk_levels.map((l) => [l, s.at(l)]).filter(([, p]) => p);
      traces.push({ ...xy(line), name: `${s.short || s.label}`, mode: "lines", line: { color: COLOUR[s.colour], width: 2, dash: s.dash }, hovertemplate: hover },
        { ...xy(points.map(([, p]) => p)), name: `${s.short || s.label}: grid`, showlegend: false, mode: "markers", marker: { color: COLOUR[s.colour], size: 9, symbol: s.dash === "solid" ? "circle" : "triangle-up" },
          text: points.map(([l]) => saidLevel(l)), hovertemplate: `${s.label}<br>%{text}<br>risk %{x:.4g} bps<br>cost %{y:.4g} bps<extra></extra>` });
      if (s.found) traces.push({ ...xy([s.found]), name: "chosen", showlegend: s.dash === "solid", mode: "markers", marker: { color: COLOUR.other, size: 16, symbol: "circle-open", line: { width: 3 } }, hovertemplate: hover });
      y.push(...line.map((p) => p.expected_cost_bps));
    }
    for (const s of now.filter((s) => !optimal(s))) {
      traces.push({ ...xy([s.found]), name: s.label, mode: "markers", marker: { color: COLOUR[s.colour], symbol: s.symbol, size: 11 }, hovertemplate: hover });
      y.push(s.found.expected_cost_bps);
    }
    return [traces, { xaxis: { ...title("risk: standard deviation of cost [bps]"), rangemode: "tozero" },
      yaxis: { ...title("expected cost [bps]"), ...(y.every((v) => v > 0) ? { type: "log", dtick: "D2", tickformat: "~g" } : {}) } }];
  });
  draw("c-schedule", () => {
    const t = Array.from({ length: all.n + 1 }, (_, j) => (j * all.horizon) / all.n);
    return [now.filter((s) => s.found).map((s) => ({ x: t, y: model.holdings(s.found.shares).map((h) => 100 * h), name: s.short || s.label, mode: "lines", line: { color: COLOUR[s.colour], dash: s.dash, width: 2.5 },
      hovertemplate: "after %{x:.3f} days %{y:.2f} % held<extra>%{fullData.name}</extra>" })),
    { xaxis: title("trading days from the start"), yaxis: { ...title("held [% of the order]"), range: [-2, 103] } }];
  });
}

// --- what was measured --------------------------------------------------------------------------------------------
function past(i) {
  const H = D.history, names = ["sigma", "epsilon", "eta", "gamma"], letters = { sigma: "σ", epsilon: "ε", eta: "η", gamma: "γ" };
  H.unpacked = H.unpacked || Object.fromEntries(Object.entries(H.values).map(([k, place]) => [k, array(place)]));
  const of = (p) => H.nights.map((_, d) => { const v = H.unpacked[p][d * N + i]; return missing(v) ? null : v; });
  draw("c-history", () => {
    const traces = [], layout = { grid: { rows: 1, columns: 4, pattern: "independent", xgap: 0.22 }, showlegend: false, margin: { l: 62, r: 12, t: 40, b: 40 }, annotations: [] };
    names.forEach((p, k) => {
      const y = of(p), low = of(`${p}_low`), high = of(`${p}_high`), a = k ? k + 1 : "";
      const away = (end, sign) => end.map((v, d) => (v === null || y[d] === null ? 0 : Math.max(0, sign * (v - y[d]))));
      traces.push({ x: H.nights, y, mode: "lines+markers", xaxis: `x${a}`, yaxis: `y${a}`, name: p, marker: { color: COLOUR.ac, symbol: ["circle", "square", "diamond", "triangle-up"][k], size: 8 }, line: { color: COLOUR.ac },
        error_y: { type: "data", symmetric: false, array: away(high, 1), arrayminus: away(low, -1), color: COLOUR.at_once, thickness: 1.5, visible: [...low, ...high].some((v) => v !== null) },
        hovertemplate: "%{x}: %{y:.4g}<extra>" + p + "</extra>" });
      layout[`xaxis${a}`] = { type: "category", tickangle: -35, nticks: 5 };
      layout[`yaxis${a}`] = { rangemode: "tozero", tickformat: "~g", exponentformat: "e", nticks: 6 };
      layout.annotations.push(panel(k, `${letters[p]} [${unit(about[p] ? about[p].unit : "")}]`));
    });
    return [traces, layout];
  });
  $("left-out").hidden = !H.left_out.length;
  $("left-out").textContent = `Left out: ${H.left_out.join("; ")}.`;
}
const panel = (k, text) => ({ text, showarrow: false, xref: `x${k ? k + 1 : ""} domain`, yref: `y${k ? k + 1 : ""} domain`, x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" });
function hours(i) {
  const v = cell("volume_profile", i), s = cell("variance_profile", i);
  $("c-profile").closest("figure").hidden = !v && !s;
  if (v || s) draw("c-profile", () => {
    const traces = [], clock = Array.from({ length: 24 }, (_, h) => h), hover = "hour %{x}: %{y:.2f} %<extra>%{fullData.name}</extra>", percent = (w) => Array.from(w, (x) => 100 * x);
    if (v) traces.push({ type: "bar", x: clock, y: percent(v), name: "volume", marker: { color: COLOUR.vwap }, hovertemplate: hover });
    if (s) traces.push({ x: clock, y: percent(s), name: "variance", mode: "lines+markers", line: { color: COLOUR.at_once, dash: "dash" }, marker: { symbol: "diamond" }, hovertemplate: hover });
    return [traces, { xaxis: { ...title("hour"), dtick: 3 }, yaxis: { ...title("share of the day [%]"), rangemode: "tozero" } }];
  });
}
// Move of the mid after signed flow, a panel for each bucket length: the line and what its error leaves open.
function response(i) {
  const measured = D.impact_buckets.map((minutes) => [minutes, cell(`response_${minutes}m`, i), cell(`response_${minutes}m_se`, i)]);
  const shown = usable(i) && measured.some(([, r]) => !missing(r));
  $("c-response").closest("figure").hidden = !shown;
  if (shown) draw("c-response", () => {
    const flow = [0, 1], bps = (slope) => flow.map((f) => ((slope * (f / 100) * M.adv[i]) / M.price[i]) * 1e4), traces = [];
    const layout = { grid: { rows: 1, columns: measured.length, pattern: "independent", xgap: 0.16 }, margin: { l: 62, r: 12, t: 40, b: 40 }, annotations: [] };
    let low = 0, high = 0;
    measured.forEach(([minutes, r, se], k) => {
      const a = k ? k + 1 : "", on = { xaxis: `x${a}`, yaxis: `y${a}`, x: flow, mode: "lines", hovertemplate: "%{x:.3g} % of ADV: %{y:.4g} bps<extra>%{fullData.name}</extra>" };
      if (!missing(r) && !missing(se)) traces.push({ ...on, y: bps(r - PERCENT_95 * se), line: { width: 1, dash: "dot", color: COLOUR.ac }, name: "95 % band", legendgroup: "band", showlegend: false },
        { ...on, y: bps(r + PERCENT_95 * se), fill: "tonexty", fillcolor: COLOUR.band, line: { width: 1, dash: "dot", color: COLOUR.ac }, name: "95 % band", legendgroup: "band", showlegend: k === 0 });
      if (!missing(r)) traces.push({ ...on, y: bps(r), line: { color: COLOUR.ac, width: 2.5 }, name: "measured response", legendgroup: "line", showlegend: k === 0 });
      traces.push({ ...on, y: bps(M.gamma[i]), line: { color: COLOUR.at_once, width: 2, dash: "dash" }, name: "γ of the row", legendgroup: "gamma", showlegend: k === 0 });
      for (const trace of traces) { low = Math.min(low, ...trace.y); high = Math.max(high, ...trace.y); }
      layout[`xaxis${a}`] = { ...title("signed flow [% of ADV]"), nticks: 4 };
      layout[`yaxis${a}`] = { nticks: 6, ...(k ? {} : title("move of the mid [bps]")) };
      layout.annotations.push(panel(k, missing(r) ? `${minutes} min: no estimate` : `${minutes} min`));
    });
    measured.forEach((_, k) => (layout[`yaxis${k ? k + 1 : ""}`].range = [low - 0.04 * (high - low), high + 0.04 * (high - low)]));
    return [traces, layout];
  });
}
const LAWS = { cost_law_bps: "default law", cost_tape_bps: "this tape, linear", cost_rule_bps: "1 % / 10 % rule", cost_square_root_bps: "square root", cost_walk_bps: "one slice at once" };
const plainly = (i) => ({ no_depth: "they have no depth (no_depth)", too_thin: "a tenth or more of the looks hold less (too_thin)" })[M.walk_reason[i]] || M.walk_reason[i];
function costs(i) {
  const laws = D.columns.map((c) => c.name).filter((c) => /^cost_.*_bps$/.test(c) && !missing(M[c][i])), walked = (c) => c === "cost_walk_bps";
  $("c-cost").closest("figure").hidden = !usable(i);
  $("c-laws").closest("figure").hidden = !laws.length;
  if (laws.length) draw("c-laws", () => [[{ type: "bar", orientation: "h", y: laws.map((c) => LAWS[c] || c.slice(5, -4).replace(/_/g, " ")), x: laws.map((c) => M[c][i]),
    marker: { color: laws.map((c) => (walked(c) ? COLOUR.at_once : COLOUR.ac)), pattern: { shape: laws.map((c) => (walked(c) ? "/" : "")) } },
    text: laws.map((c) => `${figure(M[c][i], 3)} bps`), textposition: "outside", cliponaxis: false, hovertext: laws.map((c) => plain(about[c].meaning)), hoverinfo: "text" }],
  { yaxis: { autorange: "reversed" }, xaxis: { ...title("bps"), rangemode: "tozero" }, margin: { l: 56, r: 70, t: 8, b: 44 } }]);
  $("walk").textContent = missing(cell("walk_cost", i)) ? cell("walk_reason", i) && `No order was walked through the recorded books: ${plainly(i)}.`
    : `Walked through the recorded books: ${figure(M.walk_size[i])} contracts at once cost ${figure(M.walk_cost[i])} a contract [price], ${figure(M.walk_half_spreads[i], 3)} half-spreads; `
      + `${figure(100 * M.walk_share[i], 3)} % of the looks with depth hold such an order.`;
  if (usable(i)) draw("c-cost", () => {
    const m = market(i), rates = Array.from({ length: 41 }, (_, j) => j / 2), bps = (eta) => rates.map((r) => ((m.epsilon + eta * (r / 100) * m.adv) / m.price) * 1e4);
    const low = cell("eta_low", i), high = cell("eta_high", i), traces = [];
    if (low > 0 && high > 0) {
      traces.push({ x: rates, y: bps(low), mode: "lines", line: { width: 1, dash: "dot", color: COLOUR.ac }, name: "95 % of η, low" },
        { x: rates, y: bps(high), mode: "lines", fill: "tonexty", fillcolor: COLOUR.band, line: { width: 1, dash: "dash", color: COLOUR.ac }, name: "95 % of η, high" });
    }
    traces.push({ x: rates, y: bps(m.eta), mode: "lines", line: { color: COLOUR.ac, width: 2.5 }, name: "linear law" });
    const { alpha, reference_rate: ref } = m;
    if (alpha > 0 && alpha < 1 && ref > 0) traces.push({ x: rates, mode: "lines", line: { color: COLOUR.vwap, width: 2.5, dash: "dashdot" }, name: `power law, exponent ${figure(alpha)}`,
      y: rates.map((r) => ((m.epsilon + m.eta * ref * (((r / 100) * m.adv) / ref) ** alpha) / m.price) * 1e4) });
    for (const trace of traces) trace.hovertemplate = "%{x:.3g} % of ADV per day: %{y:.4g} bps<extra>%{fullData.name}</extra>";
    return [traces, { xaxis: title("rate [% of ADV per day]"), yaxis: { ...title("cost per contract [bps]"), rangemode: "tozero" } }];
  });
}
begin().catch((error) => {
  document.getElementById("fault").hidden = false;
  document.getElementById("fault").textContent = `The page could not be shown: ${error.message}`;
  throw error;
});
