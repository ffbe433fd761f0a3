// The page: reads the embedded report, draws charts and tables, follows the filters.
import * as charts from "./charts.js";
import * as cubes from "./cube.js";
import { all, byId, element, simpleTable } from "./dom.js";
import { startFilters } from "./filters.js";
import { amount, energy, mass, percent, range, UNKNOWN } from "./numbers.js";
import { sortableTable } from "./table.js";
import { startPrinting, startTheme } from "./theme.js";

const BARS = 15;
const PAPER = 680; // pixels between the margins of A4

const embedded = (id) => {
  const holder = byId(id);
  return holder ? JSON.parse(holder.textContent) : null;
};
const report = embedded("report");
const world = embedded("world");
const charted = new Map(); // host → how to draw it at a width

function chart(name, draw) {
  const host = document.querySelector(`[data-chart="${name}"]`);
  if (!host) return;
  charted.set(host, draw);
  drawInto(host);
}

function drawInto(host, paper) {
  const width = host.clientWidth > 0 ? (paper ?? Math.floor(host.clientWidth)) : 0;
  if (width > 0) host.replaceChildren(charted.get(host)(width));
}

function table(name, caption, headings, rows) {
  const host = document.querySelector(`[data-table="${name}"]`);
  if (host) host.replaceChildren(simpleTable(caption, headings, rows));
}

function legend(parts, whole) {
  return element("ul", { class: "legend" }, ...parts.map((part) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = part.colour;
    const share = part.known === false || part.value === null || !whole ? UNKNOWN : percent(part.value / whole);
    return element("li", {}, swatch, `${part.name} ${share}`);
  }));
}

function withLegend(parts, whole, title, width) {
  return element("div", {}, charts.shareBar(parts, { width, whole, title }), legend(parts, whole));
}

function empty(text) {
  return element("p", { class: "empty" }, text);
}

const idleOf = (sums) => cubes.plus(sums.cpu_reserved_idle_energy_kwh ?? null, sums.gpu_reserved_idle_energy_kwh ?? null);
const idleShare = (sums) => (sums.energy_kwh && idleOf(sums) !== null ? idleOf(sums) / sums.energy_kwh : null);
// Days do not always tell how their energy was obtained: then it is not known, and not 0.
const isUnknown = (value) => value === null || value === undefined;
const measuredShare = (sums) =>
  isUnknown(sums.energy_measured_kwh) || !sums.energy_kwh ? null : sums.energy_measured_kwh / sums.energy_kwh;
const bounds = (sums) => range(sums.emissions_low_g ?? null, sums.emissions_high_g ?? null, mass);
const qualityText = (sums) =>
  [["measured", sums.energy_measured_kwh], ["estimated", sums.energy_estimated_kwh], ["modelled", sums.energy_modelled_kwh]]
    .filter(([, kwh]) => kwh > 0)
    .map(([name, kwh]) => `${percent(kwh / sums.energy_kwh)} ${name}`)
    .join(", ") || "not known";

function describe(sums, extra = []) {
  const entries = [
    ["Emissions, location-based", `${mass(sums.emissions_g)} CO2e, between ${bounds(sums)}`],
    ["How it was obtained", `energy ${qualityText(sums)}`],
    ["Energy", `${energy(sums.energy_kwh)}: GPU ${energy(sums.gpu_energy_kwh)}, CPU ${energy(sums.cpu_energy_kwh)}, RAM ${energy(sums.ram_energy_kwh)}`],
    ["Reserved but idle", `${energy(idleOf(sums))} (${percent(idleShare(sums))} of the energy)`],
    ["GPU-hours", amount(sums.gpu_hours)],
    ...extra,
  ];
  return element("dl", { class: "facts" }, ...entries.map(([name, text]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, text))));
}

// Without filters a project's figures are those of the report; with them, sums of the cube.
function projectRows(filters) {
  const groups = cubes.isFiltered(filters) ? cubes.sums(report.cube, cubes.indexes(report.cube, filters), "project") : null;
  return report.projects
    .map((project, index) => ({ ...project, key: index, sums: groups ? groups.get(index) : project.totals }))
    .filter((row) => row.sums);
}

