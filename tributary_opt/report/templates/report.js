"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const M = D.markets, N = (M.market_id || []).length;
const about = Object.fromEntries(D.columns.map((c) => [c.name, c]));
// Okabe and Ito's colours, told apart by colour-blind eyes; dashes and markers say the same again.
const COLOUR = { ac: "#0072B2", twap: "#E69F00", vwap: "#009E73", at_once: "#D55E00", other: "#CC79A7" };
const PAGE = 25;
let chosen = -1;

// --- words and numbers ----------------------------------------------------------------------------------------
const UNITS = { price: "price", "price/day^0.5": "price/√day", "price/(contract/day)": "price/(contract/day)" };
const unit = (u) => (u && u !== "-" ? UNITS[u] || u : "");
const tip = (name) => (about[name] ? about[name].meaning + (unit(about[name].unit) ? ` [${unit(about[name].unit)}]` : "") : "");
function figure(v, digits = 4) {
  if (v === null || v === undefined || (typeof v === "number" && !isFinite(v))) return "–";
  if (typeof v !== "number") return Array.isArray(v) ? v.map((x) => figure(x, 3)).join(", ") : String(v);
  if (Number.isInteger(v) && Math.abs(v) < 1e15) return v.toLocaleString("en-GB");
  const a = Math.abs(v);
  return a >= 1e6 || a < 1e-4 ? v.toExponential(digits - 1) : a >= 1000
    ? v.toLocaleString("en-GB", { maximumFractionDigits: 1 }) : String(Number(v.toPrecision(digits)));
}
function element(tag, text, attributes = {}) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = text;
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}
const name = (i) => (M.token_id[i] === null || M.token_id[i] === M.market_id[i] ? M.market_id[i] : `${M.market_id[i]} / ${M.token_id[i]}`);
// Plotly reads a little HTML in its texts; the data must stay text.
const plain = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// --- charts ---------------------------------------------------------------------------------------------------
const colour = (v) => getComputedStyle(document.documentElement).getPropertyValue(v).trim();
const drawn = new Map();
function draw(id, traces, layout) {
  drawn.set(id, [traces, layout]);
  if (typeof Plotly === "undefined") return; // not read yet: `begin` draws it
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, title: { standoff: 8 } };
  const full = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: 56, r: 12, t: 8, b: 44 }, showlegend: traces.length > 1, legend: { orientation: "h", y: -0.22, x: 0 },
    hoverlabel: { font: { size: 12 } }, ...layout,
  };
  for (const key of Object.keys(full)) if (/^[xy]axis\d*$/.test(key)) full[key] = { ...axis, ...full[key] };
  full.xaxis = full.xaxis || axis;
  full.yaxis = full.yaxis || axis;
  // eslint-disable-next-line no-undef
  return Plotly.react(id, traces, full, { displaylogo: false, responsive: true, displayModeBar: false });
}
const redraw = () => drawn.forEach(([traces, layout], id) => draw(id, traces, layout));
const title = (text) => ({ title: { text, standoff: 8 } });

