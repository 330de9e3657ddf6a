// The list of rules: words and facets over one index, their state in the address.
"use strict";

const index = window.sigma2kql;
const SHOWN = 150;
const RANK = { critical: 4, high: 3, medium: 2, low: 1, informational: 0 };
const MARKS = { exact: "=", broader: "⊃", narrower: "⊂", failed: "×", live: "●", blind: "◐", dead: "○" };
const BARS = { critical: "▮▮▮▮", high: "▮▮▮▯", medium: "▮▮▯▯", low: "▮▯▯▯" };
const $ = (id) => document.getElementById(id);

const named = (list, at) => (at < 0 ? "" : index[list][at]);
const rules = index.rules.map((row) => {
  const [page, title, level, status, log, author, date, techniques, text, outcomes] = row;
  const rule = {
    page, title, date, text,
    level: named("levels", level), status: named("statuses", status), log: named("logs", log), author: named("authors", author),
    techniques: techniques.map((at) => index.techniques[at]),
    outcomes: outcomes.map(([verdict, tables, sources, here]) => ({
      verdict: index.verdicts[verdict], tables: tables.map((at) => index.tables[at]),
      sources: sources.map((at) => index.sources[at]), here: named("liveness", here),
    })),
  };
  const tables = rule.outcomes.flatMap((one) => one.tables).join(" ");
  rule.all = `${title} ${page} ${rule.log} ${rule.author} ${rule.techniques.join(" ")} ${tables} ${text}`.toLowerCase();
  rule.head = title.toLowerCase();
  return rule;
});

const on = () => index.targets.indexOf(state.target);
const FACETS = [
  ["level", "Level", (rule) => [rule.level || "none"]],
  ["verdict", "Verdict", (rule) => [rule.outcomes[on()].verdict]],
  ["here", "In the workspace", (rule) => (rule.outcomes[on()].here ? [rule.outcomes[on()].here] : [])],
  ["table", "Table", (rule) => rule.outcomes[on()].tables],
  ["source", "Source", (rule) => rule.outcomes[on()].sources],
  ["log", "Log source", (rule) => (rule.log ? [rule.log] : [])],
  ["technique", "Technique", (rule) => rule.techniques],
  ["status", "Status", (rule) => [rule.status || "none"]],
  ["author", "Author", (rule) => (rule.author ? [rule.author] : [])],
];
const ORDER = { level: ["critical", "high", "medium", "low", "informational"], verdict: ["exact", "broader", "narrower"] };

const state = { q: "", target: index.targets[0], sort: "", chosen: {}, shown: SHOWN };

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.q = given.get("q") || "";
  state.target = index.targets.includes(given.get("target")) ? given.get("target") : index.targets[0];
  state.sort = given.get("sort") || "";
  state.chosen = {};
  for (const [id] of FACETS) state.chosen[id] = new Set(given.getAll(id));
  state.shown = SHOWN;
}

function write() {
  const given = new URLSearchParams();
  if (state.q) given.set("q", state.q);
  if (state.target !== index.targets[0]) given.set("target", state.target);
  for (const [id] of FACETS) for (const value of state.chosen[id]) given.append(id, value);
  if (state.sort) given.set("sort", state.sort);
  const hash = given.toString();
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}

const fits = (rule, [id, , of]) => state.chosen[id].size === 0 || of(rule).some((value) => state.chosen[id].has(value));

const KEYS = {
  level: (rule) => RANK[rule.level] ?? -1,
  title: (rule) => rule.head,
  table: (rule) => rule.outcomes[on()].tables[0] || "~",
  date: (rule) => rule.date,
};

