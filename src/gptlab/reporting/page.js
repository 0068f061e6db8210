"use strict";
// the page's own script: sorts, filters and folds the table, and draws what plotly.js is given
const $ = (id) => document.getElementById(id);
const all = (query, within = document) => [...within.querySelectorAll(query)];
const body = document.querySelector("#runs tbody");
const groups = all("tr.group", body).map((row) => ({
  row, seeds: all(`tr.seed[data-group="${row.dataset.group}"]`, body),
}));

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// the table ---------------------------------------------------------------------------------------------------------
function fold(group, open) {
  const button = group.row.querySelector("button.fold");
  if (button) { button.textContent = open ? "▾" : "▸"; button.setAttribute("aria-expanded", open); }
  group.open = open;
  for (const seed of group.seeds) seed.classList.toggle("hidden", !open || group.row.classList.contains("hidden"));
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const group of groups) {
    const text = [group.row, ...group.seeds].map((row) => row.textContent.toLowerCase()).join(" ");
    group.row.classList.toggle("hidden", !words.every((word) => text.includes(word)));
    fold(group, group.open);
  }
}

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
}

function sort(head) {
  const column = [...head.parentNode.children].indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (group) => group.row.children[column].dataset.value ?? "";
  groups.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === "" || y === "" ? compare(x, y) : (down ? -1 : 1) * compare(x, y);
  });
  for (const group of groups) body.append(group.row, ...group.seeds);
}

for (const head of all("th[data-sort]")) {
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(head); });
}
for (const group of groups) {
  fold(group, false);
  group.row.querySelector("button.fold")?.addEventListener("click", () => fold(group, !group.open));
}
$("filter").addEventListener("input", filter);
$("unfold").addEventListener("change", () => groups.forEach((group) => fold(group, $("unfold").checked)));

const chosen = () => new Set(all("input.choose:checked", body).map((box) => Number(box.dataset.group)));
function choose(changed) {
  const kept = chosen();
  for (const row of all(".samples tr")) row.classList.toggle("hidden", !kept.has(Number(row.dataset.group)));
  changed?.();
}
function chooseBy(rule, changed) {
  groups.forEach((group, i) => { group.row.querySelector(".choose").checked = rule(group, i); });
  choose(changed);
}

// the charts --------------------------------------------------------------------------------------------------------
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const colour = (group) => COLOURS[group % COLOURS.length];
const dash = (group) => DASHES[Math.floor(group / COLOURS.length) % DASHES.length];
const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [text, line, page] = ["--text", "--line", "--page"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return { text, page, axis };
}
function layout(x, y) {
  const { text, page, axis } = theme();
  return {
    xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y }, font: { color: text, family: "system-ui, sans-serif", size: 12 },
    paper_bgcolor: page, plot_bgcolor: page, margin: { l: 55, r: 10, t: 10, b: 45 }, hovermode: "closest",
    showlegend: false, hoverlabel: { namelength: -1, align: "left" },
  };
}
const OPTIONS = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

function read(run, step) {  // tokens; in each stage steps have a size of their own, in sizes of the first
  const [at, before, size] = run.stages.findLast((stage) => stage[0] <= step);
  return (before + (step - at) * size) * run.tokens;
}
function positions(run, steps, axis) {
  if (axis === "steps") return steps;
  if (axis === "tokens") return steps.map((step) => (run.tokens ? read(run, step) : null));
  if (axis === "flops") return steps.map((step) => (run.tokens && run.flops ? read(run, step) * run.flops : null));
  const [at, seconds] = run.clock;
  return steps.map((step) => {  // linear between logs, and on at the last speed
    if (!at.length) return null;
    let i = at.findIndex((each) => each >= step);
    if (i === 0) return (seconds[0] * step) / at[0];
    if (i < 0) i = at.length - 1;
    const [a, b] = i ? [i - 1, i] : [0, 0];
    const speed = at[b] > at[a] ? (seconds[b] - seconds[a]) / (at[b] - at[a]) : seconds[b] / Math.max(1, at[b]);
    return seconds[b] + speed * (step - at[b]);
  });
}
function smooth(values, weight) {  // exponential, corrected for its start
  let mean = 0, total = 0;
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}
function at([steps, values], step) {  // linear between the steps of a curve
  const i = steps.findIndex((each) => each >= step);
  if (i <= 0 || steps[i] === step) return values[Math.max(i, 0)];
  return values[i - 1] + ((values[i] - values[i - 1]) * (step - steps[i - 1])) / (steps[i] - steps[i - 1]);
}
function overSeeds(runs, metric, axis, weight) {  // mean and standard error at the steps that all seeds have reached
  const curves = runs.map((run) => run.curves[metric]);
  const [from, to] = [Math.max(...curves.map(([s]) => s[0])), Math.min(...curves.map(([s]) => s[s.length - 1]))];
  const steps = curves[0][0].filter((step) => from <= step && step <= to);
  const columns = curves.map((curve) => smooth(steps.map((step) => at(curve, step)), weight));
  const mean = steps.map((_, i) => columns.reduce((sum, column) => sum + column[i], 0) / columns.length);
  const error = steps.map((_, i) => (columns.length < 2 ? 0 : Math.sqrt(
    columns.reduce((sum, column) => sum + (column[i] - mean[i]) ** 2, 0) / (columns.length - 1) / columns.length)));
  return { x: positions(runs[0], steps, axis), mean, error };
}

