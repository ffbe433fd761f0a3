// The page: reads the embedded report, draws charts and tables, follows the filters.
import * as charts from "./charts.js";
import * as cubes from "./cube.js";
import { all, byId, element, reference, simpleTable } from "./dom.js";
import { startFilters } from "./filters.js";
import { amount, durationText, each, energy, mass, percent, range, signedPercent, UNKNOWN } from "./numbers.js";
import { startSections } from "./sections.js";
import { sortableTable } from "./table.js";
import { startTabs } from "./tabs.js";
import { startPrinting, startTargets, startTheme } from "./theme.js";

const BARS = 15;
const COLUMNS_MAX = 190; // more days than this become months
const PAPER = 680; // pixels between the margins of A4

const embedded = (id) => {
  const holder = byId(id);
  return holder ? JSON.parse(holder.textContent) : null;
};
const report = embedded("report");
const world = embedded("world");
const { isUnknown, records } = cubes;
const charted = new Map(); // host → how to draw it at a width

function chart(name, draw) {
  const host = document.querySelector(`[data-chart="${name}"]`);
  if (!host) return;
  charted.set(host, draw);
  drawInto(host);
}

function drawInto(host, isPaper) {
  const width = host.clientWidth > 0 ? (isPaper ? PAPER : Math.floor(host.clientWidth)) : 0;
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
    const share = isUnknown(part.value) || !whole ? UNKNOWN : percent(part.value / whole);
    return element("li", {}, swatch, `${part.name} ${share}`);
  }));
}

function withLegend(parts, whole, title, width) {
  return element("div", {}, charts.shareBar(parts, { width, whole, title }), legend(parts, whole));
}

const empty = (text) => element("p", { class: "empty" }, text);

const idleOf = (sums) => cubes.plus(sums.cpu_reserved_idle_energy_kwh, sums.gpu_reserved_idle_energy_kwh);
const idleShare = (sums) => (sums.energy_kwh && idleOf(sums) !== null ? idleOf(sums) / sums.energy_kwh : null);
// Rows do not always tell how their energy was obtained: then it is not known, and not 0.
const measuredShare = (sums) =>
  isUnknown(sums.energy_measured_kwh) || !sums.energy_kwh ? null : sums.energy_measured_kwh / sums.energy_kwh;
const bounds = (sums) => range(sums.emissions_low_g, sums.emissions_high_g, mass);
const qualityParts = (sums) =>
  [["measured", sums.energy_measured_kwh], ["estimated", sums.energy_estimated_kwh], ["modelled", sums.energy_modelled_kwh]]
    .filter(([, kwh]) => kwh > 0)
    .sort(([, a], [, b]) => b - a);
const qualityText = (sums) =>
  qualityParts(sums)
    .map(([name, kwh]) => `${percent(kwh / sums.energy_kwh)} ${name}`)
    .join(", ") || "not known";
const boundedPart = (kwh, sums) => {
  const part = cubes.partOf(kwh, sums);
  return `${mass(part.emissions_g)} CO₂e, ${bounds(part)}`;
};

// How most of the energy was obtained, in a word or two.
function obtained(row) {
  const parts = qualityParts(row);
  if (!parts.length) return UNKNOWN;
  const [name, kwh] = parts[0];
  const share = kwh / row.energy_kwh;
  return share > 0.995 ? name : `${percent(share)} ${name}`;
}

function facts(entries) {
  return element("dl", { class: "facts" }, ...entries.filter(([, text]) => text).map(([name, text]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, text))));
}

// Every figure of a row, with its bounds and how it was obtained.
function describe(row, first = []) {
  const has = (name) => !isUnknown(row[name]);
  return facts([
    ...first,
    ["Emissions, location-based", `${mass(row.emissions_g)} CO₂e, between ${bounds(row)}`],
    ["How the energy was obtained", qualityText(row)],
    ["Energy of the pods", energy(row.energy_kwh)],
    ["Facility energy", has("facility_energy_kwh") ? energy(row.facility_energy_kwh) : ""],
    ...charts.COMPONENTS.map(([key, name]) => [name, has(key) ? `${energy(row[key])}, ${boundedPart(row[key], row)}` : ""]),
    ["Reserved but idle", `${energy(idleOf(row))} (${percent(idleShare(row))} of the energy), ${boundedPart(idleOf(row), row)}`],
    ["Mean carbon intensity", has("carbon_intensity_g_per_kwh") ? `${amount(row.carbon_intensity_g_per_kwh)} g CO₂e/kWh` : ""],
    ["Embodied, not in the emissions", has("embodied_g") ? `${mass(row.embodied_g)} CO₂e, ${range(row.embodied_g / 2, row.embodied_g * 2, mass)}` : ""],
    ["GPU-hours", amount(row.gpu_hours)],
    ["Runs", has("runs") ? amount(row.runs) : ""],
    ["Gaps", row.gap_s ? `${amount(row.gap_s / 3600)} h not metered` : ""],
    ["Against the month before", row.change ?? ""],
  ]);
}