function overview() {
  const verdicts = [...Object.entries(D.grades).sort().map(([k, n]) => [`grade ${k}`, n, COLOUR.ac])];
  if (!verdicts.length) verdicts.push(["calibrated", M.status.filter((s) => s === "ok").length, COLOUR.ac]);
  verdicts.push(...Object.entries(D.reasons).map(([k, n]) => [k, n, COLOUR.at_once]));
  const bars = (rows, hover) => [{
    type: "bar", orientation: "h", y: rows.map((r) => plain(r[0])), x: rows.map((r) => r[1]), marker: { color: rows.map((r) => r[2] || COLOUR.ac) },
    text: rows.map((r) => figure(r[1], 3)), textposition: "auto", hovertemplate: hover,
  }];
  draw("c-verdicts", bars(verdicts, "%{y}: %{x} markets<extra></extra>"), { yaxis: { autorange: "reversed" }, xaxis: title("markets") });
  draw("c-timings", bars(Object.entries(D.timings).map(([k, s]) => [k, s]), "%{y}: %{x:.2f} s<extra></extra>"), { yaxis: { autorange: "reversed" }, xaxis: title("s") });
  const quality = ["coverage", "two_sided_share", "signed_share"].filter((c) => M[c]);
  draw("c-quality", quality.map((c, i) => {
    const v = M[c].filter((x, j) => x !== null && M.status[j] === "ok").map((x) => 100 * x).sort((a, b) => a - b);
    const at = (q) => (v.length ? v[Math.min(v.length - 1, Math.floor(q * v.length))] : null);
    return { type: "box", name: c.replace(/_/g, " "), x: [c.replace(/_/g, " ")], q1: [at(0.25)], median: [at(0.5)], q3: [at(0.75)], lowerfence: [at(0.05)], upperfence: [at(0.95)],
      marker: { color: [COLOUR.ac, COLOUR.twap, COLOUR.vwap][i] }, boxpoints: false };
  }), { showlegend: false, yaxis: { ...title("% (whiskers: 5 % and 95 %)"), range: [-2, 102] } });
  $("changes").textContent = D.changes === null ? "There was no release before."
    : Object.entries(D.changes).map(([k, n]) => `${k}: ${n.toLocaleString("en-GB")}`).join(" · ");
  if (D.movers.length) sortable($("movers"), [["parameter", "Parameter"], ["market", "Market"], ["before", "Before", 1], ["now", "Now", 1], ["per_cent", "Change [%]", 1]], D.movers.map((r) => ({ ...r, market: r.token_id && r.token_id !== r.market_id ? `${r.market_id} / ${r.token_id}` : r.market_id })));
}

function sortable(table, columns, rows) {
  let by = null, down = true;
  const show = () => {
    const sorted = by === null ? rows : [...rows].sort((a, b) => compare(a[by], b[by], down));
    table.replaceChildren(head(columns.map(([key, label, n]) => ({ key, label, n })), by, down, (key) => {
      [by, down] = [key, by === key ? !down : true];
      show();
      table.querySelector(`button[data-key="${key}"]`).focus();
    }), element("tbody"));
    for (const row of sorted) {
      const tr = element("tr");
      for (const [key, , n] of columns) tr.append(element("td", figure(row[key]), n ? { class: "n" } : { title: String(row[key]) }));
      table.tBodies[0].append(tr);
    }
  };
  show();
}
function compare(a, b, down) {
  if (a === null || a === undefined || a === "") return b === null || b === undefined || b === "" ? 0 : 1;
  if (b === null || b === undefined || b === "") return -1;
  const c = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return down ? -c : c;
}
function head(columns, by, down, onSort) {
  const thead = element("thead"), tr = element("tr");
  for (const c of columns) {
    const th = element("th", null, { scope: "col", class: c.n ? "n" : "", "aria-sort": by === c.key ? (down ? "descending" : "ascending") : "none" });
    const button = element("button", c.label + (by === c.key ? (down ? " ▼" : " ▲") : ""), { type: "button", "data-key": c.key, title: c.tip || "" });
    if (c.unit) button.append(element("small", c.unit));
    button.addEventListener("click", () => onSort(c.key));
    th.append(button);
    tr.append(th);
  }
  thead.append(tr);
  return thead;
}

// --- the table of markets ---------------------------------------------------------------------------------------
const grid = { order_sizes_pct_adv: [1], risk_levels: [{ kind: "urgency", value: 1 }], horizons: [1], n_steps: 48, permanent: "paper", ...D.grid };
const permanent = grid.permanent === "midprice" || (grid.permanent === "by_law" && grid.impact_law === "power") ? "midprice" : "paper";
const market = (i) => ({ eta: M.eta[i], gamma: M.gamma[i], sigma: M.sigma[i], epsilon: M.epsilon[i], price: M.price[i], contract_multiplier: M.contract_multiplier ? M.contract_multiplier[i] ?? 1 : 1 });
const usable = (i) => M.status[i] === "ok" && M.eta[i] !== null && M.adv[i] > 0 && M.price[i] > 0;
const ONE = "cost of 1 % of ADV over one trading day at urgency 1, under the linear law";
M._cost = Array.from({ length: N }, (_, i) => usable(i) ? model.ac(market(i), 0.01 * M.adv[i], { kind: "urgency", value: 1 }, 1, 48, permanent).expected_cost_bps : null);
const COLUMNS = [["market_id", "Market"], ["token_id", "Token"], ["status", "Status"], ["grade", "Grade"], ["reason", "Reason"], ["price", "Price", 1], ["adv", "ADV", 1], ["spread", "Spread", 1], ["sigma", "σ", 1], ["eta", "η", 1], ["gamma", "γ", 1], ["_cost", "Cost of 1 %", 1]]
  .filter(([c]) => M[c] && (c !== "token_id" || M.token_id.some((t, i) => t !== M.market_id[i])))
  .map(([key, label, n]) => ({ key, label, n, unit: key === "_cost" ? "bps" : unit(about[key].unit), tip: key === "_cost" ? ONE : tip(key) }));
