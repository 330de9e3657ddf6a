"""What the playground answers: a rule converted, judged and tried on events, in the reader's browser.

Place in the flow: shipped with a site as part of this package, and called there by `assets/playground_worker.js`
through Pyodide; `files` gathers what the page needs when the site is made. Invariant: the answer is the command
line's: the same code runs in both places.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sigma2kql import __version__
from sigma2kql.api import Compiler, Input, Options, load_input
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source, fail
from sigma2kql.diagnostics.render import as_text
from sigma2kql.engines.kusto_language import BUNDLE, DRIVER, PACKAGE
from sigma2kql.lint.judge import schema_of
from sigma2kql.model.tree import Compiled, Rule
from sigma2kql.reference.evaluate import evaluate
from sigma2kql.site.pages import page_name
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.json_text import compose_json
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import compose

PYODIDE = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
# What conversion imports, and where a condition is at fault or an artifact is rendered.
PACKAGES = ("yaml", "lark", "jinja2", "markupsafe")
KEPT = (".py", ".pyi", ".lark", ".j2", ".css", ".js", ".typed", ".yml", ".json")
STILL = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same input gives the same bytes


def answer(text: str, target: str, events: str = "") -> str:
    """JSON: what became of every document, and of every event given. Never raises for what is wrong in them."""
    try:
        tried = _events(events) if events.strip() else []
        problem = ""
    except Sigma2KqlError as error:
        tried, problem = [], as_text(error.diagnostics[0])
    documents = load_input(Input("rule.yml", None, text.encode("utf-8", "replace")))
    compiler = Compiler(Options(target=target), documents)
    results = [_result(compiler, compiler.compile(document), tried) for document in documents]
    return json.dumps({"results": results, "problem": problem}, ensure_ascii=False)


def _result(compiler: Compiler, done: Compiled, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "title": done.document.meta.title,
        "table": done.table,
        "kql": done.kql,
        "verdict": done.verdict,
        "verdicts": dict(done.verdicts),
        "columns": dict(done.columns),
        "source": dict(done.mapped),
        "caveats": list(done.caveats),
        "diagnostics": [{**d.as_dict(), "text": as_text(d)} for d in done.diagnostics],
        "events": [{"event": _line(event), "matches": _tried(compiler, done, event)} for event in events],
    }


def _tried(compiler: Compiler, done: Compiled, event: Mapping[str, Any]) -> bool | None:
    """Whether the rule means the event, by the reference; None where it is no rule that can be asked."""
    if not isinstance(done.document, Rule):
        return None
    try:
        return evaluate(compiler.where(done.document), event)
    except Sigma2KqlError:
        return None


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, default=str)[:500]


def _events(text: str) -> list[Mapping[str, Any]]:
    """Events as a list, as a map of lists (match, no_match), or one a line. Raises Sigma2KqlError."""
    source = Source("events", text)
    if text.lstrip()[:1] == "{" and "\n{" in text.strip():
        nodes = [compose_json(Source("events", line)) for line in text.splitlines() if line.strip()]
    else:
        nodes = list(compose(source))
    problems = [p for node in nodes for p in node.problems]
    if problems:
        raise Sigma2KqlError(problems)
    found: list[Any] = []
    for value in (plain(node.root) for node in nodes if node.root is not None):
        lists = value.values() if isinstance(value, dict) and value.keys() <= {"match", "no_match"} else [value]
        for one in lists:
            found += one if isinstance(one, list) else [one]
    return [event for event in found if isinstance(event, dict)]


# --------------------------------------------------------------------------------------------------------------------
# Files


def files(node_modules: Path, targets: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """What a site needs beside its pages: (path, bytes). Raises Sigma2KqlError where a package is not there.

    `node_modules` holds the npm package pyodide, and @kusto/language-service-next where Microsoft's parser is wanted.
    """
    home = next((f for f in (node_modules, node_modules / "node_modules") if (f / "pyodide").is_dir()), None)
    if home is None:
        raise fail("E831", f"{node_modules} does not hold the npm package pyodide", hint="npm install pyodide")
    for name in PYODIDE:
        yield f"playground/{name}", _read(home / "pyodide" / name)
    names = []
    for name, folder in _packages():
        names.append(f"{name}.zip")
        yield f"playground/{name}.zip", _archive(folder)
    parser = home / PACKAGE
    with_parser = all((parser / name).is_file() for name in BUNDLE)
    if with_parser:
        for name in BUNDLE:
            yield f"playground/{name}", _read(parser / name)
        yield f"playground/{DRIVER.name}", _read(DRIVER)
        for target in targets:
            schema = json.dumps(schema_of(Compiler(Options(target=target)).target), separators=(",", ":"))
            yield f"playground/schema-{page_name(target)}.json", schema.encode()
    told = {"version": __version__, "archives": names, "parser": with_parser}
    yield "playground/contents.json", json.dumps(told).encode()
    for name in ("playground_worker.js", "playground_parser.js"):
        yield f"playground/{name}", _read(Path(__file__).with_name("assets") / name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise fail("E803", f"cannot read {path}: {error.strerror or error}") from error


def _packages() -> Iterator[tuple[str, dict[str, Path]]]:
    """Name and files (path in the archive -> file) of this package and of what it imports, as they are installed."""
    home = Path(__file__).resolve().parent.parent
    own = {f"sigma2kql/{p.relative_to(home).as_posix()}": p for p in sorted(home.rglob("*")) if p.suffix in KEPT}
    folder = mappings_folder()
    data = {f"sigma2kql/mappings/{p.relative_to(folder).as_posix()}": p for p in sorted(folder.rglob("*.*"))}
    yield f"sigma2kql-{__version__}", {**own, **{name: p for name, p in data.items() if p.suffix in (".yml", ".json")}}
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise fail("E831", f"the Python package {name} is not installed")
        top = Path(spec.origin).parent
        yield name, {f"{name}/{p.relative_to(top).as_posix()}": p for p in sorted(top.rglob("*")) if p.suffix in KEPT}


def _archive(found: Mapping[str, Path]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in found.items():
            info = zipfile.ZipInfo(name, STILL)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, _read(path))
    return held.getvalue()
