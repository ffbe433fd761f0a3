// Numbers for people: a few significant figures and a unit, never in scientific notation.
// The twins of sidecar/amounts.py and sidecar/report/page/numbers.py; a test compares them.

export const UNKNOWN = "–";

export function amount(value, figures = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  if (value === 0) return "0";
  const digits = Math.max(0, figures - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en-US", {
    minimumFractionDigits: 0,
    maximumFractionDigits: Math.min(20, digits),
  });
}

function scaled(value, steps) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  // 0.9995: what would round to 1,000 is said in the next unit.
  const step = steps.find(([size]) => Math.abs(value) >= size * 0.9995) ?? steps.at(-1);
  return `${amount(value / step[0])}\u00a0${step[1]}`.replace("-", "−"); // no line breaks before a unit
}

const MASSES_G = [[1e9, "kt"], [1e6, "t"], [1e3, "kg"], [1, "g"], [1e-3, "mg"]];
// No mWh: it is one letter from a billion times more.
const ENERGIES_KWH = [[1e6, "GWh"], [1e3, "MWh"], [1, "kWh"], [1e-3, "Wh"]];

export const mass = (grams) => (grams === 0 ? "0\u00a0g" : scaled(grams, MASSES_G));
export const energy = (kwh) => (kwh === 0 ? "0\u00a0Wh" : scaled(kwh, ENERGIES_KWH));

export function percent(ratio) {
  if (ratio === null || ratio === undefined || !Number.isFinite(ratio)) return UNKNOWN;
  const size = Math.abs(ratio);
  if (size > 0 && size < 1e-4) return size < 1e-9 ? "0\u00a0%" : "<0.01\u00a0%"; // the first comes from rounding
  return `${amount(ratio * 100, size < 0.1 ? 2 : 3)}\u00a0%`;
}

export function signedPercent(ratio) {
  if (ratio === null || ratio === undefined) return UNKNOWN;
  return `${Math.abs(ratio) < 1e-9 ? "±" : ratio > 0 ? "+" : "−"}${percent(Math.abs(ratio))}`;
}

export function range(low, high, unit) {
  return low === null || low === undefined || high === null || high === undefined ? "not known" : `${unit(low)} – ${unit(high)}`;
}

// One unit for an axis, chosen by its largest value: [divisor, name].
export function axisUnit(largest, steps) {
  return steps.find(([size]) => largest >= size) ?? steps.at(-1);
}
export const massAxis = (grams) => axisUnit(grams, MASSES_G);
export const energyAxis = (kwh) => axisUnit(kwh, ENERGIES_KWH);

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (value) => String(value).padStart(2, "0");

// Times are UTC, on a clock of 24 hours.
export const dayText = (date) => `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
export const monthText = (date) => `${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
export const minuteText = (date) => `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
export const secondText = (date) => `${minuteText(date)}:${two(date.getUTCSeconds())}`;

export function durationText(seconds) {
  if (seconds < 60) return `${amount(seconds)} s`;
  if (seconds < 3600) return seconds === 60 ? "minute" : `${amount(seconds / 60)} min`;
  return seconds === 3600 ? "hour" : `${amount(seconds / 3600)} h`;
}

// "a day", "an hour", "for every 15 s".
export const each = (per) => (/^\d/.test(per) ? `for every ${per}` : `${per === "hour" ? "an" : "a"} ${per}`);

// Foreign names in SVG text: shortened, and isolated so that marks of direction end with them.
export function label(name, characters = 30) {
  const points = [...name];
  const short = points.length > characters ? `${points.slice(0, characters - 1).join("")}…` : name;
  return `\u2068${short}\u2069`;
}