const haystack = Array.from({ length: N }, (_, i) =>
  ["market_id", "token_id", "reason", "grade", "kind", "method"].map((c) => (M[c] && M[c][i]) || "").join("\n").toLowerCase());
let order = [], by = null, down = true, at = 0;

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), status = $("status").value;
  order = [];
  for (let i = 0; i < N; i++) if ((!status || M.status[i] === status) && words.every((w) => haystack[i].includes(w))) order.push(i);
  if (by !== null) order.sort((a, b) => compare(M[by][a], M[by][b], down) || a - b);
  at = 0;
  rows();
}
function rows(focus) {
  const table = $("markets"), pages = Math.max(1, Math.ceil(order.length / PAGE));
  table.tHead.replaceWith(head(COLUMNS, by, down, (key) => {
    [by, down] = [key, by === key ? !down : key !== "market_id" && key !== "token_id"];
    filter();
    table.querySelector(`button[data-key="${key}"]`).focus();
  }));
  const body = table.tBodies[0], shown = order.slice(at * PAGE, (at + 1) * PAGE);
  body.replaceChildren(...shown.map((i, k) => {
    const tr = element("tr", null, { tabindex: k === (focus ?? 0) ? "0" : "-1", "aria-selected": i === chosen, "data-i": i });
    for (const c of COLUMNS) tr.append(element("td", figure(M[c.key][i]), c.n ? { class: "n" } : { title: M[c.key][i] ?? "" }));
    return tr;
  }));
  $("count").textContent = `${order.length.toLocaleString("en-GB")} of ${N.toLocaleString("en-GB")} markets`;
  $("page").textContent = `page ${at + 1} of ${pages}`;
  $("back").disabled = at === 0;
  $("next").disabled = at >= pages - 1;
  if (focus !== undefined && body.rows[focus]) body.rows[focus].focus();
}
function turn(step, focus) { at += step; rows(focus); }
function move(tr) {
  for (const other of tr.parentElement.rows) other.tabIndex = -1;
  tr.tabIndex = 0;
  tr.focus();
}
$("markets").addEventListener("click", (e) => { const tr = e.target.closest("tr[data-i]"); if (tr) choose(Number(tr.dataset.i)); });
$("markets").addEventListener("keydown", (e) => {
  const tr = e.target.closest("tr[data-i]");
  if (!tr) return;
  const last = Math.ceil(order.length / PAGE) - 1;
  const act = {
    Enter: () => choose(Number(tr.dataset.i)), " ": () => choose(Number(tr.dataset.i)),
    ArrowDown: () => (tr.nextElementSibling ? move(tr.nextElementSibling) : at < last && turn(1, 0)),
    ArrowUp: () => (tr.previousElementSibling ? move(tr.previousElementSibling) : at > 0 && turn(-1, PAGE - 1)),
    PageDown: () => at < last && turn(1, 0), PageUp: () => at > 0 && turn(-1, 0),
    Home: () => move(tr.parentElement.rows[0]), End: () => move(tr.parentElement.rows[tr.parentElement.rows.length - 1]),
  }[e.key];
  if (act) { e.preventDefault(); act(); }
});
$("search").addEventListener("input", filter);
$("status").addEventListener("change", filter);
$("back").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));