function drawProjects(rows, projectsTable) {
  const ranked = [...rows].sort((a, b) => (b.sums.emissions_g ?? -1) - (a.sums.emissions_g ?? -1)).slice(0, BARS);
  chart("projects", (width) => ranked.length
    ? charts.rankedBars(ranked.map((row) => ({ key: row.key, name: row.name, value: row.sums.emissions_g, low: row.sums.emissions_low_g, high: row.sums.emissions_high_g })), {
        width, title: "Emissions by project", description: `The ${ranked.length} largest, with lower and upper bounds. The table below has the numbers.` })
    : empty("No project has records in this selection."));
  projectsTable?.update(rows);
}

function periodPoints(filters) {
  const groups = cubes.sums(report.cube, cubes.indexes(report.cube, filters), "period");
  return [...groups].sort(([a], [b]) => a - b).map(([index, sums]) => ({ period: report.cube.periods[index], ...sums }));
}

function drawTime(points) {
  const period = report.cube.kind;
  const nothing = () => empty("No records in this selection.");
  chart("energy-days", (width) => (points.length ? charts.energyOverTime(points, { width, period }) : nothing()));
  chart("emissions-days", (width) => (points.length ? charts.emissionsOverTime(points, { width, period }) : nothing()));
  table("days", `Per ${period}`, [period === "day" ? "Day (UTC)" : "Month (UTC)", "Emissions", "Bounds", "Energy", "GPU", "CPU", "RAM"], points.map((point) => [
    point.period, mass(point.emissions_g), bounds(point), energy(point.energy_kwh), energy(point.gpu_energy_kwh), energy(point.cpu_energy_kwh), energy(point.ram_energy_kwh)]));
}

function drawComponents(sums) {
  const parts = charts.COMPONENTS.map(([key, name, colour]) => ({ name, value: sums[key] ?? 0, colour, known: sums[key] !== null && sums[key] !== undefined }));
  const whole = parts.reduce((sum, part) => sum + part.value, 0);
  chart("components", (width) => (whole > 0 ? withLegend(parts, whole, "Energy by component", width) : empty("No energy is known in this selection.")));
  table("components", "Energy by component", ["Component", "Energy", "Share", "Emissions"], parts.map((part, index) => [
    part.name, part.known ? energy(part.value) : UNKNOWN, part.known && whole ? percent(part.value / whole) : UNKNOWN,
    part.known ? mass(cubes.emissionsOf(sums[charts.COMPONENTS[index][0]], sums)) : UNKNOWN]));
}

function drawIdle(sums) {
  const gpu = sums.gpu_reserved_idle_energy_kwh ?? null;
  const cpu = sums.cpu_reserved_idle_energy_kwh ?? null;
  const used = sums.energy_kwh === null || sums.energy_kwh === undefined ? null : Math.max(0, sums.energy_kwh - (gpu ?? 0) - (cpu ?? 0));
  const parts = [
    { name: "Used", value: used, colour: "var(--accent)", grams: cubes.emissionsOf(used, sums) },
    { name: "GPU reserved but idle", value: gpu, colour: "var(--idle-1)", grams: cubes.emissionsOf(gpu, sums), ink: "var(--on-idle)" },
    { name: "CPU reserved but idle", value: cpu, colour: "var(--idle-2)", grams: cubes.emissionsOf(cpu, sums), ink: "var(--on-idle)" },
  ];
  const whole = parts.reduce((sum, part) => sum + (part.value ?? 0), 0);
  chart("idle", (width) => (whole > 0 ? withLegend(parts, whole, "Energy used, and reserved but idle", width) : empty("No energy is known in this selection.")));
  table("idle", "Used, and reserved but idle", ["Part", "Energy", "Share", "Emissions"], parts.map((part) => [
    part.name, energy(part.value), part.value === null || !whole ? UNKNOWN : percent(part.value / whole), mass(part.grams)]));
}

function drawRegionsUsed(filters) {
  const groups = cubes.sums(report.cube, cubes.indexes(report.cube, filters), "region");
  const rows = [...groups].map(([index, sums]) => ({ ...report.regions[index], sums })).sort((a, b) => (b.sums.emissions_g ?? -1) - (a.sums.emissions_g ?? -1));
  table("regions", "Regions used", ["Region", "Emissions", "Bounds", "Energy"], rows.map((row) => [row.name, mass(row.sums.emissions_g), bounds(row.sums), energy(row.sums.energy_kwh)]));
}

