// Light and dark: what the system prefers, until the reader says otherwise.
import { byId, all } from "./dom.js";

const KEY = "emissions-report-theme";

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // refused by the browser: the choice then lasts for this page
  }
}

function remember(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // as above
  }
}

const systemTheme = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
const current = () => document.documentElement.dataset.theme ?? systemTheme();

function say(button) {
  const other = current() === "dark" ? "light" : "dark";
  button.textContent = other === "dark" ? "Dark" : "Light";
  button.setAttribute("aria-label", `Switch to ${other} colours`);
}

export function startTheme() {
  const button = byId("theme");
  const kept = remembered();
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  if (!button) return;
  button.hidden = false;
  say(button);
  button.addEventListener("click", () => {
    const next = current() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    remember(next);
    say(button);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => say(button));
}

// A source that is folded away is shown when one goes to it.
export function startTargets() {
  const show = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target && target.closest("details:not([open])");
    if (!folded) return;
    folded.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", show);
  show();
}

// On paper nothing can be clicked: what explains a number is opened, and closed again after.
export function startPrinting() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details.known:not([open])"); // those that are open already stay so
    opened.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
}