// --- one market ---------------------------------------------------------------------------------------------------
const options = (id, texts, pick) => $(id).replaceChildren(...texts.map((t, i) => element("option", t, { value: i, ...(i === pick ? { selected: "" } : {}) })));
const middle = (list) => Math.floor((list.length - 1) / 2);
const saidLevel = (l) => (l.kind === "urgency" ? `urgency κT = ${figure(l.value)}` : `λ = ${figure(l.value)} /currency`);
options("size", grid.order_sizes_pct_adv.map((s) => `${figure(s)} % of ADV`), middle(grid.order_sizes_pct_adv));
options("horizon", grid.horizons.map((h) => `${figure(h)} trading day${h === 1 ? "" : "s"}`), 0);
options("risk", grid.risk_levels.map(saidLevel), middle(grid.risk_levels));
for (const id of ["size", "horizon", "risk"]) $(id).addEventListener("change", () => chosen >= 0 && detail());

function choose(i) {
  chosen = i;
  for (const tr of $("markets").tBodies[0].rows) tr.setAttribute("aria-selected", Number(tr.dataset.i) === i);
  $("detail").hidden = false;
  detail();
  $("detail").scrollIntoView({ block: "start" });
}
function detail() {
  const i = chosen, ok = usable(i);
  $("h-detail").textContent = name(i);
  $("verdict").textContent = [M.status[i], M.grade && M.grade[i] && `grade ${M.grade[i]}`, M.reason[i], M.detail && M.detail[i], M.grade_reason && M.grade_reason[i],
    M.kind && M.kind[i], M.calendar && `calendar ${M.calendar[i]}`, M.method && M.method[i] && `method ${M.method[i]}`].filter(Boolean).join(" · ");
  for (const id of ["c-frontier", "c-schedule", "c-response", "c-laws"]) $(id).closest("figure").hidden = !ok;
  for (const id of ["size", "horizon", "risk"]) $(id).disabled = !ok;
  $("figures").textContent = "";
  if (ok) trading(i);
  past(i);
  hours(i);
  $("columns").replaceChildren(element("tbody"));
  for (const c of D.columns) {
    const tr = element("tr");
    tr.append(element("th", c.name, { scope: "row", title: c.meaning }), element("td", figure(M[c.name][i], 6), { class: "n", title: figure(M[c.name][i], 17) }),
      element("td", unit(c.unit)), element("td", c.meaning, { class: "meaning" }));
    $("columns").tBodies[0].append(tr);
  }
}
function trading(i) {
  const m = market(i), horizon = grid.horizons[$("horizon").value], n = grid.n_steps, size = (grid.order_sizes_pct_adv[$("size").value] / 100) * M.adv[i];
  const level = grid.risk_levels[$("risk").value], args = [horizon, n, permanent];
  const ac = model.ac(m, size, level, ...args), twap = model.twap(m, size, ...args), once = model.atOnce(m, size, ...args);
  const profile = M.calendar && M.calendar[i] === "24/7" && M.volume_profile ? M.volume_profile[i] : null;
  const vwap = profile ? model.vwap(m, size, profile, ...args) : null;
  const curve = [], top = Math.max(30, ...grid.risk_levels.map((l) => Math.min(1e3, model.kappaT(m, l, ...args))));
  for (let u = 0; u <= 100; u++) curve.push(model.ac(m, size, { kind: "urgency", value: u ? 0.05 * (top / 0.05) ** (u / 100) : 0 }, ...args));
  const points = grid.risk_levels.map((l) => model.ac(m, size, l, ...args));
  const xy = (list) => ({ x: list.map((p) => p.cost_sd_bps), y: list.map((p) => p.expected_cost_bps) });
  const hover = "risk %{x:.4g} bps<br>cost %{y:.4g} bps<extra>%{fullData.name}</extra>";
  const marker = (name, p, c, symbol) => ({ ...xy([p]), name, mode: "markers", marker: { color: c, symbol, size: 11 }, hovertemplate: hover });
  draw("c-frontier", [
    { ...xy(curve), name: "frontier", mode: "lines", line: { color: COLOUR.ac, width: 2 }, hovertemplate: hover },
    { ...xy(points), name: "grid", mode: "markers", marker: { color: COLOUR.ac, size: 9, symbol: "circle" }, text: grid.risk_levels.map(saidLevel), hovertemplate: "%{text}<br>risk %{x:.4g} bps<br>cost %{y:.4g} bps<extra></extra>" },
    { ...xy([ac]), name: "chosen", mode: "markers", marker: { color: COLOUR.other, size: 16, symbol: "circle-open", line: { width: 3 } }, hovertemplate: hover },
    marker("TWAP", twap, COLOUR.twap, "square"), ...(vwap ? [marker("VWAP", vwap, COLOUR.vwap, "diamond")] : []), marker("market order", once, COLOUR.at_once, "x"),
  ], { xaxis: { ...title("risk: standard deviation of cost [bps]"), rangemode: "tozero" },
    yaxis: { ...title("expected cost [bps]"), type: [...curve, ...points, twap, once].every((p) => p.expected_cost_bps > 0) ? "log" : "linear" } });
  const t = Array.from({ length: n + 1 }, (_, j) => (j * horizon) / n);
  const held = (name, s, c, dash) => ({ x: t, y: model.holdings(s.shares).map((h) => 100 * h), name, mode: "lines", line: { color: c, dash, width: 2.5 },
    hovertemplate: "after %{x:.3f} days %{y:.2f} % held<extra>%{fullData.name}</extra>" });
  draw("c-schedule", [held("Almgren-Chriss", ac, COLOUR.ac, "solid"), held("TWAP", twap, COLOUR.twap, "dash"), ...(vwap ? [held("VWAP", vwap, COLOUR.vwap, "dot")] : []),
    held("market order", once, COLOUR.at_once, "dashdot")], { xaxis: title("trading days from the start"), yaxis: { ...title("held [% of the order]"), range: [-2, 103] } });
  $("figures").textContent = `${figure(size)} contracts over ${figure(horizon)} trading days in ${n} slices: Almgren-Chriss costs ${figure(ac.expected_cost_bps)} bps with a risk of ${figure(ac.cost_sd_bps)} bps `
    + `(κT ${figure(ac.urgency)}); TWAP ${figure(twap.expected_cost_bps)} bps, risk ${figure(twap.cost_sd_bps)} bps; market order ${figure(once.expected_cost_bps)} bps.`;

  const rates = Array.from({ length: 41 }, (_, j) => j / 2), bps = (eta) => rates.map((r) => ((m.epsilon + eta * (r / 100) * M.adv[i]) / m.price) * 1e4);
  const low = M.eta_low && M.eta_low[i], high = M.eta_high && M.eta_high[i], traces = [];
  if (low && high) {
    traces.push({ x: rates, y: bps(low), mode: "lines", line: { width: 1, dash: "dot", color: COLOUR.ac }, name: "95 % of η, low" },
      { x: rates, y: bps(high), mode: "lines", fill: "tonexty", fillcolor: "rgba(0,114,178,.18)", line: { width: 1, dash: "dash", color: COLOUR.ac }, name: "95 % of η, high" });
  }
  traces.push({ x: rates, y: bps(m.eta), mode: "lines", line: { color: COLOUR.ac, width: 2.5 }, name: "linear law" });
  const alpha = M.alpha && M.alpha[i], ref = M.reference_rate && M.reference_rate[i];
  if (alpha > 0 && alpha < 1 && ref > 0) traces.push({ x: rates, mode: "lines", line: { color: COLOUR.vwap, width: 2.5, dash: "dashdot" }, name: `power law, exponent ${figure(alpha)}`,
    y: rates.map((r) => ((m.epsilon + m.eta * ref * (((r / 100) * M.adv[i]) / ref) ** alpha) / m.price) * 1e4) });
  for (const trace of traces) trace.hovertemplate = "%{x:.3g} % of ADV per day: %{y:.4g} bps<extra>%{fullData.name}</extra>";
  draw("c-response", traces, { xaxis: title("rate [% of ADV per day]"), yaxis: { ...title("cost per contract [bps]"), rangemode: "tozero" } });

  const laws = D.columns.map((c) => c.name).filter((c) => /^cost_.*_bps$/.test(c) && M[c][i] !== null);
  $("f-laws").hidden = !laws.length;
  if (laws.length) draw("c-laws", [{ type: "bar", orientation: "h", y: laws.map((c) => c.slice(5, -4).replace(/_/g, " ")), x: laws.map((c) => M[c][i]), marker: { color: COLOUR.ac },
    text: laws.map((c) => `${figure(M[c][i], 3)} bps`), hovertext: laws.map((c) => plain(about[c].meaning)), hoverinfo: "text" }], { yaxis: { autorange: "reversed" }, xaxis: { ...title("bps"), rangemode: "tozero" } });
}
function past(i) {
  const H = D.history, names = ["sigma", "epsilon", "eta", "gamma"], letters = { sigma: "σ", epsilon: "ε", eta: "η", gamma: "γ" };
  const traces = [], layout = { grid: { rows: 1, columns: 4, pattern: "independent", xgap: 0.22 }, showlegend: false, margin: { l: 62, r: 12, t: 40, b: 40 }, annotations: [] };
  names.forEach((p, k) => {
    const y = H.values[p].map((v) => v[i]), high = H.values[`${p}_high`].map((v, d) => (v[i] === null || y[d] === null ? 0 : Math.max(0, v[i] - y[d])));
    const low = H.values[`${p}_low`].map((v, d) => (v[i] === null || y[d] === null ? 0 : Math.max(0, y[d] - v[i]))), a = k ? k + 1 : "";
    traces.push({ x: H.nights, y, mode: "lines+markers", xaxis: `x${a}`, yaxis: `y${a}`, name: p, marker: { color: COLOUR.ac, symbol: ["circle", "square", "diamond", "triangle-up"][k], size: 8 }, line: { color: COLOUR.ac },
      error_y: { type: "data", symmetric: false, array: high, arrayminus: low, color: COLOUR.at_once, thickness: 1.5, visible: high.some(Boolean) || low.some(Boolean) },
      hovertemplate: "%{x}: %{y:.4g}<extra>" + p + "</extra>" });
    layout[`xaxis${a}`] = { type: "category", tickangle: -35, nticks: 5 };
    layout[`yaxis${a}`] = { rangemode: "tozero", tickformat: "~g", exponentformat: "e", nticks: 6 };
    layout.annotations.push({ text: `${letters[p]} [${unit(about[p] ? about[p].unit : "")}]`, showarrow: false, xref: `x${a} domain`, yref: `y${a} domain`, x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" });
  });
  draw("c-history", traces, layout);
  $("left-out").hidden = !H.left_out.length;
  $("left-out").textContent = `Left out: ${H.left_out.join("; ")}.`;
}
function hours(i) {
  const traces = [], clock = Array.from({ length: 24 }, (_, h) => h), v = M.volume_profile && M.volume_profile[i], s = M.variance_profile && M.variance_profile[i];
  const hover = "hour %{x}: %{y:.2f} %<extra>%{fullData.name}</extra>";
  if (v) traces.push({ type: "bar", x: clock, y: v.map((x) => 100 * x), name: "volume", marker: { color: COLOUR.vwap }, hovertemplate: hover });
  if (s) traces.push({ x: clock, y: s.map((x) => 100 * x), name: "variance", mode: "lines+markers", line: { color: COLOUR.at_once, dash: "dash" }, marker: { symbol: "diamond" }, hovertemplate: hover });
  $("c-profile").closest("figure").hidden = !traces.length;
  if (traces.length) draw("c-profile", traces, { xaxis: { ...title("hour"), dtick: 3 }, yaxis: { ...title("share of the day [%]"), rangemode: "tozero" } });
}

// --- light, dark, paper -------------------------------------------------------------------------------------------
const prefers = matchMedia("(prefers-color-scheme: dark)");
const wear = (theme) => { document.documentElement.dataset.theme = theme; redraw(); };
let theme = null;
$("theme").addEventListener("click", () => wear((theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark")));
prefers.addEventListener("change", () => theme || wear(prefers.matches ? "dark" : "light"));
addEventListener("beforeprint", () => wear("light"));
addEventListener("afterprint", () => wear(theme || (prefers.matches ? "dark" : "light")));

document.documentElement.dataset.theme = prefers.matches ? "dark" : "light";
filter();
document.documentElement.dataset.ready = "table"; // the table can be used from here on
// Plotly's script comes after this one: reading it takes longer than all the rest.
function begin() {
  overview();
  if (chosen >= 0) detail();
  document.documentElement.dataset.ready = "all";
}
