// What every page has: the theme, tabs, copy buttons, tables that sort. Pages say all of it without.
"use strict";

const root = document.documentElement;
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function theme() {
  const button = document.getElementById("theme");
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  show();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("sigma2kql-theme", root.dataset.theme); } catch { /* not kept, then */ }
    show();
  });
}

function tabs(box) {
  const panels = [...box.querySelectorAll(":scope > .tab")];
  const list = document.createElement("div");
  list.className = "tablist";
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", "Forms of the rule");
  const buttons = panels.map((panel) => {
    const button = document.createElement("button");
    button.type = "button";
    button.id = "tab-" + panel.id;
    button.textContent = panel.querySelector("h3").textContent;
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", button.id);
    list.append(button);
    return button;
  });
  const show = (at, focus) => {
    buttons.forEach((button, number) => {
      button.setAttribute("aria-selected", String(number === at));
      button.tabIndex = number === at ? 0 : -1;
      panels[number].hidden = number !== at;
    });
    if (focus) buttons[at].focus();
  };
  buttons.forEach((button, number) => button.addEventListener("click", () => {
    show(number);
    history.replaceState(null, "", "#" + panels[number].id);
  }));
  list.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show((to + buttons.length) % buttons.length, true);
  });
  const byHash = () => {
    const at = panels.findIndex((panel) => "#" + panel.id === location.hash);
    if (at >= 0) show(at);
    return at >= 0;
  };
  box.prepend(list);
  box.classList.add("ready");
  if (!byHash()) show(Math.min(1, panels.length - 1));
  addEventListener("hashchange", byHash);
}

function copy(button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.getElementById("c-" + button.dataset.copy).textContent.replace(/\n$/, "");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

function sortable(table) {
  const body = table.tBodies[0];
  const key = (row, at) => row.cells[at].dataset.sort || row.cells[at].textContent.trim();
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      [...table.tHead.rows[0].cells].forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => key(a, at).localeCompare(key(b, at), "en", { numeric: true }));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}

// `/` searches, `j` and `k` walk the list, Enter opens. Nothing is taken from a reader who is typing.
function keys() {
  const words = () => document.getElementById("words");
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing) {
      event.preventDefault(); // a search field would be emptied
      event.target.blur();
    }
    if (typing) return;
    if (event.key === "/") {
      event.preventDefault();
      if (words()) words().focus();
      else location.href = document.querySelector(".home").href + "#focus";
    }
    if (event.key !== "j" && event.key !== "k") return;
    const rows = [...document.querySelectorAll("table.list tbody tr")];
    const at = rows.findIndex((row) => row.classList.contains("at"));
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + (event.key === "j" ? 1 : -1)))];
    if (!next) return;
    if (at >= 0) rows[at].classList.remove("at");
    next.classList.add("at");
    next.querySelector("a").focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  });
}

theme();
document.querySelectorAll(".tabs").forEach(tabs);
document.querySelectorAll("button.copy").forEach(copy);
document.querySelectorAll("table.sortable:not(#results table)").forEach(sortable);
keys();
