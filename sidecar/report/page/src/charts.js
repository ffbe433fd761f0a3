// The charts: Observable Plot draws SVG, colours are the page's CSS variables.
import * as Plot from "@observablehq/plot";
import { feature } from "topojson-client";
import { amount, dayText, durationText, each, energy, energyAxis, label, mass, massAxis, minuteText, monthText, percent, secondText } from "./numbers.js";

export const COMPONENTS = [
  ["gpu_energy_kwh", "GPU", "var(--gpu)"],
  ["cpu_energy_kwh", "CPU", "var(--cpu)"],
  ["ram_energy_kwh", "RAM", "var(--ram)"],
];
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
export const INTENSITY_STEPS = [50, 150, 300, 450];
const COLUMN_WIDEST = 52; // pixels: a report of one day is no slab

const BASE_STYLE = { background: "transparent", color: "var(--text)", fontSize: "12px", fontFamily: "inherit", overflow: "visible" };

function plot(options) {
  const svg = Plot.plot({ style: BASE_STYLE, ...options });
  svg.setAttribute("role", "img");
  // An image has one name; those of its parts are for whoever looks at the source.
  for (const part of svg.querySelectorAll("[aria-label], [aria-description]")) {
    part.dataset.mark = part.getAttribute("aria-label") ?? "";
    part.removeAttribute("aria-label");
    part.removeAttribute("aria-description");
  }
  return svg;
}

