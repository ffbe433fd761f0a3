// Sortable tables: buttons in the head, details of a row one click away, long ones cut until asked.
import { element } from "./dom.js";

// A phone shows name and main amount of a row; the rest is in its details.
const SHOWN = matchMedia("(max-width: 46rem)").matches ? 8 : 25;

function compare(a, b, descending) {
  const unknownA = a === null || a === undefined;
  const unknownB = b === null || b === undefined;
  if (unknownA || unknownB) return Number(unknownA) - Number(unknownB); // unknown last, either way
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return descending ? -order : order;
}

// columns: [{ name, value(row), text(row), href(row), node(row), number, main }]; detail(row): a node.
// Rows with `isRest` stay last, whatever is sorted: they stand for many.
export function sortableTable(host, { caption, columns, detail, noun, start, shown = SHOWN }) {
  let rows = [];
  let sorted = { column: start ?? 1, descending: true };
  let isWhole = false;
  const open = new Set();
  const body = element("tbody", { role: "rowgroup" });
  const more = element("button", { type: "button", class: "more" });
  const cut = element("p", { class: "note paper" });
  more.addEventListener("click", () => {
    isWhole = !isWhole;
    draw();
  });

  function sortBy(index, descending) {
    sorted = { column: index, descending };
    draw();
  }

  const heads = columns.map((column, index) => {
    const button = element("button", { type: "button" }, column.name, element("span", { class: "arrow", "aria-hidden": "true" }));
    button.addEventListener("click", () =>
      sortBy(index, sorted.column === index ? !sorted.descending : Boolean(column.number)));
    return element("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null }, button);
  });
  // Where the head has no room, one chooses from a list.
  const choice = element("select", {}, ...columns.flatMap((column, index) => [
    element("option", { value: `${index} ${column.number ? "d" : "a"}` }, column.name),
    element("option", { value: `${index} ${column.number ? "a" : "d"}` }, `${column.name}, the other way`),
  ]));
  choice.addEventListener("change", () => {
    const [index, way] = choice.value.split(" ");
    sortBy(Number(index), way === "d");
  });
  const sorter = element("label", { class: "sorter" }, "Sort by ", choice);
  const table = element(
    "table", { class: "sortable", role: "table" },
    element("caption", { class: "sr" }, caption),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
    body,
  );

  function content(column, row) {
    if (column.node) return column.node(row);
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
    const kind = (column) => [column.number && "number", column.main ? "main" : column.aside ? "aside" : "minor"].filter(Boolean).join(" ");
    const cells = columns.map((column, index) =>
      index === 0
        ? element("th", { scope: "row", role: "rowheader" }, element("span", { class: "named" }, detail ? toggle(row) : null, content(column, row)))
        : element("td", { role: "cell", class: kind(column), "data-label": column.name }, content(column, row)));
    const drawn = [element("tr", { role: "row", class: row.isRest ? "rest" : null }, ...cells)];
    if (detail && open.has(row.key)) {
      drawn.push(element("tr", { role: "row", class: "detail" }, element("td", { role: "cell", colspan: columns.length }, detail(row))));
    }
    return drawn;
  }

  function draw() {
    const { column, descending } = sorted;
    const ordered = [...rows].sort((a, b) =>
      Number(Boolean(a.isRest)) - Number(Boolean(b.isRest)) || compare(columns[column].value(a), columns[column].value(b), descending));
    const some = isWhole ? ordered : ordered.filter((row, index) => index < shown || row.isRest);
    body.replaceChildren(...some.flatMap(drawRow));
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    choice.value = `${column} ${descending ? "d" : "a"}`;
    more.hidden = ordered.length <= shown;
    cut.hidden = some.length === ordered.length;
    cut.textContent = `The first ${some.length.toLocaleString("en-US")} of ${ordered.length.toLocaleString("en-US")} ${noun}.`;
    more.textContent = isWhole ? `Show the first ${shown}` : `Show all ${ordered.length.toLocaleString("en-US")} ${noun}`;
  }

  host.replaceChildren(sorter, table, more, cut);
  return {
    update(next) {
      rows = next;
      sorter.hidden = rows.length < 2;
      draw();
    },
  };
}
