// The filter form: projects, regions and time; every change is told as one value.
import { all, byId, element } from "./dom.js";

function checkboxes(host, name, entries, changed) {
  host.replaceChildren(...entries.map(([index, text]) => {
    const box = element("input", { type: "checkbox", name, value: index });
    box.addEventListener("change", changed);
    return element("label", {}, box, element("bdi", {}, text));
  }));
}

function checked(name) {
  const values = all(`input[name="${name}"]:checked`).map((box) => Number(box.value));
  return values.length ? new Set(values) : null;
}

function summarise(host, noun, chosen, names) {
  const text = !chosen ? `All ${noun}` : chosen.size === 1 ? names[[...chosen][0]] : `${chosen.size} ${noun}`;
  host.replaceChildren(element("bdi", {}, text));
}

// choices: { projects: [[index, name]], regions: [[index, name]] }
export function startFilters(cube, choices, tell) {
  const form = byId("filters");
  if (!form) return () => ({});
  const named = (entries) => Object.fromEntries(entries);
  const from = byId("from");
  const to = byId("to");
  const search = byId("find-project");
  const dated = cube.periods.filter(Boolean);
  const [first, last] = [dated[0] ?? "", dated.at(-1) ?? ""];
  const inner = (value, edge) => (value && value !== edge ? value : ""); // the whole time is no filter
  const read = () => ({ projects: checked("project"), regions: checked("region"), from: inner(from.value, first), to: inner(to.value, last) });

  function changed() {
    const filters = read();
    summarise(byId("projects-chosen"), "projects", filters.projects, named(choices.projects));
    summarise(byId("regions-chosen"), "regions", filters.regions, named(choices.regions));
    tell(filters);
  }

  checkboxes(byId("project-boxes"), "project", choices.projects, changed);
  checkboxes(byId("region-boxes"), "region", choices.regions, changed);
  for (const input of [from, to]) {
    input.type = cube.kind === "month" ? "month" : "date";
    input.min = first;
    input.max = last;
    input.defaultValue = input === from ? first : last;
    input.addEventListener("change", changed);
  }
  search.addEventListener("input", () => {
    const sought = search.value.trim().toLowerCase();
    for (const row of all("#project-boxes label")) row.hidden = !row.textContent.toLowerCase().includes(sought);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => {
    form.reset();
    search.dispatchEvent(new Event("input"));
    changed();
  });
  // One open list at a time; Escape closes it and gives the focus back.
  for (const list of all("details.choose", form)) {
    list.addEventListener("toggle", () => {
      if (list.open) all("details.choose", form).forEach((other) => other !== list && (other.open = false));
    });
    list.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && list.open) {
        list.open = false;
        list.querySelector("summary").focus();
      }
    });
  }
  document.addEventListener("click", (event) => {
    for (const list of all("details.choose[open]", form)) if (!list.contains(event.target)) list.open = false;
  });
  form.hidden = false;
  changed();
  return read;
}