// How wide a text is drawn, to know whether it fits.
const pen = document.createElement("canvas").getContext("2d");
function widthOf(text) {
  pen.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

const labelMargin = (names, width) =>
  Math.min(width * 0.42, 14 + Math.max(28, ...names.map((name) => widthOf(label(name, fit(width))) * 0.97)));
const fit = (width) => Math.min(30, Math.max(10, Math.floor((width * 0.42 - 14) / 6.9)));

// Emissions of projects (or regions, runs), with a whisker from the lower to the upper bound.
// `line`: { value, text }, something all bars are compared with.
export function rankedBars(rows, { width, title, description, line }) {
  const largest = Math.max(1e-9, line?.value ?? 0, ...rows.map((row) => row.high ?? row.value ?? 0));
  const [size, unit] = massAxis(largest);
  const names = rows.map((row) => row.name);
  const bounded = rows.filter((row) => row.low !== null && row.high !== null && row.high > row.low);
  const top = line ? 24 : 6;
  return plot({
    ariaLabel: title, ariaDescription: description,
    width, height: 38 + top + rows.length * 30, marginLeft: labelMargin(names, width), marginRight: width < 480 ? 62 : 76, marginTop: top, marginBottom: 38,
    x: { label: `${unit} CO₂e`, grid: true, ticks: width < 480 ? 3 : 6, labelArrow: "none", domain: [0, largest / size], nice: true },
    y: { label: null, domain: rows.map((row) => row.key), tickFormat: (key) => label(rows.find((row) => row.key === key).name, fit(width)), tickSize: 0 },
    marks: [
      line ? Plot.ruleX([line.value / size], { stroke: "var(--idle-1)", strokeWidth: 2, strokeDasharray: "5 4" }) : null,
      Plot.barX(rows, { y: "key", x: (row) => (row.value ?? 0) / size, fill: (row) => `var(${row.colour ?? "--accent"})`, insetTop: 5, insetBottom: 5, rx2: 3 }),
      Plot.ruleY(bounded, { y: "key", x1: (row) => row.low / size, x2: (row) => row.high / size, stroke: "var(--surface)", strokeWidth: 2.75 }),
      Plot.ruleY(bounded, { y: "key", x1: (row) => row.low / size, x2: (row) => row.high / size, stroke: "var(--text)", strokeWidth: 1.25, marker: "tick" }),
      line ? Plot.text([line], { x: line.value / size, frameAnchor: "top", dy: -14, text: "text", textAnchor: line.value > largest * 0.6 ? "end" : "start", dx: line.value > largest * 0.6 ? 6 : -6, fontWeight: 600, fill: "var(--text)" }) : null,
      Plot.text(rows, { y: "key", x: (row) => Math.max(row.high ?? 0, row.value ?? 0) / size, text: (row) => row.note ?? mass(row.value), textAnchor: "start", dx: 8, fill: "var(--text)", stroke: "var(--surface)", strokeWidth: 4 }),
      Plot.ruleX([0], { stroke: "var(--line-strong)" }),
    ],
    color: { type: "identity" },
  });
}

// The columns of a series: when each begins and ends, and how it is called.
export function columnsOf(points, stepS) {
  return points.filter((point) => point.period).map((point) => {
    const text = point.period;
    const start = new Date(stepS ? text : `${text.length === 7 ? `${text}-01` : text}T00:00:00Z`);
    const end = new Date(start);
    if (stepS) end.setTime(start.getTime() + stepS * 1e3);
    else if (text.length === 7) end.setUTCMonth(start.getUTCMonth() + 1);
    else end.setUTCDate(start.getUTCDate() + 1);
    const named = stepS ? `${dayText(start)} ${stepS < 60 ? secondText(start) : minuteText(start)} – ${stepS < 60 ? secondText(end) : minuteText(end)}` : text;
    return { ...point, start, end, named };
  });
}

const middle = (column) => new Date((column.start.getTime() + column.end.getTime()) / 2);

// How many columns lie between the first and the last, with those that are missing.
export function columnCount(columns) {
  const step = columns[0].end - columns[0].start;
  return Math.max(1, Math.round((columns.at(-1).end - columns[0].start) / step));
}

// The axis of time: as wide as its columns need and no wider; ticks where columns begin.
function timeAxis(columns, width, stepS) {
  const [first, last] = [columns[0].start, columns.at(-1).end];
  const step = columns[0].end - columns[0].start;
  const count = columnCount(columns);
  const plotWidth = Math.min(width, 64 + Math.max(count * COLUMN_WIDEST, 150));
  const most = Math.max(2, Math.floor((plotWidth - 56) / (stepS ? 72 : 62)));
  const ticks = [];
  const every = Math.ceil(count / most);
  for (let i = 0; i < count; i += every) ticks.push(tickAt(first, i, step));
  const isMonth = step > 27 * 86400e3;
  const text = (date) => (stepS ? (stepS < 60 ? secondText(date) : minuteText(date)) : isMonth ? monthText(date) : dayText(date));
  return { plotWidth, x: { type: "utc", domain: [first, last], label: null, ticks, tickFormat: text, nice: false }, isMonth };
}

function tickAt(first, index, step) {
  if (step <= 27 * 86400e3) return new Date(first.getTime() + index * step);
  const date = new Date(first);
  date.setUTCMonth(first.getUTCMonth() + index);
  return date;
}

const sumOf = (point) => COMPONENTS.reduce((sum, [key]) => sum + (point[key] ?? 0), 0);
const INSET = { insetLeft: 0.5, insetRight: 0.5 };

// Energy per component, stacked, one column a day (month, minute …).
export function energyOverTime(columns, { width, per, stepS }) {
  const [size, unit] = energyAxis(Math.max(1e-12, ...columns.map(sumOf)));
  const { plotWidth, x } = timeAxis(columns, width, stepS);
  const pieces = columns.flatMap((column) => {
    let from = 0;
    return COMPONENTS.map(([key, name, colour]) => {
      const piece = { ...column, name, colour, y1: from, y2: from + (column[key] ?? 0) / size };
      from = piece.y2;
      return piece;
    });
  });
  return plot({
    ariaLabel: `Energy per ${per} and component`,
    ariaDescription: `Stacked columns, one ${each(per)}: GPU at the bottom, then CPU, then RAM. The table below has the numbers.`,
    width: plotWidth, height: width < 480 ? 210 : 240, marginLeft: 48, marginRight: 16, marginTop: 28, x,
    y: { label: `${unit} per ${per}`, grid: true, labelArrow: "none", ticks: 5, nice: true },
    color: { type: "identity" },
    marks: [
      Plot.rect(pieces, { x1: "start", x2: "end", y1: "y1", y2: "y2", fill: "colour", ...INSET }),
      Plot.ruleY([0], { stroke: "var(--line-strong)" }),
      Plot.tip(columns, Plot.pointerX({ x: middle, y: (column) => sumOf(column) / size, fill: "var(--surface)", stroke: "var(--line-strong)", title: (column) => [column.named, ...COMPONENTS.map(([key, name]) => `${name} ${energy(column[key])}`)].join("\n") })),
    ],
  });
}

// Emissions per day with a whisker between their bounds.
export function emissionsOverTime(columns, { width, per, stepS }) {
  const known = columns.filter((column) => column.emissions_g !== null);
  const [size, unit] = massAxis(Math.max(1e-9, ...known.map((column) => column.emissions_high_g ?? column.emissions_g)));
  const bounded = known.filter((column) => column.emissions_low_g !== null && column.emissions_high_g !== null);
  const { plotWidth, x } = timeAxis(columns, width, stepS);
  return plot({
    ariaLabel: `Emissions per ${per}`,
    ariaDescription: `Columns, one ${each(per)}; a thin line spans the lower to the upper bound. The table below has the numbers.`,
    width: plotWidth, height: width < 480 ? 210 : 240, marginLeft: 48, marginRight: 16, marginTop: 28, x,
    y: { label: `${unit} CO₂e per ${per}`, grid: true, labelArrow: "none", ticks: 5, nice: true },
    marks: [
      Plot.rect(known, { x1: "start", x2: "end", y1: 0, y2: (row) => row.emissions_g / size, fill: "var(--accent)", ...INSET }),
      Plot.ruleX(bounded, { x: middle, y1: (row) => row.emissions_low_g / size, y2: (row) => row.emissions_high_g / size, stroke: "var(--text)", strokeOpacity: 0.55, strokeWidth: 1 }),
      Plot.ruleY([0], { stroke: "var(--line-strong)" }),
      Plot.tip(known, Plot.pointerX({ x: middle, y: (row) => row.emissions_g / size, fill: "var(--surface)", stroke: "var(--line-strong)", title: (row) => `${row.named}\n${mass(row.emissions_g)} CO₂e\n${mass(row.emissions_low_g)} – ${mass(row.emissions_high_g)}` })),
    ],
  });
}

// One bar of parts that make up a whole; what has no room for its name is in the legend alone.
export function shareBar(parts, { width, title, whole }) {
  let start = 0;
  const pieces = parts.filter((part) => part.value > 0).map((part) => {
    const piece = { ...part, x1: start / whole, x2: (start + part.value) / whole };
    start += part.value;
    return piece;
  });
  const named = (part) => `${part.name} ${percent(part.value / whole)}`;
  const short = (part) => percent(part.value / whole);
  const room = (piece) => (piece.x2 - piece.x1) * width - 16;
  const text = (piece) => (widthOf(named(piece)) <= room(piece) ? named(piece) : widthOf(short(piece)) <= room(piece) ? short(piece) : "");
  return plot({
    ariaLabel: title,
    ariaDescription: pieces.map(named).join(", "),
    width, height: 52, margin: 0, marginTop: 4, marginBottom: 4,
    x: { axis: null, domain: [0, 1] }, color: { type: "identity" },
    marks: [
      Plot.rectX(pieces, { x1: "x1", x2: "x2", fill: "colour", insetLeft: 0.75, insetRight: 0.75, r: 3 }),
      Plot.text(pieces.filter(text), { x: (piece) => (piece.x1 + piece.x2) / 2, text, fill: (piece) => piece.ink ?? "var(--on-fill)", fontWeight: 600 }),
    ],
  });
}

// When the energy is used: hour of the day by weekday, UTC. Hours without records are empty frames.
export function heatMap(cells, { width }) {
  const known = new Map(cells.map((cell) => [`${cell.weekday} ${cell.hour}`, cell]));
  const whole = [0, 1, 2, 3, 4, 5, 6].flatMap((weekday) =>
    Array.from({ length: 24 }, (_, hour) => known.get(`${weekday} ${hour}`) ?? { weekday, hour, energy_kwh: null, emissions_g: null }));
  const isUsed = (cell) => cell.energy_kwh > 0;
  const largest = Math.max(1e-12, ...cells.map((cell) => cell.energy_kwh ?? 0));
  const shade = (cell) => `var(--heat-${Math.min(5, Math.floor((cell.energy_kwh / largest) * 5.999))})`;
  const at = { x: "hour", y: "weekday", rx: 2 };
  const hourText = (hour) => `${String(hour).padStart(2, "0")}:00`;
  return plot({
    ariaLabel: "Energy by weekday and hour of the day, UTC",
    ariaDescription: "A grid of seven weekdays by twenty-four hours; darker (in dark colours: lighter) cells used more energy, framed ones none. The table below has the numbers.",
    width, height: width < 480 ? 190 : Math.min(250, width * 0.34), marginLeft: 40, marginRight: 0, marginTop: 24, marginBottom: 4, padding: 0.06,
    x: { label: null, axis: "top", domain: Array.from({ length: 24 }, (_, hour) => hour), tickSize: 0, tickFormat: (hour) => (hour % (width < 480 ? 6 : 3) === 0 ? `${String(hour).padStart(2, "0")}` : "") },
    y: { label: null, domain: [0, 1, 2, 3, 4, 5, 6], tickFormat: (day) => WEEKDAYS[day], tickSize: 0 },
    color: { type: "identity" },
    marks: [
      Plot.cell(whole.filter((cell) => !isUsed(cell)), { ...at, fill: "none", stroke: "var(--line)", inset: 0.5 }),
      Plot.cell(whole.filter(isUsed), { ...at, fill: shade }),
      Plot.tip(whole, Plot.pointer({ x: "hour", y: "weekday", fill: "var(--surface)", stroke: "var(--line-strong)", title: (cell) => `${WEEKDAYS[cell.weekday]} ${hourText(cell.hour)} UTC\n${isUsed(cell) ? `${energy(cell.energy_kwh)}\n${mass(cell.emissions_g)} CO₂e` : "nothing"}` })),
    ],
  });
}

// How clean each hour of the day is, one line a region.
export function hourLines(regions, { width }) {
  const colours = ["var(--gpu)", "var(--cpu)", "var(--ram)", "var(--accent-strong)"];
  const shown = regions.slice(0, colours.length).map((region, index) => ({ ...region, colour: colours[index] }));
  const points = shown.flatMap((region) => region.hours
    .map((value, hour) => ({ hour, value, name: region.name, colour: region.colour }))
    .filter((point) => point.value !== null));
  const lasts = shown.map((region) => points.findLast((point) => point.name === region.name)).filter(Boolean);
  return plot({
    ariaLabel: "Carbon intensity by hour of the day, UTC",
    ariaDescription: shown.map((region) => `${region.name}: ${region.hours.map((value, hour) => `${hour} h ${amount(value)}`).join(", ")}`).join("; "),
    width, height: width < 480 ? 200 : 230, marginLeft: 48, marginRight: width < 480 ? 16 : 16 + Math.max(0, ...shown.map((region) => widthOf(region.name))), marginTop: 28,
    x: { label: null, domain: [0, 23], ticks: width < 480 ? [0, 6, 12, 18] : [0, 3, 6, 9, 12, 15, 18, 21], tickFormat: (hour) => `${String(hour).padStart(2, "0")}:00` },
    y: { label: "g CO₂e/kWh", grid: true, labelArrow: "none", ticks: 5, nice: true, zero: true },
    color: { type: "identity" },
    marks: [
      Plot.ruleY([0], { stroke: "var(--line-strong)" }),
      Plot.lineY(points, { x: "hour", y: "value", z: "name", stroke: "colour", strokeWidth: 2.25, curve: "monotone-x" }),
      Plot.text(lasts, { x: "hour", y: "value", text: (point) => label(point.name), ...(width < 480 ? { textAnchor: "end", dy: -9 } : { textAnchor: "start", dx: 8 }), fill: "var(--text)", stroke: "var(--surface)", strokeWidth: 4, fontWeight: 600 }),
      Plot.tip(points, Plot.pointer({ x: "hour", y: "value", fill: "var(--surface)", stroke: "var(--line-strong)", title: (point) => `${point.name}\n${String(point.hour).padStart(2, "0")}:00 UTC\n${amount(point.value)} g CO₂e/kWh` })),
    ],
  });
}

export const intensityClass = (grams) => INTENSITY_STEPS.filter((step) => grams > step).length;

// Azure's regions by the carbon intensity of their grid; those in use are larger, ringed and named.
export function worldMap(regions, world, { width }) {
  const land = feature(world, world.objects.land);
  const placed = regions.filter((region) => region.latitude !== null && region.longitude !== null && region.intensity !== null);
  const ordered = [...placed].sort((a, b) => Number(a.isUsed) - Number(b.isUsed));
  const used = ordered.filter((region) => region.isUsed);
  return plot({
    ariaLabel: "World map of the Azure regions by carbon intensity",
    ariaDescription: `${placed.length} regions; ${used.length} of them used: ${used.map((region) => `${region.name} ${amount(region.intensity)} g/kWh`).join(", ")}. The table below lists all.`,
    width, height: width * 0.47, margin: 0,
    projection: { type: "equal-earth", domain: { type: "MultiPoint", coordinates: [[-168, 0], [178, 0], [0, 74], [0, -50]] } },
    color: { type: "identity" },
    marks: [
      Plot.geo(land, { fill: "var(--land)", stroke: "var(--land-edge)", strokeWidth: 0.6 }),
      Plot.dot(ordered, { x: "longitude", y: "latitude", r: (region) => (width < 480 ? (region.isUsed ? 5 : 2.5) : region.isUsed ? 7.5 : 4.5), fill: (region) => `var(--intensity-${intensityClass(region.intensity)})`, stroke: (region) => (region.isUsed ? "var(--text)" : "var(--surface)"), strokeWidth: (region) => (region.isUsed ? 2 : 0.8) }),
      Plot.tip(ordered, Plot.pointer({ x: "longitude", y: "latitude", fill: "var(--surface)", stroke: "var(--line-strong)", maxRadius: 30, title: (region) => `${region.name}\n${amount(region.intensity)} g CO₂e/kWh (${region.year ?? "year not known"})${region.isUsed ? `\n${energy(region.energy_kwh)} used here` : ""}` })),
    ],
    r: { type: "identity" },
  });
}

export { durationText };