function drawWhatIf() {
  const rows = report.what_if;
  if (!rows?.length) return;
  const own = report.total.emissions_g;
  const change = (row) => (own && row.emissions_g !== null ? (row.emissions_g - own) / own : null);
  const signed = (ratio) => (ratio === null ? UNKNOWN : `${ratio > 0 ? "+" : "−"}${percent(Math.abs(ratio))}`);
  const open = rows.filter((row) => row.emissions_g !== null && !row.is_restricted);
  const shown = [...open.slice(0, 10), ...open.slice(10).filter((row) => row.is_used), ...open.slice(-1)];
  const bars = [...new Map(shown.map((row) => [row.key, row])).values()].map((row) => ({
    key: row.key, name: row.name, value: row.emissions_g, low: row.emissions_low_g, high: row.emissions_high_g, colour: row.is_used ? "--accent-strong" : "--accent", note: signed(change(row)) }));
  if (own) bars.push({ key: " actual", name: "As it was run", value: own, low: report.total.emissions_low_g, high: report.total.emissions_high_g, colour: "--idle-1", note: mass(own) });
  bars.sort((a, b) => a.value - b.value);
  chart("what-if", (width) => charts.rankedBars(bars, { width, title: "The same work in other regions", description: "Emissions of the same IT energy in other Azure regions, the lowest first, beside what it was. The table below lists every region." }));
  const host = document.querySelector('[data-table="what-if"]');
  if (!host) return;
  sortableTable(host, { caption: "The same work in every Azure region", noun: "regions", start: 2, columns: [
    { name: "Region", value: (row) => row.name, text: (row) => row.name + (row.is_restricted ? " (restricted access)" : "") },
    { name: "Emissions", value: (row) => row.emissions_g, text: (row) => mass(row.emissions_g), number: true },
    { name: "Saved", value: (row) => (row.emissions_g === null ? null : own - row.emissions_g), text: (row) => (own && row.emissions_g !== null ? mass(own - row.emissions_g) : UNKNOWN), number: true },
    { name: "Change", value: change, text: (row) => signed(change(row)), number: true },
    { name: "Bounds", value: (row) => row.emissions_low_g, text: (row) => bounds(row), number: true },
    { name: "Grid, g/kWh", value: (row) => row.intensity, text: (row) => `${amount(row.intensity)}${row.year ? ` (${row.year})` : ""}`, number: true },
    { name: "PUE", value: (row) => row.pue, text: (row) => amount(row.pue), number: true },
  ] }).update(rows);
}

function drawHours() {
  const cells = report.hours ?? [];
  if (!cells.length) return;
  chart("hours", (width) => charts.heatMap(cells, { width }));
  const days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
  const at = new Map(cells.map((cell) => [cell.weekday * 24 + cell.hour, cell]));
  table("hours", "Energy by hour (UTC), of all weeks", ["Hour", ...days], Array.from({ length: 24 }, (_, hour) => [
    `${String(hour).padStart(2, "0")}:00`, ...days.map((_, day) => energy(at.get(day * 24 + hour)?.energy_kwh ?? null))]));
}

function drawMap() {
  if (!world || !report.map?.length) return;
  chart("map", (width) => charts.worldMap(report.map, world, { width }));
  const host = document.querySelector('[data-table="map"]');
  if (!host) return;
  sortableTable(host, { caption: "Azure regions by carbon intensity", noun: "regions", start: 1, columns: [
    { name: "Region", value: (row) => row.name },
    { name: "Intensity, g CO2e/kWh", value: (row) => row.intensity, text: (row) => amount(row.intensity), number: true },
    { name: "Year", value: (row) => row.year, number: true },
    { name: "Energy used here", value: (row) => row.energy_kwh, text: (row) => energy(row.energy_kwh), number: true },
  ] }).update(report.map.map((row) => ({ ...row, energy_kwh: row.isUsed ? row.energy_kwh : null })));
}