function drawCurves(data) {
  const [metric, axis, weight] = [$("metric").value, $("axis").value, Number($("smooth").value)];
  const kept = chosen(), traces = [];
  data.groups.forEach((label, group) => {
    const runs = data.runs.filter((run) => run.group === group && run.curves[metric]);
    if (!kept.has(group) || !runs.length) return;
    const line = { color: colour(group), dash: dash(group), width: 2 };
    if ($("seeds").checked && runs.length > 1) {
      const { x, mean, error } = overSeeds(runs, metric, axis, weight);
      const edge = (sign) => ({
        x, y: mean.map((y, i) => y + sign * error[i]), mode: "lines", line: { width: 0 }, hoverinfo: "skip",
        ...(sign > 0 ? { fill: "tonexty", fillcolor: colour(group) + "33" } : {}),
      });
      const name = escaped(`${label} (${runs.length} seeds)`);
      traces.push(edge(-1), edge(1), { x, y: mean, mode: "lines", name, line, customdata: error,
        hovertemplate: "%{y:.4g} ± %{customdata:.2g} at %{x:.4s}" });
    } else {
      for (const run of runs) {
        const [steps, values] = run.curves[metric];
        traces.push({ x: positions(run, steps, axis), y: smooth(values, weight), name: escaped(run.name), line,
          mode: steps.length < 30 ? "lines+markers" : "lines", marker: { size: 4 }, hovertemplate: "%{y:.4g} at %{x:.4s}" });
      }
    }
  });
  const type = (box) => ($(box).checked ? "log" : "linear");
  Plotly.react("curves", traces, layout({ title: { text: data.axes[axis] }, type: type("logx") },
    { title: { text: data.metrics[metric] }, type: type("logy") }), OPTIONS);
}

function drawFinal(data) {  // the mean of each group's seeds with its standard error, one line for each family; crosses: pruned
  const key = $("varied")?.value, lines = new Map(), values = new Map();
  if (!key) return;
  for (const run of data.runs) values.set(run.family, (values.get(run.family) ?? new Set()).add(run.asked[key]));
  data.groups.forEach((label, group) => {
    const run = data.runs.find((each) => each.group === group);
    const [mean, error, seeds] = data.means[group];
    if (mean === null || values.get(run.family).size < 2) return;
    const rest = Object.entries(run.asked).filter(([name]) => name !== key && name !== "seed").map(([, value]) => value);
    const line = JSON.stringify([run.family, rest]);
    lines.set(line, [...(lines.get(line) ?? []), { x: run.asked[key], mean, error, seeds, label, group }]);
  });
  const place = (x) => (typeof x === "number" ? x : String(x));
  const traces = [...lines.values()].map((points, i) => {
    points.sort((a, b) => compare(String(a.x), String(b.x)));
    return { x: points.map((p) => place(p.x)), y: points.map((p) => p.mean), mode: "lines+markers",
      error_y: { array: points.map((p) => p.error ?? 0), thickness: 1.2 }, line: { color: colour(i), width: 1.5 },
      text: points.map((p) => escaped(`${p.label} (${p.seeds})`)), marker: { size: 8, color: points.map((p) => colour(p.group)) },
      hovertemplate: "%{y:.4f}<br>%{text}<extra></extra>" };
  });
  const pruned = data.runs.filter((run) => run.pruned && run.score !== null && values.get(run.family).size > 1);
  if (pruned.length) {
    traces.push({ x: pruned.map((run) => place(run.asked[key])), y: pruned.map((run) => run.score), mode: "markers",
      marker: { symbol: "x-thin", size: 7, line: { width: 1.5, color: "#8c8c8c" } }, text: pruned.map((run) => escaped(run.name)),
      hovertemplate: "%{y:.4f} when it was pruned<br>%{text}<extra></extra>" });
  }
  const xs = [...lines.values()].flat().map((p) => p.x).concat(pruned.map((run) => run.asked[key]));
  const numeric = xs.every((x) => typeof x === "number");
  const wide = numeric && Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) >= 8;
  Plotly.react("final", traces, layout({ title: { text: escaped(key) }, type: wide ? "log" : numeric ? "linear" : "category" },
    { title: { text: "final " + data.score.axis } }), OPTIONS);
}

