// Sortable tables: buttons in the head, details of a row one click away, long ones cut until asked.
import { element } from "./dom.js";

// A phone shows each cell of a row on a line of its own.
const SHOWN = matchMedia("(max-width: 46rem)").matches ? 8 : 25;

function compare(a, b, descending) {
  const unknownA = a === null || a === undefined;
  const unknownB = b === null || b === undefined;
  if (unknownA || unknownB) return Number(unknownA) - Number(unknownB); // unknown last, either way
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return descending ? -order : order;
}

// columns: [{ name, value(row), text(row), href(row), number }]; detail(row): a node, or none.
export function sortableTable(host, { caption, columns, detail, noun, start }) {
  let rows = [];
  let sorted = { column: start ?? 1, descending: true };
  let isWhole = false;
  const open = new Set();
  const body = element("tbody", { role: "rowgroup" });
  const more = element("button", { type: "button", class: "more" });
  more.addEventListener("click", () => {
    isWhole = !isWhole;
    draw();
  });

  const heads = columns.map((column, index) => {
    const button = element("button", { type: "button" }, column.name, element("span", { class: "arrow", "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      const again = sorted.column === index;
      sorted = { column: index, descending: again ? !sorted.descending : Boolean(column.number) };
      draw();
    });
    return element("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null }, button);
  });
  const table = element(
    "table", { class: "sortable", role: "table" },
    element("caption", { class: "sr" }, caption),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
    body,
  );

  function content(column, row) {
    const text = column.text ? column.text(row) : String(column.value(row) ?? "–");
    const href = column.href?.(row);
    const inner = element("bdi", {}, text);
    return href ? element("a", { href }, inner) : inner;
  }

  function toggle(row) {
    const isOpen = open.has(row.key);
    const button = element("button", { type: "button", class: "unfold", "aria-expanded": String(isOpen), "aria-label": `Details of ${row.name}`, "data-key": row.key }, isOpen ? "−" : "+");
    button.addEventListener("click", () => {
      isOpen ? open.delete(row.key) : open.add(row.key);
      draw();
      body.querySelector(`button[data-key="${CSS.escape(String(row.key))}"]`)?.focus();
    });
    return button;
  }

  function drawRow(row) {
    const cells = columns.map((column, index) =>
      index === 0
        ? element("th", { scope: "row", role: "rowheader" }, detail ? toggle(row) : null, content(column, row))
        : element("td", { role: "cell", class: column.number ? "number" : null, "data-label": column.name }, content(column, row)));
    const drawn = [element("tr", { role: "row" }, ...cells)];
    if (detail && open.has(row.key)) {
      drawn.push(element("tr", { role: "row", class: "detail" }, element("td", { role: "cell", colspan: columns.length }, detail(row))));
    }
    return drawn;
  }

  function draw() {
    const { column, descending } = sorted;
    const ordered = [...rows].sort((a, b) => compare(columns[column].value(a), columns[column].value(b), descending));
    const shown = isWhole ? ordered : ordered.slice(0, SHOWN);
    body.replaceChildren(...shown.flatMap(drawRow));
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    more.hidden = ordered.length <= SHOWN;
    more.textContent = isWhole ? `Show the first ${SHOWN}` : `Show all ${ordered.length} ${noun}`;
  }

  host.replaceChildren(table, more);
  return {
    update(next) {
      rows = next;
      draw();
    },
  };
}
