// The charts: Observable Plot draws SVG, colours are the page's CSS variables.
import * as Plot from "@observablehq/plot";
import { feature } from "topojson-client";
import { amount, energy, energyAxis, label, mass, massAxis, percent } from "./numbers.js";

export const COMPONENTS = [
  ["gpu_energy_kwh", "GPU", "var(--gpu)"],
  ["cpu_energy_kwh", "CPU", "var(--cpu)"],
  ["ram_energy_kwh", "RAM", "var(--ram)"],
];
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
export const INTENSITY_STEPS = [50, 150, 300, 450];

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

const date = (text) => new Date(`${text.length === 7 ? `${text}-01` : text}T00:00:00Z`);
const labelMargin = (names, width) =>
  Math.min(width * 0.42, 14 + 6.9 * Math.max(4, ...names.map((name) => [...label(name, fit(width))].length)));
const fit = (width) => Math.min(30, Math.max(10, Math.floor((width * 0.42 - 14) / 6.9)));

// Emissions of projects (or regions, runs), with a whisker from the lower to the upper bound.
export function rankedBars(rows, { width, title, description }) {
  const largest = Math.max(1e-9, ...rows.map((row) => row.high ?? row.value ?? 0));
  const [size, unit] = massAxis(largest);
  const names = rows.map((row) => row.name);
  const bounded = rows.filter((row) => row.low !== null && row.high !== null && row.high > row.low);
  return plot({
    ariaLabel: title, ariaDescription: description,
    width, height: 44 + rows.length * 30, marginLeft: labelMargin(names, width), marginRight: width < 480 ? 66 : 84, marginTop: 6, marginBottom: 38,
    x: { label: `${unit} CO2e`, grid: true, ticks: width < 480 ? 3 : 6, labelArrow: "none", domain: [0, largest / size], nice: true },
    y: { label: null, domain: rows.map((row) => row.key), tickFormat: (key) => label(rows.find((row) => row.key === key).name, fit(width)), tickSize: 0 },
    marks: [
      Plot.barX(rows, { y: "key", x: (row) => (row.value ?? 0) / size, fill: (row) => `var(${row.colour ?? "--accent"})`, insetTop: 5, insetBottom: 5, rx2: 3 }),
      Plot.ruleY(bounded, { y: "key", x1: (row) => row.low / size, x2: (row) => row.high / size, stroke: "var(--surface)", strokeWidth: 2.75 }),
      Plot.ruleY(bounded, { y: "key", x1: (row) => row.low / size, x2: (row) => row.high / size, stroke: "var(--text)", strokeWidth: 1.25, marker: "tick" }),
      Plot.text(rows, { y: "key", x: (row) => Math.max(row.high ?? 0, row.value ?? 0) / size, text: (row) => row.note ?? mass(row.value), textAnchor: "start", dx: 8, fill: "var(--text)" }),
      Plot.ruleX([0], { stroke: "var(--line-strong)" }),
    ],
    color: { type: "identity" },
  });
}

// Energy per component, stacked, one column a day (or month).
export function energyOverTime(points, { width, period }) {
  const largest = Math.max(1e-9, ...points.map((point) => COMPONENTS.reduce((sum, [key]) => sum + (point[key] ?? 0), 0)));
  const [size, unit] = energyAxis(largest);
  const stacked = points.flatMap((point) =>
    COMPONENTS.map(([key, name]) => ({ when: date(point.period), name, value: (point[key] ?? 0) / size, kwh: point[key] })));
  return plot({
    ariaLabel: `Energy per ${period} and component`,
    ariaDescription: `Stacked columns, one a ${period}: GPU at the bottom, then CPU, then RAM. The table below has the numbers.`,
    width, height: width < 480 ? 220 : 280, marginLeft: 48, marginRight: 8, marginTop: 28,
    x: { type: "utc", label: null, ticks: width < 480 ? 4 : 8 },
    y: { label: `${unit} per ${period}`, grid: true, labelArrow: "none", ticks: 5, nice: true },
    color: { domain: COMPONENTS.map(([, name]) => name), range: COMPONENTS.map(([, , colour]) => colour) },
    marks: [
      Plot.rectY(stacked, Plot.stackY({ x: "when", y: "value", fill: "name", interval: period, insetLeft: 0.5, insetRight: 0.5, order: COMPONENTS.map(([, name]) => name) })),
      Plot.ruleY([0], { stroke: "var(--line-strong)" }),
      Plot.tip(points, Plot.pointerX({ x: (point) => middle(date(point.period), period), y: (point) => COMPONENTS.reduce((sum, [key]) => sum + (point[key] ?? 0), 0) / size, fill: "var(--surface)", stroke: "var(--line-strong)", title: (point) => [point.period, ...COMPONENTS.map(([key, name]) => `${name} ${energy(point[key])}`)].join("\n") })),
    ],
  });
}