// -- projects ---------------------------------------------------------------------------------------

const listed = records(report?.projects);
const others = report?.others ? { ...report.others, key: "others", isRest: true } : null;

// Without filters a project's figures are those of the report; with them, sums of the cube.
function projectRows(filters) {
  if (!cubes.isFiltered(filters)) return others ? [...listed, others] : listed;
  const groups = cubes.sums(report.cube, cubes.indexes(report.cube, filters), "project");
  const rows = listed.slice(0, report.named ?? listed.length)
    .filter((row) => groups.has(row.key))
    .map(({ name, href, key }) => ({ name, href, key, ...groups.get(key) }));
  const rest = report.named === null ? null : groups.get(report.named);
  return rest ? [...rows, { ...rest, name: othersName(), key: "others", isRest: true }] : rows;
}

const projectCount = () => listed.length + (report.others?.count ?? 0);
const othersName = () => `${(projectCount() - report.named).toLocaleString("en-US")} other projects`;

function drawProjects(rows, projectsTable) {
  const named = rows.filter((row) => !row.isRest);
  const ranked = [...named].sort((a, b) => (b.emissions_g ?? -1) - (a.emissions_g ?? -1)).slice(0, BARS);
  chart("projects", (width) => ranked.length
    ? charts.rankedBars(ranked.map((row) => ({ key: row.key, name: row.name, value: row.emissions_g, low: row.emissions_low_g ?? null, high: row.emissions_high_g ?? null })), {
        width, title: "Emissions by project", description: `The ${ranked.length} largest, with lower and upper bounds. The table below has the numbers.` })
    : empty(rows.length ? "Only projects that are not told apart have records in this selection." : "No project has records in this selection."));
  const more = byId("projects-more");
  if (more) {
    const rest = rows.find((row) => row.isRest);
    const parts = [];
    if (named.length > BARS) parts.push(`The ${BARS} largest; the table has ${named.length.toLocaleString("en-US")}.`);
    if (rest) parts.push(`${rest.name} come to ${mass(rest.emissions_g)} CO₂e together.`);
    more.textContent = parts.join(" ");
  }
  projectsTable?.update(rows);
  const figure = document.querySelector('[data-chart="projects"]')?.closest("figure");
  if (figure) figure.hidden = projectCount() === 1; // nothing to compare
}

const measured = (start) => [
  { name: "Emissions", value: (row) => row.emissions_g ?? null, text: (row) => mass(row.emissions_g), number: true, main: true },
  { name: "Bounds", value: (row) => row.emissions_low_g ?? null, text: (row) => bounds(row), number: true, aside: true },
  { name: "Energy", value: (row) => row.energy_kwh ?? null, text: (row) => energy(row.energy_kwh), number: true },
  ...start,
  { name: "Idle", value: (row) => idleShare(row), text: (row) => percent(idleShare(row)), number: true },
  { name: "Obtained", value: (row) => measuredShare(row), text: obtained, number: true },
];
const gpuHours = { name: "GPU-hours", value: (row) => row.gpu_hours ?? null, text: (row) => amount(row.gpu_hours), number: true };

function startProjects() {
  const host = document.querySelector('[data-table="projects"]');
  if (!host) return null;
  return sortableTable(host, {
    caption: "Projects", noun: "projects", start: 1, detail: (row) => describe(row),
    columns: [{ name: "Project", value: (row) => row.name, href: (row) => row.href }, ...measured([gpuHours])],
  });
}

// -- time -------------------------------------------------------------------------------------------

