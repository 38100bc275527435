"use strict";
(() => {
const maySteer = document.currentScript.dataset.steer === "yes";
const token = location.hash.slice(1);
const at = id => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const LONGEST = 600;
let chosen = "", since = 0, data = null, plots = [], reserve = null, cursor = null;

const seconds = v => v == null ? "–" : v < 1e-3 ? Math.round(v * 1e6) + " µs" : v < 1 ? Math.round(v * 1e3) + " ms" : v + " s";
const whole = v => v == null ? "–" : String(Math.round(v * 100) / 100);
const percent = v => v == null ? "–" : v.toFixed(2) + " %";
const colours = () => dark.matches
  ? {ink: "#a2abb5", grid: "#343a41", promise: "#ffb74d", spare: "#64b5f6", out: "#81c784", line: "#ba68c8", p99: "#ff8a80", soft: "#64b5f6"}
  : {ink: "#5b6570", grid: "#e3e6ea", promise: "#b35c00", spare: "#1f6fc4", out: "#2e7d32", line: "#7b2d9b", p99: "#b3261e", soft: "#1f6fc4"};

// One plot each: title, which columns of the data, how they look, how numbers are written.
const specs = c => [
  {title: "Promised, spare, out", columns: [1, 2, 3], format: whole, series: [
    {label: "promised", stroke: c.promise, width: 2, paths: uPlot.paths.stepped({align: 1})},
    {label: "spare", stroke: c.spare, width: 1.5, fill: c.spare + "33"},
    {label: "out", stroke: c.out, width: 1.5, dash: [6, 3]}]},
  {title: "Callers in the line", columns: [4], format: whole, series: [
    {label: "in line", stroke: c.line, width: 1.5, fill: c.line + "33", paths: uPlot.paths.stepped({align: 1})}]},
  {title: "Waits of the last 10 s", columns: [5, 6], format: seconds, log: true, series: [
    {label: "p50", stroke: c.soft, width: 1.5, dash: [6, 3], spanGaps: false, points: {show: true, size: 4}},
    {label: "p99", stroke: c.p99, width: 1.5, spanGaps: false, points: {show: true, size: 4}}]},
  {title: "Failures of the source a second, memory pressure", columns: [7, 8], format: whole, second: true, series: [
    {label: "failures/s", stroke: c.p99, width: 1.5, fill: c.p99 + "22"},
    {label: "pressure", stroke: c.soft, width: 1.5, dash: [6, 3], scale: "%", value: (_, v) => percent(v)}]},
];

function axes(spec, c) {
  const common = {stroke: c.ink, grid: {stroke: c.grid, width: 1}, ticks: {stroke: c.grid, width: 1}, font: "11px system-ui"};
  const list = [{...common, space: 70, incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600], values: (_, at) => at.map(s => new Date(1000 * s).toTimeString().slice(0, 8))}, {...common, size: 54, values: (_, vs) => vs.map(v => v == null ? "" : spec.format(v))}];
  if (spec.second) list.push({...common, scale: "%", side: 1, size: 58, grid: {show: false}, values: (_, vs) => vs.map(v => v + " %")});
  return list;
}

function range(spec) {
  if (spec.log) return (u, low, high) => low == null ? [1e-4, 1] : uPlot.rangeLog(Math.min(low, 1e-4), Math.max(high, 1e-3), 10, true);
  return (u, low, high) => [0, Math.max(1, (high || 0) * 1.1)];
}

function build() {
  const c = colours(), box = at("plots");
  for (const plot of plots) plot.destroy();
  box.replaceChildren();
  plots = specs(c).map(spec => {
    const figure = box.appendChild(document.createElement("figure"));
    figure.appendChild(document.createElement("figcaption")).textContent = spec.title;
    const scales = {x: {time: true}, y: {range: range(spec), distr: spec.log ? 3 : 1}};
    if (spec.second) scales["%"] = {range: (u, low, high) => [0, Math.max(1, (high || 0) * 1.1)]};
    const plot = new uPlot({
      width: Math.max(200, figure.clientWidth - 18), height: 190, scales, axes: axes(spec, c),
      cursor: {sync: {key: "mempool", setSeries: false}, drag: {x: false, y: false}},
      series: [{label: "time", value: "{HH}:{mm}:{ss}"}, ...spec.series.map(s => ({value: (_, v) => spec.format(v), points: {show: false}, ...s}))],
    }, columns(spec.columns), figure);
    plot.of = spec.columns;
    return plot;
  });
}

const columns = which => data ? [data[0], ...which.map(i => data[i])] : [[], ...which.map(() => [])];

function show(report) {
  at("fault").textContent = report.fault || (report.pools.length ? "" : "No process shows a pool. Run a program with MEMPOOL_WATCH=numbers.");
  const select = at("pool");
  const options = report.pools.map(p => [p.key, `${p.name} (${p.program}): ${p.state}`]);
  if (JSON.stringify(options) !== select.dataset.shown) {
    select.replaceChildren(...options.map(([key, text]) => new Option(text, key, false, key === report.chosen)));
    select.dataset.shown = JSON.stringify(options);
  }
  if (report.chosen !== chosen || !data) { chosen = report.chosen; data = null; }
  select.value = chosen;
  if (report.series.length && report.series[0].length) {
    data = data ? data.map((column, i) => column.concat(report.series[i]).slice(-LONGEST)) : report.series;
    since = data[0][data[0].length - 1];
  }
  const now = report.pools.find(p => p.key === chosen);
  at("state").textContent = now ? now.state : "";
  at("state").className = now && now.state !== "ok" ? "bad" : "";
  at("why").textContent = report.why;
  at("said").textContent = report.said ? "Last: " + report.said : "Nothing has happened since this server looks.";
  reserve = report.numbers.promised;
  at("numbers").replaceChildren(...Object.entries(report.numbers).map(([name, value]) => {
    const box = document.createElement("div");
    box.appendChild(document.createElement("dt")).textContent = name;
    box.appendChild(document.createElement("dd")).textContent = name === "p99 of waits" ? seconds(value) : value == null ? "none" : String(value);
    return box;
  }));
  for (const plot of plots) plot.setData(columns(plot.of));
}

async function look() {
  try {
    const answer = await fetch(`/data?pool=${encodeURIComponent(chosen)}&since=${data ? since : 0}`, {headers: {"X-Mempool-Token": token}});
    const report = await answer.json();
    if (answer.ok) show(report); else at("fault").textContent = report.error;
  } catch (error) {
    at("fault").textContent = "mempool web does not answer any more: " + error.message;
  }
  setTimeout(look, 1000);
}

at("pool").addEventListener("change", event => { chosen = event.target.value; data = null; });
at("plots").addEventListener("keydown", event => {
  if (!data || !data[0].length) return;
  const last = data[0].length - 1;
  if (event.key === "ArrowLeft") cursor = Math.max(0, (cursor ?? last + 1) - 1);
  else if (event.key === "ArrowRight") cursor = Math.min(last, (cursor ?? last - 1) + 1);
  else if (event.key === "Escape") cursor = null;
  else return;
  event.preventDefault();
  for (const plot of plots) plot.setCursor(cursor == null ? {left: -10, top: -10} : {left: plot.valToPos(data[0][cursor], "x"), top: 20}, false);
});
if (maySteer) {
  at("steer").hidden = false;
  at("steer").addEventListener("submit", async event => {
    event.preventDefault();
    const wanted = at("reserve").value;
    if (!/^[0-9]+$/.test(wanted)) { at("fault").textContent = "a reserve is a whole number"; return; }
    const answer = await fetch("/resize", {method: "POST", headers: {"X-Mempool-Token": token, "Content-Type": "application/json"},
      body: JSON.stringify({pool: chosen, reserve: Number(wanted), expect: reserve})});
    const report = await answer.json();
    at("said").textContent = answer.ok ? `Resized: ${report.promised} promised, ${report.unfunded} unfunded.` : report.error;
  });
}
dark.addEventListener("change", build);
new ResizeObserver(() => plots.forEach(plot =>
  plot.setSize({width: Math.max(200, plot.root.parentElement.clientWidth - 18), height: 190}))).observe(at("plots"));
build();
look();
})();
