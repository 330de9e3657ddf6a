// Drives Microsoft's Kusto.Language (npm package @kusto/language-service-next 12.4.1, compiled to JavaScript by Bridge.NET).
// Inside an engine without a host the caller loads the package first and calls setSchema and analyse;
// under node this file loads the package itself (argument: its folder) and answers one JSON line per request line.
// Every answer is JSON text. Offsets are UTF-16 code units, as JavaScript counts them.
// The names $ctorN are Bridge.NET's numbers for overloads and belong to the version named above.

var globals = null;

function setSchema(schema) {
  const S = Kusto.Language.Symbols;
  const quote = (name) => (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) ? name : "['" + name.replace(/[\\']/g, "\\$&") + "']");
  const columns = (map) => Object.entries(map).map(([name, type]) => quote(name) + ":" + type).join(",");
  const members = [];
  for (const [name, map] of Object.entries(schema.tables || {}))
    members.push(new S.TableSymbol.$ctor7(name, "(" + columns(map) + ")", null));
  for (const [name, f] of Object.entries(schema.functions || {}))
    members.push(new S.FunctionSymbol.$ctor16(name, f.params || "()", "{ datatable(" + columns(f.columns) + ")[] }", null));
  globals = Kusto.Language.GlobalState.Default.WithDatabase(new S.DatabaseSymbol.ctor("db", members));
  return JSON.stringify(members.length);
}

function analyse(query) {
  const code = Kusto.Language.KustoCode.ParseAndAnalyze(query, globals || Kusto.Language.GlobalState.Default);
  const found = code.GetDiagnostics();
  const problems = [];
  for (let i = 0; i < found.Count; i++) {
    const d = found.getItem(i);
    problems.push([d.Code, d.Severity, d.Message, d.Start, d.Length]);
  }
  const columns = [];
  const bound = code.ResultType;
  if (bound && bound.Columns)
    for (let i = 0; i < bound.Columns.Count; i++) {
      const column = bound.Columns.getItem(i);
      columns.push([column.Name, column.Type.Name]);
    }
  return JSON.stringify({ problems, columns });
}

if (typeof require === "function" && typeof process === "object") {
  const fs = require("fs"), path = require("path"), vm = require("vm");
  for (const file of ["bridge.min.js", "Kusto.Language.Bridge.min.js"])
    vm.runInThisContext(fs.readFileSync(path.join(process.argv[2], file), "utf8"), { filename: file });
  require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    let answer;
    try {
      const request = JSON.parse(line);
      answer = "schema" in request ? setSchema(request.schema) : analyse(request.query);
    } catch (error) {
      answer = JSON.stringify({ failure: String(error) });
    }
    process.stdout.write(answer + "\n");
  });
}
