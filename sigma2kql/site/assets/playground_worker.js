// The converter in the reader's browser: Python (Pyodide) with this site's own copy of sigma2kql, away from the page.
// Takes {id, text, target, events}, gives {id, answer} or {id, failure}; first of all {ready} or {failure}.
import { loadPyodide } from "./pyodide.mjs";

const HOME = new URL(".", import.meta.url).href;

async function start() {
  const contents = await (await fetch(HOME + "contents.json")).json();
  const archives = contents.archives.map((name) => fetch(HOME + name).then((found) => {
    if (!found.ok) throw new Error(`${name}: ${found.status}`);
    return found.arrayBuffer();
  }));
  const python = await loadPyodide({ indexURL: HOME });
  const place = python.runPython("import site; site.getsitepackages()[0]");
  for (const archive of archives) python.unpackArchive(new Uint8Array(await archive), "zip", { extractDir: place });
  return python.pyimport("sigma2kql.site.playground");
}

const started = start();
started.then(() => postMessage({ ready: true }), (error) => postMessage({ failure: String(error) }));

onmessage = async ({ data }) => {
  try {
    const playground = await started;
    postMessage({ id: data.id, answer: playground.answer(data.text, data.target, data.events || "") });
  } catch (error) {
    postMessage({ id: data.id, failure: String(error).split("\n").slice(-2).join(" ") });
  }
};