function series(filters) {
  const isFiltered = cubes.isFiltered(filters);
  if (!isFiltered && report.moments?.rows.length) return { points: records(report.moments), stepS: report.moments.step_s };
  if (!isFiltered) return { points: records(report.days) };
  const groups = cubes.sums(report.cube, cubes.indexes(report.cube, filters), "period");
  return { points: [...groups].sort(([a], [b]) => a - b).map(([index, sums]) => ({ period: report.cube.periods[index], ...sums })) };
}

function drawTime(filters) {
  let { points, stepS } = series(filters);
  if (!stepS && points.length > COLUMNS_MAX) points = cubes.byMonth(points);
  const columns = charts.columnsOf(points, stepS);
  const per = stepS ? durationText(stepS) : columns[0]?.period.length === 7 ? "month" : "day";
  const nothing = () => empty("No records in this selection.");
  const options = (width) => ({ width, per, stepS });
  // Few columns make narrow charts: both in one line.
  byId("time-charts").classList.toggle("narrow", columns.length > 0 && charts.columnCount(columns) <= 12);
  chart("energy-days", (width) => (columns.length ? charts.energyOverTime(columns, options(width)) : nothing()));
  chart("emissions-days", (width) => (columns.length ? charts.emissionsOverTime(columns, options(width)) : nothing()));
  const steps = byId("time-steps");
  if (steps) steps.textContent = `One column ${each(per)} (UTC).`;
  table("days", `Per ${per}`, ["Time (UTC)", "Emissions", "Bounds", "Energy", "GPU", "CPU", "RAM"], columns.map((row) => [
    row.named, mass(row.emissions_g), bounds(row), energy(row.energy_kwh), energy(row.gpu_energy_kwh), energy(row.cpu_energy_kwh), energy(row.ram_energy_kwh)]));
}

// -- parts of a sum -----------------------------------------------------------------------------------

function partRow(part, sums) {
  const emissions = cubes.partOf(part.value, sums);
  return [part.name, energy(part.value), mass(emissions.emissions_g), emissions.emissions_g === null ? UNKNOWN : bounds(emissions)];
}

function drawComponents(sums) {
  const parts = charts.COMPONENTS.map(([key, name, colour]) => ({ name, value: sums[key] ?? null, colour }));
  const whole = parts.reduce((sum, part) => sum + (part.value ?? 0), 0);
  chart("components", (width) => (whole > 0 ? withLegend(parts, whole, "Energy by component", width) : empty("No energy is known in this selection.")));
  table("components", "Energy by component", ["Component", "Energy", "Emissions", "Bounds"], parts.map((part) => partRow(part, sums)));
}

function drawIdle(sums) {
  const gpu = sums.gpu_reserved_idle_energy_kwh ?? null;
  const cpu = sums.cpu_reserved_idle_energy_kwh ?? null;
  const used = isUnknown(sums.energy_kwh) ? null : Math.max(0, sums.energy_kwh - (gpu ?? 0) - (cpu ?? 0));
  const parts = [
    { name: "Used", value: used, colour: "var(--accent)" },
    { name: "GPU reserved but idle", value: gpu, colour: "var(--idle-1)", ink: "var(--on-idle)" },
    { name: "CPU reserved but idle", value: cpu, colour: "var(--idle-2)", ink: "var(--on-idle)" },
  ];
  const whole = parts.reduce((sum, part) => sum + (part.value ?? 0), 0);
  chart("idle", (width) => (whole > 0 ? withLegend(parts, whole, "Energy used, and reserved but idle", width) : empty("No energy is known in this selection.")));
  table("idle", "Used, and reserved but idle", ["Part", "Energy", "Emissions", "Bounds"], parts.map((part) => partRow(part, sums)));
}

function startRegionsUsed() {
  const host = document.querySelector('[data-table="regions"]');
  return host && sortableTable(host, {
    caption: "Regions used", noun: "regions", start: 1, detail: (row) => describe(row),
    columns: [{ name: "Region", value: (row) => row.name }, ...measured([])],
  });
}

function regionRows(filters) {
  if (!cubes.isFiltered(filters)) return records(report.regions_used);
  const groups = cubes.sums(report.cube, cubes.indexes(report.cube, filters), "region");
  return [...groups].map(([key, sums]) => ({ key, name: report.regions[key].name, ...sums }));
}