// Emissions per day with the band between their bounds.
export function emissionsOverTime(points, { width, period }) {
  const largest = Math.max(1e-9, ...points.map((point) => point.emissions_high_g ?? point.emissions_g ?? 0));
  const [size, unit] = massAxis(largest);
  const rows = points.filter((point) => point.emissions_g !== null).map((point) => ({ ...point, when: date(point.period) }));
  const bounded = rows.filter((row) => row.emissions_low_g !== null && row.emissions_high_g !== null);
  return plot({
    ariaLabel: `Emissions per ${period}`,
    ariaDescription: `Columns, one a ${period}; a thin line spans the lower to the upper bound. The table below has the numbers.`,
    width, height: width < 480 ? 200 : 240, marginLeft: 48, marginRight: 8, marginTop: 28,
    x: { type: "utc", label: null, ticks: width < 480 ? 4 : 8 },
    y: { label: `${unit} CO2e per ${period}`, grid: true, labelArrow: "none", ticks: 5, nice: true },
    marks: [
      Plot.rectY(rows, { x: "when", y: (row) => row.emissions_g / size, fill: "var(--accent)", interval: period, insetLeft: 0.5, insetRight: 0.5 }),
      Plot.ruleX(bounded, { x: (row) => middle(row.when, period), y1: (row) => row.emissions_low_g / size, y2: (row) => row.emissions_high_g / size, stroke: "var(--text)", strokeOpacity: 0.55, strokeWidth: 1 }),
      Plot.ruleY([0], { stroke: "var(--line-strong)" }),
      Plot.tip(rows, Plot.pointerX({ x: (row) => middle(row.when, period), y: (row) => row.emissions_g / size, fill: "var(--surface)", stroke: "var(--line-strong)", title: (row) => `${row.period}\n${mass(row.emissions_g)} CO2e\n${mass(row.emissions_low_g)} – ${mass(row.emissions_high_g)}` })),
    ],
  });
}

const middle = (when, period) => new Date(when.getTime() + (period === "month" ? 15 : 0.5) * 86400e3);

// One bar of parts that make up a whole; parts too thin for a label are in the legend alone.
export function shareBar(parts, { width, title, whole }) {
  let start = 0;
  const pieces = parts.filter((part) => part.value > 0).map((part) => {
    const piece = { ...part, x1: start / whole, x2: (start + part.value) / whole };
    start += part.value;
    return piece;
  });
  const named = (part) => `${part.name} ${percent(part.value / whole)}`;
  return plot({
    ariaLabel: title,
    ariaDescription: pieces.map(named).join(", "),
    width, height: 56, margin: 0, marginTop: 4, marginBottom: 4,
    x: { axis: null, domain: [0, 1] }, color: { type: "identity" },
    marks: [
      Plot.rectX(pieces, { x1: "x1", x2: "x2", fill: "colour", insetLeft: 0.75, insetRight: 0.75, r: 3 }),
      Plot.text(pieces.filter((piece) => (piece.x2 - piece.x1) * width > 92), { x: (piece) => (piece.x1 + piece.x2) / 2, text: named, fill: (piece) => piece.ink ?? "var(--on-fill)", fontWeight: 600 }),
    ],
  });
}