function startRuns() {
  const host = document.querySelector('[data-table="runs"]');
  if (!host || !report.runs?.length) return null;
  const withProject = report.scope === "index";
  return sortableTable(host, { caption: "Runs", noun: "runs", start: withProject ? 3 : 2, detail: (row) => describe(row.totals), columns: [
    { name: "Run", value: (row) => row.name, href: (row) => row.href },
    ...(withProject ? [{ name: "Project", value: (row) => row.project }] : []),
    { name: "Started (UTC)", value: (row) => row.start, text: (row) => (row.start ? row.start.slice(0, 16).replace("T", " ") : UNKNOWN) },
    { name: "Emissions", value: (row) => row.totals.emissions_g ?? null, text: (row) => mass(row.totals.emissions_g), number: true },
    { name: "Energy", value: (row) => row.totals.energy_kwh ?? null, text: (row) => energy(row.totals.energy_kwh), number: true },
    { name: "GPU-hours", value: (row) => row.totals.gpu_hours ?? null, text: (row) => amount(row.totals.gpu_hours), number: true },
    { name: "Idle", value: (row) => idleShare(row.totals), text: (row) => percent(idleShare(row.totals)), number: true },
  ] });
}

function runRows(filters) {
  const chosen = filters.projects && new Set([...filters.projects].map((index) => report.projects[index].name));
  const month = report.cube.kind === "month" ? 7 : 10;
  return report.runs.filter((row) =>
    (!chosen || chosen.has(row.project)) &&
    (!filters.from || !row.end || row.end.slice(0, month) >= filters.from) &&
    (!filters.to || !row.start || row.start.slice(0, month) <= filters.to))
    .map((row, index) => ({ ...row, key: index }));
}

function startProjects() {
  const host = document.querySelector('[data-table="projects"]');
  if (!host) return null;
  return sortableTable(host, {
    caption: "Projects", noun: "projects", start: 1,
    detail: (row) => describe(row.sums, row.facts ?? []),
    columns: [
      { name: "Project", value: (row) => row.name, href: (row) => row.href },
      { name: "Emissions", value: (row) => row.sums.emissions_g ?? null, text: (row) => mass(row.sums.emissions_g), number: true },
      { name: "Bounds", value: (row) => row.sums.emissions_low_g ?? null, text: (row) => bounds(row.sums), number: true },
      { name: "Energy", value: (row) => row.sums.energy_kwh ?? null, text: (row) => energy(row.sums.energy_kwh), number: true },
      { name: "GPU-hours", value: (row) => row.sums.gpu_hours ?? null, text: (row) => amount(row.sums.gpu_hours), number: true },
      { name: "Idle", value: (row) => idleShare(row.sums), text: (row) => percent(idleShare(row.sums)), number: true },
      { name: "Measured", value: (row) => measuredShare(row.sums), text: (row) => percent(measuredShare(row.sums)), number: true },
    ],
  });
}

function tellSelection(filters, sums, rows) {
  const live = byId("selection");
  if (!live) return;
  const what = cubes.isFiltered(filters) ? "Selected" : "Everything";
  const emissions = isUnknown(sums.emissions_g) ? "emissions not known" : `${mass(sums.emissions_g)} CO2e (${bounds(sums)})`;
  live.textContent = `${what}: ${emissions}, ${energy(sums.energy_kwh)}, ${rows.length} of ${report.projects.length} projects.`;
}

function start() {
  startTheme();
  startPrinting();
  if (!report) return;
  const projectsTable = startProjects();
  const runsTable = startRuns();
  const follow = (filters) => {
    const chosen = cubes.indexes(report.cube, filters);
    const sums = cubes.isFiltered(filters) ? cubes.total(report.cube, chosen) : report.total;
    const rows = projectRows(filters);
    drawProjects(rows, projectsTable);
    drawTime(periodPoints(filters));
    drawComponents(sums);
    drawIdle(sums);
    drawRegionsUsed(filters);
    runsTable?.update(runRows(filters));
    tellSelection(filters, sums, rows);
  };
  if (byId("filters")) startFilters(report, follow);
  else follow({});
  drawWhatIf();
  drawHours();
  drawMap();
  let waiting = 0;
  const redraw = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => charted.forEach((_, host) => drawInto(host)));
  };
  addEventListener("resize", redraw);
  addEventListener("beforeprint", () => charted.forEach((_, host) => drawInto(host, PAPER)));
  addEventListener("afterprint", redraw);
  for (const details of all("details")) details.addEventListener("toggle", redraw);
  document.documentElement.dataset.ready = "yes";
}

start();
