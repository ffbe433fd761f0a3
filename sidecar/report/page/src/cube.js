// The compact cube: columns of sums by project, period (day or month) and region.
// null = no record knew the amount; it is never counted as 0.

export const MEASURES = [
  "emissions_g", "emissions_low_g", "emissions_high_g", "energy_kwh", "facility_energy_kwh",
  "cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh", "cpu_reserved_idle_energy_kwh",
  "gpu_reserved_idle_energy_kwh", "gpu_hours", "energy_measured_kwh", "energy_estimated_kwh",
  "energy_modelled_kwh",
];

export const isUnknown = (value) => value === null || value === undefined;
export const plus = (a, b) => (isUnknown(a) ? (b ?? null) : isUnknown(b) ? a : a + b);

function empty() {
  return Object.fromEntries(MEASURES.map((name) => [name, null]));
}

// Rows of a table that came as columns and rows.
export function records(table) {
  if (!table) return [];
  return table.rows.map((row, key) => {
    const made = { key };
    table.columns.forEach((name, index) => (made[name] = row[index]));
    return made;
  });
}

export function indexes(cube, filters) {
  const chosen = [];
  for (let i = 0; i < cube.project.length; i++) {
    const period = cube.periods[cube.period[i]];
    if (filters.projects && !filters.projects.has(cube.project[i])) continue;
    if (filters.regions && !filters.regions.has(cube.region[i])) continue;
    // What has no time is in no stretch of it.
    if (filters.from && period < filters.from.slice(0, period.length || 10)) continue;
    if (filters.to && (period === "" || period > filters.to.slice(0, period.length))) continue;
    chosen.push(i);
  }
  return chosen;
}

export function sums(cube, chosen, dimension) {
  const groups = new Map();
  for (const i of chosen) {
    const key = dimension ? cube[dimension][i] : 0;
    if (!groups.has(key)) groups.set(key, empty());
    const group = groups.get(key);
    for (const name of MEASURES) {
      if (cube[name]) group[name] = plus(group[name], cube[name][i]);
    }
  }
  return groups;
}

export function total(cube, chosen) {
  return sums(cube, chosen).get(0) ?? empty();
}

export const isFiltered = (filters) =>
  Boolean(filters.projects || filters.regions || filters.from || filters.to);

// Many days become months: columns must be wide enough to be seen.
export function byMonth(points) {
  const months = new Map();
  for (const point of points) {
    const period = point.period.slice(0, 7);
    if (!months.has(period)) months.set(period, { period, ...empty() });
    const month = months.get(period);
    for (const name of MEASURES) month[name] = plus(month[name], point[name]);
  }
  return [...months.values()];
}

// Emissions of a part of the energy: as much of them, and of their bounds.
export function partOf(kwh, whole) {
  const part = isUnknown(kwh) || !whole.energy_kwh ? null : kwh / whole.energy_kwh;
  const of = (name) => (part === null || isUnknown(whole[name]) ? null : part * whole[name]);
  return { emissions_g: of("emissions_g"), emissions_low_g: of("emissions_low_g"), emissions_high_g: of("emissions_high_g") };
}