function found() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const byWords = rules.filter((rule) => words.every((word) => rule.all.includes(word)));
  const left = byWords.filter((rule) => FACETS.every((facet) => fits(rule, facet)));
  const by = state.sort.replace(/^-/, "");
  const sign = state.sort.startsWith("-") ? -1 : 1;
  if (KEYS[by]) {
    const key = KEYS[by];
    left.sort((a, b) => sign * (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
  } else if (words.length) {
    const score = new Map(left.map((rule) => [rule, words.filter((word) => rule.head.includes(word)).length]));
    left.sort((a, b) => score.get(b) - score.get(a) || (RANK[b.level] ?? -1) - (RANK[a.level] ?? -1));
  } else {
    left.sort((a, b) => (a.date < b.date ? 1 : a.date > b.date ? -1 : 0));
  }
  return [byWords, left];
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function marked(kind, value, sign) {
  const made = element("span", undefined, `${kind} ${kind[0]}-${value.replace(" ", "-")}`);
  const mark = element("span", sign);
  mark.setAttribute("aria-hidden", "true");
  made.append(mark, " " + value);
  return made;
}

function row(rule) {
  const made = element("tr");
  const level = element("td");
  level.append(rule.level ? marked("level", rule.level, BARS[rule.level] || "▯▯▯▯") : element("span", "no level", "dim"));
  const title = element("td");
  const link = element("a", rule.title);
  link.href = rule.page;
  link.dir = "auto";
  title.append(link, element("span", [rule.log, rule.techniques.join(" ")].filter(Boolean).join(" · "), "dim sub"));
  made.append(level, title);
  for (const one of rule.outcomes) {
    const cell = element("td");
    cell.append(marked("verdict", one.verdict, MARKS[one.verdict] || "·"));
    if (one.here) cell.append(" ", marked("here", one.here, MARKS[one.here]));
    made.append(cell);
  }
  made.append(element("td", rule.outcomes[on()].tables.join(", "), "mono"), element("td", rule.date, "num"));
  return made;
}

function head() {
  const made = element("tr");
  const columns = [["level", "Level"], ["title", "Rule"], ...index.targets.map((one) => ["", one]), ["table", "Table"], ["date", "Changed"]];
  for (const [key, words] of columns) {
    const cell = element("th");
    cell.scope = "col";
    if (key) {
      const button = element("button", words);
      button.type = "button";
      button.addEventListener("click", () => {
        state.sort = state.sort === key ? "-" + key : key;
        show();
      });
      cell.append(button);
      if (state.sort.replace(/^-/, "") === key) cell.setAttribute("aria-sort", state.sort[0] === "-" ? "descending" : "ascending");
    } else cell.textContent = words;
    made.append(cell);
  }
  return made;
}

function table(left) {
  const made = element("table", undefined, "list");
  made.createTHead().append(head());
  made.createTBody().append(...left.slice(0, state.shown).map(row));
  const parts = [made];
  if (left.length > state.shown) {
    const more = element("button", `Show ${Math.min(500, left.length - state.shown)} more of ${left.length.toLocaleString("en")}`, "more");
    more.type = "button";
    more.addEventListener("click", () => { state.shown += 500; show(); });
    parts.push(more);
  }
  if (!left.length) parts.push(element("p", "No rule has all of this. Clear a filter, or a word."));
  $("results").replaceChildren(...parts);
}

function facets(byWords) {
  const parts = [];
  for (const facet of FACETS) {
    const [id, words, of] = facet;
    const others = byWords.filter((rule) => FACETS.every((one) => one === facet || fits(rule, one)));
    const counts = new Map();
    for (const rule of others) for (const value of of(rule)) counts.set(value, (counts.get(value) || 0) + 1);
    for (const value of state.chosen[id]) if (!counts.has(value)) counts.set(value, 0);
    if (counts.size === 0) continue;
    const rank = (value) => { const at = (ORDER[id] || []).indexOf(value); return at < 0 ? 99 : at; };
    const values = [...counts].sort((a, b) => state.chosen[id].has(b[0]) - state.chosen[id].has(a[0]) || rank(a[0]) - rank(b[0]) || b[1] - a[1]).slice(0, 200);
    const set = element("fieldset");
    set.append(element("legend", words));
    const box = element("div", undefined, "values");
    for (const [value, number] of values) {
      const label = element("label");
      const input = element("input");
      input.type = "checkbox";
      input.name = id;
      input.value = value;
      input.checked = state.chosen[id].has(value);
      const shown = index.names[value] ? `${value} ${index.names[value]}` : value;
      label.append(input, element("span", shown), element("span", number.toLocaleString("en"), "num"));
      box.append(label);
    }
    set.append(box);
    parts.push(set);
  }
  const at = document.activeElement;
  const focused = at && at.type === "checkbox" ? [at.name, at.value] : null;
  const scrolled = new Map([...document.querySelectorAll("#facet-list .values")].map((box) => [box.previousSibling.textContent, box.scrollTop]));
  $("facet-list").replaceChildren(...parts);
  for (const box of document.querySelectorAll("#facet-list .values")) box.scrollTop = scrolled.get(box.previousSibling.textContent) || 0;
  if (focused) for (const input of document.querySelectorAll("#facet-list input")) if (input.name === focused[0] && input.value === focused[1]) input.focus();
}

function show() {
  write();
  const [byWords, left] = found();
  table(left);
  facets(byWords);
  $("count").textContent = `${left.length.toLocaleString("en")} of ${rules.length.toLocaleString("en")} rules`;
}

function start() {
  const focus = location.hash === "#focus";
  read();
  $("search").hidden = false;
  $("facets").hidden = false;
  $("facets").open = matchMedia("(min-width: 62rem)").matches;
  $("words").value = state.q;
  $("target").value = state.target;
  $("search").addEventListener("submit", (event) => event.preventDefault());
  let waiting = 0;
  $("words").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.q = $("words").value.trim(); state.shown = SHOWN; show(); }, 60);
  });
  $("words").addEventListener("keydown", (event) => {
    const first = document.querySelector("#results table.list a");
    if (event.key === "Enter" && first) first.focus();
  });
  $("target").addEventListener("change", () => { state.target = $("target").value; show(); });
  $("facet-list").addEventListener("change", ({ target }) => {
    state.chosen[target.name][target.checked ? "add" : "delete"](target.value);
    state.shown = SHOWN;
    show();
  });
  $("clear").addEventListener("click", () => {
    state.q = $("words").value = "";
    state.sort = "";
    for (const [id] of FACETS) state.chosen[id].clear();
    show();
    $("words").focus();
  });
  addEventListener("hashchange", () => { read(); $("words").value = state.q; $("target").value = state.target; show(); });
  show();
  if (focus) $("words").focus();
}

start();
