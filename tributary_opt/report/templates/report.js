"use strict";
const $ = (id) => document.getElementById(id);
const PAGE = 25, PAPER = 200; // rows of the table of markets: on a screen with pages, on paper without
let D, M, N, about, grid, array; // content, columns of the markets, how many, what the columns mean, settings
let chosen = -1;

// --- words and numbers ----------------------------------------------------------------------------------------
const UNITS = { "price/day^0.5": "price/√day", "currency^2": "currency²", "contracts price": "contracts·price" };
const unit = (u) => (u && u !== "-" ? UNITS[u] || u : "");
const tip = (c) => (c ? c.meaning + (unit(c.unit) ? ` [${unit(c.unit)}]` : "") : "");
const missing = (v) => v === null || v === undefined || v === "" || v !== v;
function figure(v, digits = 4) {
  if (missing(v)) return "–";
  if (typeof v !== "number") return typeof v === "object" ? Array.from(v, (x) => figure(x, 3)).join(", ") : String(v);
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
const cell = (name, i) => (M[name] ? M[name][i] : null); // null, or NaN, where there is none
const named = (market, token) => (missing(token) || token === market ? market : `${market} / ${token}`);

// --- overview ---------------------------------------------------------------------------------------------------
function overview() {
  $("changes").textContent = D.changes === null ? "There was no release before."
    : Object.entries(D.changes).map(([k, n]) => `${k}: ${n.toLocaleString("en-GB")}`).join(" · ");
  if (D.movers.length) sortable($("movers"), [["parameter", "Parameter"], ["market", "Market"], ["before", "Before", 1], ["now", "Now", 1], ["per_cent", "Change [%]", 1]],
    D.movers.map((r) => ({ ...r, parameter: `${r.parameter} [${unit((about[r.parameter] || {}).unit)}]`, market: named(r.market_id, r.token_id) })));
  $("jumps-box").hidden = !D.jumps.n;
  $("jumped").textContent = `Splits, changes of units and the like in the windows of ${D.jumps.n.toLocaleString("en-GB")} markets, the newest first.`;
  if (D.jumps.n) sortable($("jumps"), [["market", "Market"], ["jump", "What happened"]], D.jumps.newest.map((r) => ({ ...r, market: named(r.market_id, r.token_id) })));
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
  if (missing(a)) return missing(b) ? 0 : 1;
  if (missing(b)) return -1;
  const c = typeof a === "number" && typeof b === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
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
let COLUMNS = [], haystack = [], order = [], by = null, down = true, at = 0;

function table() {
  const p = D.published, of = p && p.cost_of, cost = p && `published cost of ${figure(grid.order_sizes_pct_adv[of.size_ix])} % of ADV over ${days(grid.horizons[of.horizon_ix])}, `
    + `${saidLevel(grid.risk_levels[of.risk_ix])}, ${of.strategy.replace(/_/g, " ")}`;
  COLUMNS = [["market_id", "Market"], ["token_id", "Token"], ["status", "Status"], ["grade", "Grade"], ["reason", "Reason"], ["price", "Price", 1], ["adv", "ADV", 1],
    ["spread", "Spread", 1], ["sigma", "σ", 1], ["eta", "η", 1], ["gamma", "γ", 1], ["_cost", p ? `Cost of ${figure(grid.order_sizes_pct_adv[of.size_ix])} %` : "", 1]]
    .filter(([c]) => M[c] && (c !== "token_id" || M.token_id.some((t, i) => t !== M.market_id[i])))
    .map(([key, label, n]) => ({ key, label, n, unit: key === "_cost" ? "bps" : unit(about[key].unit).replace(/^price$/, key === "price" ? "" : "price"), tip: key === "_cost" ? `${cost} [bps]` : tip(about[key]) }));
  haystack = Array.from({ length: N }, (_, i) => ["market_id", "token_id", "reason", "grade", "kind", "method"].map((c) => cell(c, i) || "").join("\n").toLowerCase());
  $("search").addEventListener("input", filter);
  $("status").addEventListener("change", filter);
  $("back").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  filter();
}
function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), status = $("status").value;
  order = [];
  for (let i = 0; i < N; i++) if ((!status || M.status[i] === status) && words.every((w) => haystack[i].includes(w))) order.push(i);
  if (by !== null) {
    const values = M[by];
    order.sort((a, b) => compare(values[a], values[b], down) || a - b);
  }
  at = 0;
  rows();
}
function rows(focus) {
  const table = $("markets"), pages = Math.max(1, Math.ceil(order.length / PAGE)), first = onPaper ? 0 : at * PAGE;
  table.tHead.replaceWith(head(COLUMNS, by, down, (key) => {
    [by, down] = [key, by === key ? !down : key !== "market_id" && key !== "token_id"];
    filter();
    table.querySelector(`button[data-key="${key}"]`).focus();
  }));
  const body = table.tBodies[0], shown = order.slice(first, first + (onPaper ? PAPER : PAGE));
  body.replaceChildren(...shown.map((i, k) => {
    const tr = element("tr", null, { tabindex: k === (focus ?? 0) ? "0" : "-1", "aria-selected": i === chosen, "data-i": i });
    for (const c of COLUMNS) tr.append(element("td", figure(M[c.key][i]), c.n ? { class: "n" } : { title: M[c.key][i] ?? "" }));
    return tr;
  }));
  $("count").textContent = `${order.length.toLocaleString("en-GB")} of ${N.toLocaleString("en-GB")} markets`;
  $("page").textContent = `page ${at + 1} of ${pages}`;
  $("printed").textContent = printed(shown.length);
  $("back").disabled = at === 0;
  $("next").disabled = at >= pages - 1;
  if (focus !== undefined && body.rows[focus]) body.rows[focus].focus();
}
// What a reader of paper, who cannot search, should know of the rows that are there.
function printed(n) {
  const words = $("search").value.trim(), status = $("status").value, sorted = COLUMNS.find((c) => c.key === by), said = (n) => n.toLocaleString("en-GB");
  const which = [words && `“${words}”`, status && `status ${status}`].filter(Boolean).join(" and ");
  return (n < order.length ? `First ${said(n)} of ` : "") + `${said(order.length)} markets` + (which ? `, of ${said(N)} those with ${which}` : "")
    + (sorted ? `, by ${sorted.label}, ${down ? "falling" : "rising"}.` : ", in the order of their names.");
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

// --- from the data to the page ------------------------------------------------------------------------------------
function columnOf(place, width) {
  if (place.kind === "text") return unpackedWords(place.values);
  if (place.kind === "number") return array(place.values);
  const whole = array(place.values), w = place.width;
  return Array.from({ length: N }, (_, i) => (w && whole[i * w] === whole[i * w] ? whole.subarray(i * w, (i + 1) * w) : null));
}
let unpackedWords;
async function begin() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for the page: it cannot unpack gzip (all can since 2023)");
  const data = await unpacked("data");
  [D, array, unpackedWords] = [data.content, data.array, data.words];
  N = D.n;
  about = Object.fromEntries(D.columns.map((c) => [c.name, c]));
  grid = { order_sizes_pct_adv: [1], risk_levels: [{ kind: "urgency", value: 1 }], horizons: [1], n_steps: 48, permanent: "paper", impact_law: "linear", ...D.grid };
  M = {};
  for (const c of D.columns) lazily(M, c.name, () => columnOf(D.markets[c.name]));
  if (D.published) {
    lazily(M, "_cost", () => array(D.published.cost));
    lazily(D.published, "until", () => array(D.published.horizons));
  }
  table();
  document.documentElement.dataset.ready = "table"; // the table can be used from here on
  controls();
  overview();
  document.documentElement.dataset.ready = "all";
}
