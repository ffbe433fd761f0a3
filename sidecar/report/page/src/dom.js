// Building elements. Text is always a text node: a foreign name is never markup.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);
export const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// A source by its number, one click away.
export function reference(number) {
  if (!number) return null;
  return element("a", { href: `#source-${number}`, class: "ref", "aria-label": `source ${number}` }, `[${number}]`);
}

export function simpleTable(caption, headings, rows) {
  const cell = (value, index) =>
    index === 0
      ? element("th", { scope: "row", role: "rowheader" }, element("bdi", {}, value))
      : element("td", { role: "cell", class: "number", "data-label": headings[index] }, value);
  return element(
    "table",
    { class: "plain", role: "table" },
    element("caption", { class: "sr" }, caption),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...headings.map((text, index) =>
      element("th", { scope: "col", role: "columnheader", class: index ? "number" : null }, text)))),
    element("tbody", { role: "rowgroup" }, ...rows.map((row) =>
      element("tr", { role: "row" }, ...row.map((value, index) => cell(String(value), index))))),
  );
}