function drawGroups() {
  for (const [name, listing] of Object.entries(report.groups ?? {})) {
    const host = document.querySelector(`[data-table="${name}"]`);
    if (!host) continue;
    const rows = records(listing);
    const of = { workloads: "Namespace", experiments: "Project" }[name];
    const first = { namespaces: "Namespace", workloads: "Workload", pools: "Node pool", experiments: "Experiment" }[name];
    sortableTable(host, {
      caption: `By ${first.toLowerCase()}`, noun: name, start: of ? 2 : 1, detail: (row) => describe(row), shown: 10,
      columns: [
        { name: first, value: (row) => row.name },
        ...(of ? [{ name: of, value: (row) => row.of, href: (row) => row.of_href }] : []),
        ...measured([gpuHours]),
      ],
    }).update(rows);
  }
}

function drawExperiments() {
  const host = document.querySelector('[data-table="experiments"]');
  if (!host || !report.experiments) return;
  sortableTable(host, {
    caption: "Experiments", noun: "experiments", start: 1, detail: (row) => describe(row),
    columns: [{ name: "Experiment", value: (row) => row.name }, ...measured([gpuHours])],
  }).update(records(report.experiments));
}

// -- elsewhere, at another time -----------------------------------------------------------------------

const withSource = (text, source) => element("span", {}, text, source ? " " : null, reference(source));

