// Charts: drawn by plotly when they are first seen, and again when the theme changes.
"use strict";
// Okabe and Ito's colours, told apart by colour-blind eyes; dashes and markers say the same again. Where the blue would
// be too dim for a dark page it is the lighter one.
const PALETTE = {
  light: { ac: "#0072B2", volume: "#16191D", twap: "#E69F00", vwap: "#009E73", at_once: "#D55E00", other: "#CC79A7", band: "rgba(0,114,178,.18)" },
  dark: { ac: "#56B4E9", volume: "#ECEFF2", twap: "#E69F00", vwap: "#00B98A", at_once: "#F0793A", other: "#E39BC4", band: "rgba(86,180,233,.25)" },
};
const COLOUR = Object.defineProperties({}, Object.fromEntries(Object.keys(PALETTE.light).map((name) =>
  [name, { get: () => PALETTE[document.documentElement.dataset.theme][name] }])));
const colour = (v) => getComputedStyle(document.documentElement).getPropertyValue(v).trim();
const title = (text) => ({ title: { text, standoff: 8 } });
// Plotly reads a little HTML in its texts; the data must stay text.
const plain = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const prefers = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = prefers.matches ? "dark" : "light";
const charts = new Map(), seen = new Set(), stale = new Set();
let plotly = null; // the promise of it
let onPaper = false;
function withPlotly() {
  // Reading its script keeps the page busy for a second or two: what has been chosen is shown first.
  const shown = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  plotly = plotly || inflated("plotly").then(async (bytes) => {
    await shown();
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(bytes);
    document.head.append(script);
  });
  return plotly;
}
const watch = new IntersectionObserver((entries) => {
  for (const e of entries) {
    if (!e.isIntersecting) seen.delete(e.target.id);
    else {
      seen.add(e.target.id);
      paint(e.target.id);
    }
  }
}, { rootMargin: "300px" });
for (const e of document.querySelectorAll(".chart")) {
  e.setAttribute("role", "img");
  e.setAttribute("aria-label", e.closest("figure").querySelector("figcaption").textContent);
  watch.observe(e);
}

// What a chart shows: `make` gives traces and layout when it is to be seen.
function draw(id, make) {
  charts.set(id, make);
  spoil(id);
  if (seen.has(id)) paint(id);
}
function spoil(id) {
  stale.add(id);
  delete document.getElementById(id).dataset.drawn;
}
async function paint(id) {
  if (!stale.has(id)) return;
  await withPlotly();
  paintNow(id);
}
function paintNow(id) {
  if (!stale.has(id) || typeof Plotly === "undefined") return;
  stale.delete(id);
  const [traces, layout] = charts.get(id)();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, title: { standoff: 8 } };
  const full = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: 56, r: 12, t: 8, b: 44 }, showlegend: traces.length > 1, legend: { orientation: "h", y: -0.22, x: 0 },
    hoverlabel: { font: { size: 12 } }, ...layout,
  };
  for (const key of Object.keys(full)) if (/^[xy]axis\d*$/.test(key)) full[key] = { ...axis, ...full[key] };
  full.xaxis = full.xaxis || axis;
  full.yaxis = full.yaxis || axis;
  if (onPaper) [full.width, full.height] = [document.getElementById(id).clientWidth, document.getElementById(id).clientHeight]; // at once: plotly looks at the width later
  Plotly.react(id, traces, full, { displaylogo: false, responsive: true, displayModeBar: false });
  document.getElementById(id).dataset.drawn = "now";
}
// All again, in the colours of now: at once those on the screen, or on paper; the others when they are seen.
function repaint(whole = false) {
  for (const id of charts.keys()) {
    spoil(id);
    if (seen.has(id) || (whole && document.getElementById(id).offsetParent)) paintNow(id);
  }
}

// --- light, dark, paper -------------------------------------------------------------------------------------------
const wear = (theme, whole = false) => {
  document.documentElement.dataset.theme = theme;
  repaint(whole);
};
let theme = null; // the one chosen by the button
function paper(on) {
  onPaper = on;
  document.documentElement.classList.toggle("paper", on);
  if (document.documentElement.dataset.ready) rows();
  wear(on ? "light" : theme || (prefers.matches ? "dark" : "light"), true);
}
document.getElementById("theme").addEventListener("click", () => wear((theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark")));
prefers.addEventListener("change", () => theme || wear(prefers.matches ? "dark" : "light"));
addEventListener("beforeprint", () => paper(true));
addEventListener("afterprint", () => paper(false));