function drawBest(data) {
  const runs = data.order.map((i) => data.runs[i]).filter((run) => run.finished && run.score !== null);
  const x = runs.map((_, i) => i + 1), scores = runs.map((run) => run.score), best = [];
  scores.forEach((score, i) => {
    best.push(i && data.score.sign * best[i - 1] <= data.score.sign * score ? best[i - 1] : score);
  });
  const { text } = theme();
  Plotly.react("best", [
    { x, y: best, mode: "lines", line: { shape: "hv", color: text, width: 1.5 }, hoverinfo: "skip" },
    { x, y: scores, mode: "markers", marker: { size: 8, color: runs.map((run) => colour(run.group)) },
      text: runs.map((run) => escaped(run.name)), hovertemplate: "%{y:.4f}<br>%{text}<extra></extra>" },
  ], layout({ title: { text: "finished runs, in the order they were started" } },
    { title: { text: "final " + data.score.axis } }), OPTIONS);
}

// the settings of two runs -------------------------------------------------------------------------------------------
function drawDifferences(data) {
  const [a, b] = [data.runs[$("first").value], data.runs[$("second").value]];
  const row = (cells, tag) => {
    const line = document.createElement("tr");
    for (const cell of cells) line.append(Object.assign(document.createElement(tag), { textContent: cell }));
    return line;
  };
  const keys = Object.keys(a.settings).filter((key) => a.settings[key] !== b.settings[key]);
  const rows = keys.map((key) => row([key, a.settings[key], b.settings[key]], "td"));
  if (!rows.length) rows.push(row(["nothing differs", "", ""], "td"));
  $("differ").replaceChildren(row(["key", a.name, b.name], "th"), ...rows);
}

async function start() {
  const data = JSON.parse(await unpack("data"));
  for (const id of ["first", "second"]) {
    data.runs.forEach((run, i) => $(id).add(new Option(run.name, i)));
    $(id).addEventListener("input", () => drawDifferences(data));
  }
  $("second").selectedIndex = data.runs.findIndex((run) => run.group !== data.runs[0].group);
  if ($("second").selectedIndex < 0) $("second").selectedIndex = data.runs.length - 1;
  drawDifferences(data);
  let draw = () => {};
  if ($("library")) {
    const script = document.createElement("script");
    script.textContent = await unpack("library");
    document.head.append(script);
    draw = () => { drawCurves(data); drawFinal(data); drawBest(data); };
    for (const [name, axis] of Object.entries(data.metrics)) $("metric").add(new Option(name, name));
    for (const [key, name] of Object.entries(data.axes)) $("axis").add(new Option(name, key));
    for (const key of Object.keys(data.varied)) $("varied")?.add(new Option(key, key));
    for (const id of ["metric", "axis", "smooth", "seeds", "logx", "logy"]) $(id).addEventListener("input", () => drawCurves(data));
    $("varied")?.addEventListener("input", () => drawFinal(data));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
  for (const box of all("input.choose", body)) box.addEventListener("change", () => choose(draw));
  $("all").addEventListener("click", () => chooseBy(() => true, draw));
  $("none").addEventListener("click", () => chooseBy(() => false, draw));
  $("best8").addEventListener("click", () => chooseBy((group) => Number(group.row.dataset.group) < 8, draw));
  $("shown").addEventListener("click", () => chooseBy((group) => !group.row.classList.contains("hidden"), draw));
  for (const dot of all(".dot")) dot.style.background = colour(Number(dot.dataset.group));
  choose(draw);
}
start();
