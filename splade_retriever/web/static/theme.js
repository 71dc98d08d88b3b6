"use strict";
// Loaded before the page is drawn, so that it is not drawn in the wrong colours first.
(() => {
  const NAME = "splade-theme";
  const LABELS = { system: "System", light: "Light", dark: "Dark" };

  /** Return the remembered choice; null where there is none, or where the browser keeps nothing. */
  function remembered() {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null;
    }
  }

  function remember(theme) {
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // The choice then lasts until the page is closed.
    }
  }

  /** Use a theme; any other value follows the system's setting. */
  function use(theme) {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  }

  /** Put the switch into the header: a list that the keyboard and screen readers know. */
  function addSwitch() {
    const select = document.createElement("select");
    select.id = "theme";
    for (const [value, label] of Object.entries(LABELS)) select.append(new Option(label, value));
    const label = document.createElement("label");
    label.htmlFor = "theme";
    label.textContent = "Colours";
    const place = document.createElement("p");
    place.className = "theme";
    place.append(label, select);
    document.querySelector("header").append(place);
    return select;
  }

  use(remembered());
  document.addEventListener("DOMContentLoaded", () => {
    const select = addSwitch();
    select.value = document.documentElement.dataset.theme ?? "system";
    select.addEventListener("input", () => {
      use(select.value);
      remember(select.value);
    });
    addEventListener("storage", (event) => {
      if (event.key !== NAME) return;
      use(event.newValue); // another tab's choice
      select.value = document.documentElement.dataset.theme ?? "system";
    });
  });
})();