function drawWhatIf() {
  const rows = report.what_if;
  if (!rows?.length) return;
  const own = report.total.emissions_g;
  const change = (row) => (own && row.emissions_g !== null ? (row.emissions_g - own) / own : null);
  const open = rows.filter((row) => row.emissions_g !== null && !row.is_restricted);
  const shown = [...open.slice(0, 10), ...open.slice(10).filter((row) => row.is_used), ...open.slice(-1)];
  const bars = [...new Map(shown.map((row) => [row.key, row])).values()]
    .sort((a, b) => a.emissions_g - b.emissions_g)
    .map((row) => ({ key: row.key, name: row.name, value: row.emissions_g, low: row.emissions_low_g, high: row.emissions_high_g, colour: row.is_used ? "--accent-strong" : "--accent", note: signedPercent(change(row)) }));
  const line = own ? { value: own, text: `as it was run: ${mass(own)}` } : null;
  chart("what-if", (width) => charts.rankedBars(bars, { width, line, title: "The same work in other regions", description: "Emissions of the same IT energy in other Azure regions, the lowest first, beside what it was. The table below lists every region." }));
  const host = document.querySelector('[data-table="what-if"]');
  if (!host) return;
  sortableTable(host, { caption: "The same work in every Azure region", noun: "regions", start: 2, columns: [
    { name: "Region", value: (row) => row.name, text: (row) => row.name + (row.is_restricted ? " (restricted access)" : "") },
    { name: "Emissions", value: (row) => row.emissions_g, text: (row) => mass(row.emissions_g), number: true, main: true },
    { name: "Saved", value: (row) => (row.emissions_g === null ? null : own - row.emissions_g), text: (row) => (own && row.emissions_g !== null ? mass(own - row.emissions_g) : UNKNOWN), number: true },
    { name: "Change", value: change, text: (row) => signedPercent(change(row)), number: true },
    { name: "Bounds", value: (row) => row.emissions_low_g, text: (row) => bounds(row), number: true },
    { name: "Grid, g/kWh", value: (row) => row.intensity, node: (row) => withSource(`${amount(row.intensity)}${row.year ? ` (${row.year})` : ""}`, row.intensity_source), number: true },
    { name: "PUE", value: (row) => row.pue, node: (row) => withSource(amount(row.pue), row.pue_source), number: true },
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
  const regions = report.hour_intensity ?? [];
  if (regions.length) chart("hour-intensity", (width) => charts.hourLines(regions, { width }));
}

function drawMap() {
  if (!world || !report.map?.length) return;
  chart("map", (width) => charts.worldMap(report.map, world, { width }));
  const host = document.querySelector('[data-table="map"]');
  if (!host) return;
  sortableTable(host, { caption: "Azure regions by carbon intensity", noun: "regions", start: 1, columns: [
    { name: "Region", value: (row) => row.name },
    { name: "Intensity, g CO₂e/kWh", value: (row) => row.intensity, node: (row) => withSource(amount(row.intensity), row.source), number: true, main: true },
    { name: "Bounds", value: (row) => row.low, text: (row) => range(row.low, row.high, amount), number: true },
    { name: "Year", value: (row) => row.year, number: true },
    { name: "Energy used here", value: (row) => row.energy_kwh, text: (row) => energy(row.energy_kwh), number: true },
  ] }).update(report.map.map((row) => ({ ...row, energy_kwh: row.isUsed ? row.energy_kwh : null })));
}

// -- runs -------------------------------------------------------------------------------------------

const runs = records(report?.runs);
const moment = (text) => (text ? text.slice(0, 16).replace("T", " ") : UNKNOWN);

function startRuns() {
  const host = document.querySelector('[data-table="runs"]');
  if (!host || !runs.length) return null;
  const withProject = report.scope === "index";
  const started = (row) => [["Began (UTC)", moment(row.start)], ["Ended (UTC)", moment(row.end)]];
  return sortableTable(host, { caption: "Runs", noun: "runs", start: withProject ? 3 : 2, shown: withProject ? 12 : undefined, detail: (row) => describe(row, started(row)), columns: [
    { name: "Run", value: (row) => row.name, href: (row) => row.href },
    ...(withProject ? [{ name: "Project", value: (row) => row.project }] : []),
    { name: "Began", value: (row) => row.start, text: (row) => moment(row.start).slice(0, 10) },
    ...measured([]),
  ] });
}

function runRows(filters) {
  const named = new Set(listed.slice(0, report.named ?? listed.length).map((row) => row.name));
  const chosen = filters.projects && new Set([...filters.projects].filter((index) => index !== report.named).map((index) => listed[index].name));
  const takes = (project) => !chosen || chosen.has(project) || (filters.projects.has(report.named) && !named.has(project));
  return runs.filter((row) =>
    takes(row.project) &&
    (!filters.from || !row.end || row.end.slice(0, filters.from.length) >= filters.from) &&
    (!filters.to || !row.start || row.start.slice(0, filters.to.length) <= filters.to));
}

// -- all of it --------------------------------------------------------------------------------------

function tellSelection(filters, sums, rows) {
  const live = byId("selection");
  if (!live) return;
  const what = cubes.isFiltered(filters) ? "Selected" : "Everything";
  const emissions = isUnknown(sums.emissions_g) ? "emissions not known" : `${mass(sums.emissions_g)} CO₂e (${bounds(sums)})`;
  const count = rows.filter((row) => !row.isRest).length.toLocaleString("en-US");
  const rest = rows.find((row) => row.isRest);
  const whole = projectCount().toLocaleString("en-US");
  const projects = !cubes.isFiltered(filters) ? `${whole} ${projectCount() === 1 ? "project" : "projects"}`
    : `${count} of ${whole} projects${rest ? `, and ${rest.name} together` : ""}`;
  live.textContent = `${what}: ${emissions}, ${energy(sums.energy_kwh)}, ${projects}.`;
}

function choices() {
  const named = listed.slice(0, report.named ?? listed.length).map((row) => [row.key, row.name]);
  if (report.named !== null && projectCount() > report.named) named.push([report.named, othersName()]);
  return { projects: named, regions: report.regions.map((region, index) => [index, region.name]) };
}

function start() {
  startTheme();
  startPrinting();
  startSections();
  if (!report) return;
  const projectsTable = startProjects();
  const regionsTable = startRegionsUsed();
  const runsTable = startRuns();
  const follow = (filters) => {
    const isFiltered = cubes.isFiltered(filters);
    const sums = isFiltered ? cubes.total(report.cube, cubes.indexes(report.cube, filters)) : report.total;
    if (report.projects) {
      const rows = projectRows(filters);
      drawProjects(rows, projectsTable);
      tellSelection(filters, sums, rows);
    }
    drawTime(filters);
    drawComponents(sums);
    drawIdle(sums);
    regionsTable?.update(regionRows(filters));
    runsTable?.update(runRows(filters));
  };
  if (byId("filters")) startFilters(report.cube, choices(), follow);
  else follow({});
  drawGroups();
  drawExperiments();
  drawWhatIf();
  drawHours();
  drawMap();
  let waiting = 0;
  const redraw = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => charted.forEach((_, host) => drawInto(host)));
  };
  startTabs(redraw);
  addEventListener("resize", redraw);
  addEventListener("beforeprint", () => charted.forEach((_, host) => drawInto(host, true)));
  addEventListener("afterprint", redraw);
  for (const details of all("details")) details.addEventListener("toggle", redraw);
  startTargets();
  document.documentElement.dataset.ready = "yes";
}

start();
