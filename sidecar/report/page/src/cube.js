// The compact cube: columns of sums by project, period (day or month) and region.
// null = no record knew the amount; it is never counted as 0.

export const MEASURES = [
  "emissions_g", "emissions_low_g", "emissions_high_g", "energy_kwh", "cpu_energy_kwh",
  "ram_energy_kwh", "gpu_energy_kwh", "cpu_reserved_idle_energy_kwh",
  "gpu_reserved_idle_energy_kwh", "gpu_hours", "energy_measured_kwh", "energy_estimated_kwh",
  "energy_modelled_kwh",
];

export const plus = (a, b) => (a === null || a === undefined ? b : b === null ? a : a + b);

function empty() {
  return Object.fromEntries(MEASURES.map((name) => [name, null]));
}

export function indexes(cube, filters) {
  const chosen = [];
  for (let i = 0; i < cube.project.length; i++) {
    const period = cube.periods[cube.period[i]];
    if (filters.projects && !filters.projects.has(cube.project[i])) continue;
    if (filters.regions && !filters.regions.has(cube.region[i])) continue;
    if (filters.from && period < filters.from.slice(0, period.length)) continue;
    if (filters.to && period > filters.to.slice(0, period.length)) continue;
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

// Emissions of a part of the energy, at the mean grams per kWh of the whole.
export function emissionsOf(part_kwh, whole) {
  if (part_kwh === null || !whole.energy_kwh || whole.emissions_g === null) return null;
  return (part_kwh * whole.emissions_g) / whole.energy_kwh;
}
