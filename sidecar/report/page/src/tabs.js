// Tabs: without script all panels stand one below the other; with it, one at a time.
// Keys as in the ARIA authoring practices: arrows move and select, Home and End go to the ends.
import { all, element } from "./dom.js";

export function startTabs(shown) {
  for (const host of all("[data-tabs]")) tabs(host, shown);
}

function tabs(host, shown) {
  const panels = all("[data-tab]", host);
  if (panels.length < 2) return;
  const list = element("div", { role: "tablist", "aria-label": "Lines to add up along", class: "tablist" });
  const buttons = panels.map((panel, index) => {
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", `tab-${panel.id}`);
    const button = element("button", { type: "button", role: "tab", id: `tab-${panel.id}`, "aria-controls": panel.id }, panel.dataset.tab);
    button.addEventListener("click", () => select(index));
    button.addEventListener("keydown", (event) => {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: panels.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = (to + panels.length) % panels.length;
      select(next);
      buttons[next].focus();
    });
    return button;
  });

  function select(chosen) {
    panels.forEach((panel, index) => panel.classList.toggle("hidden", index !== chosen));
    buttons.forEach((button, index) => {
      button.setAttribute("aria-selected", String(index === chosen));
      button.tabIndex = index === chosen ? 0 : -1;
    });
    shown?.();
  }

  list.append(...buttons);
  host.prepend(list);
  host.classList.add("on");
  select(0);
}