// When the energy is used: hour of the day by weekday, UTC.
export function heatMap(cells, { width }) {
  const largest = Math.max(1e-12, ...cells.map((cell) => cell.energy_kwh ?? 0));
  const shade = (cell) => `var(--heat-${Math.min(5, Math.floor(((cell.energy_kwh ?? 0) / largest) * 5.999))})`;
  return plot({
    ariaLabel: "Energy by weekday and hour of the day, UTC",
    ariaDescription: "A grid of seven weekdays by twenty-four hours; darker (in dark colours: lighter) cells used more energy. The table below has the numbers.",
    width, height: width < 480 ? 200 : 250, marginLeft: 40, marginRight: 0, marginTop: 24, marginBottom: 4, padding: 0.06,
    x: { label: null, axis: "top", domain: Array.from({ length: 24 }, (_, hour) => hour), ticks: undefined, tickSize: 0, tickFormat: (hour) => (hour % (width < 480 ? 6 : 3) === 0 ? `${String(hour).padStart(2, "0")}` : "") },
    y: { label: null, domain: [0, 1, 2, 3, 4, 5, 6], tickFormat: (day) => WEEKDAYS[day], tickSize: 0 },
    color: { type: "identity" },
    marks: [
      Plot.cell(cells, { x: "hour", y: "weekday", fill: shade, rx: 2 }),
      Plot.tip(cells, Plot.pointer({ x: "hour", y: "weekday", fill: "var(--surface)", stroke: "var(--line-strong)", title: (cell) => `${WEEKDAYS[cell.weekday]} ${String(cell.hour).padStart(2, "0")}:00 UTC\n${energy(cell.energy_kwh)}\n${mass(cell.emissions_g)} CO2e` })),
    ],
  });
}

export const intensityClass = (grams) => INTENSITY_STEPS.filter((step) => grams > step).length;

// Azure's regions by the carbon intensity of their grid; those in use are larger and ringed.
export function worldMap(regions, world, { width }) {
  const land = feature(world, world.objects.land);
  const placed = regions.filter((region) => region.latitude !== null && region.longitude !== null && region.intensity !== null);
  const ordered = [...placed].sort((a, b) => Number(a.isUsed) - Number(b.isUsed));
  const used = ordered.filter((region) => region.isUsed);
  return plot({
    ariaLabel: "World map of the Azure regions by carbon intensity",
    ariaDescription: `${placed.length} regions; ${used.length} of them used: ${used.map((region) => `${region.name} ${amount(region.intensity)} g/kWh`).join(", ")}. The table below lists all.`,
    width, height: width * 0.5, margin: 0,
    projection: { type: "equal-earth", domain: { type: "MultiPoint", coordinates: [[-168, 0], [178, 0], [0, 74], [0, -50]] } },
    color: { type: "identity" },
    marks: [
      Plot.geo(land, { fill: "var(--land)", stroke: "var(--land-edge)", strokeWidth: 0.6 }),
      Plot.dot(ordered, { x: "longitude", y: "latitude", r: (region) => (width < 480 ? (region.isUsed ? 5 : 2.5) : region.isUsed ? 7.5 : 4.5), fill: (region) => `var(--intensity-${intensityClass(region.intensity)})`, stroke: (region) => (region.isUsed ? "var(--text)" : "var(--surface)"), strokeWidth: (region) => (region.isUsed ? 2 : 0.8) }),
      Plot.tip(ordered, Plot.pointer({ x: "longitude", y: "latitude", fill: "var(--surface)", stroke: "var(--line-strong)", maxRadius: 30, title: (region) => `${region.name}\n${amount(region.intensity)} g CO2e/kWh (${region.year ?? "year not known"})${region.isUsed ? `\n${energy(region.energy_kwh)} used here` : ""}` })),
    ],
    r: { type: "identity" },
  });
}
