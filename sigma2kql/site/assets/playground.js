// The playground's page: what is typed goes to the converter, what it answers is shown; the address holds it all.
"use strict";

const at = (id) => document.getElementById(id);
let converter = null;
let parser = null;
let count = 0;
const waiting = new Map();

function told(worker) {
  worker.onmessage = ({ data }) => {
    if (data.ready) {
      at("state").textContent = "ready";
      convert();
    } else if (data.id === undefined) at("state").textContent = "could not start: " + data.failure;
    else {
      const done = waiting.get(data.id);
      waiting.delete(data.id);
      if (done) done(data);
    }
  };
  worker.onerror = (event) => { at("state").textContent = "could not start: " + (event.message || "a file is missing"); };
  return worker;
}

function ask(worker, request) {
  return new Promise((done) => {
    const id = ++count;
    waiting.set(id, done);
    worker.postMessage({ id, ...request });
  });
}

// For tests, and for whoever wants to convert many rules from the console.
window.sigma2kqlConvert = (text, target, events) => ask(converter, { text, target, events });

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const MARKS = { exact: "=", broader: "⊃", narrower: "⊂" };

function shown(result, number, target) {
  const box = element("section");
  box.append(element("h3", result.title || `document ${number + 1}`));
  const line = element("p");
  if (result.verdict) line.append(element("span", `${MARKS[result.verdict]} ${result.verdict}`, `verdict v-${result.verdict}`), " ");
  line.append(element("span", result.table || "", "mono"));
  for (const [source, verdict] of Object.entries(result.verdicts)) line.append(" ", element("span", `${source}: ${verdict}`, "dim"));
  box.append(line);
  if (result.kql) {
    const code = element("pre", undefined, "code");
    code.tabIndex = 0;
    const inner = element("code");
    for (const text of result.kql.split("\n")) inner.append(element("span", text + "\n"));
    code.append(inner);
    box.append(code);
    const judged = element("p", "", "dim");
    box.append(judged);
    if (parser) {
      ask(parser, { target, query: result.kql }).then((data) => {
        if (data.failure) judged.textContent = "Microsoft's parser: " + data.failure;
        else if (!data.problems.length) judged.textContent = "Microsoft's parser: no error";
        else judged.textContent = "Microsoft's parser: " + data.problems.map((one) => `${one[0]} ${one[2]}`).join("; ");
      });
    }
  }
  for (const one of result.diagnostics) {
    const button = element("button", `${one.severity} ${one.code}, line ${one.line}`);
    button.type = "button";
    button.addEventListener("click", () => mark(one));
    const text = element("pre", one.text, "mono");
    box.append(button, text);
  }
  for (const caveat of result.caveats) box.append(element("p", "caveat: " + caveat, "dim"));
  if (result.events.length) {
    const list = element("ol");
    for (const { event, matches } of result.events) {
      const line = element("li", matches === null ? "not asked" : matches ? "matches" : "does not match");
      line.append(" ", element("code", event, "dim"));
      list.append(line);
    }
    box.append(element("h3", "Events, by what the rule means"), list);
  }
  return box;
}

function mark(one) {
  const area = at("rule");
  const lines = area.value.split("\n");
  const start = lines.slice(0, one.line - 1).reduce((sum, line) => sum + line.length + 1, 0);
  area.focus();
  area.setSelectionRange(start + one.column - 1, start + Math.max(one.column, one.end_line === one.line ? one.end_column - 1 : one.column));
}

async function convert() {
  const request = { text: at("rule").value, target: at("target").value, events: at("events").value };
  remember(request);
  const began = performance.now();
  const data = await ask(converter, request);
  if (data.failure) {
    at("answer").replaceChildren(element("p", data.failure));
    return;
  }
  const { results, problem } = JSON.parse(data.answer);
  const parts = results.map((result, number) => shown(result, number, request.target));
  if (problem) parts.push(element("h3", "Events"), element("pre", problem, "mono"));
  at("answer").replaceChildren(...parts);
  at("state").textContent = `converted in ${Math.round(performance.now() - began)} ms`;
}

// The address holds rule, target and events, deflated: it stays in the browser, a fragment is sent to no server.
async function squeezed(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

async function remember(request) {
  const bytes = await squeezed(new TextEncoder().encode(JSON.stringify(request)), new CompressionStream("deflate-raw"));
  const text = btoa(String.fromCharCode(...bytes.subarray(0, 60_000)));
  const link = "#" + text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  if (bytes.length < 60_000) history.replaceState(null, "", link);
}

async function recall() {
  const text = location.hash.slice(1).replace(/-/g, "+").replace(/_/g, "/");
  if (!text) return;
  try {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const kept = JSON.parse(new TextDecoder().decode(await squeezed(bytes, new DecompressionStream("deflate-raw"))));
    at("rule").value = String(kept.text || "");
    at("events").value = String(kept.events || "");
    if ([...at("target").options].some((one) => one.value === kept.target)) at("target").value = kept.target;
  } catch {
    at("state").textContent = "the address holds no rule";
  }
}

async function start() {
  if (location.protocol === "file:") {
    at("state").textContent = "The playground has to be served: python3 -m http.server in the folder of this site, then open it there.";
    return;
  }
  await recall();
  at("state").textContent = "loading Python, about 7 MB";
  converter = told(new Worker("playground/playground_worker.js", { type: "module" }));
  const contents = await (await fetch("playground/contents.json")).json();
  if (contents.parser) parser = told(new Worker("playground/playground_parser.js"));
  let timer = 0;
  for (const id of ["rule", "events", "target"]) {
    at(id).addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(convert, 300);
    });
  }
  at("link").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(location.href); at("link").textContent = "Copied"; } catch { at("link").textContent = "Copy the address"; }
  });
}

start();
