// Microsoft's own parser of KQL beside the converter. Takes {id, target, query}, gives {id, problems} or {id, failure}.
"use strict";

importScripts("bridge.min.js", "Kusto.Language.Bridge.min.js", "kusto_language.js");

let known = "";

onmessage = async ({ data }) => {
  try {
    if (known !== data.target) {
      setSchema(await (await fetch(`schema-${encodeURIComponent(data.target)}.json`)).json());
      known = data.target;
    }
    postMessage({ id: data.id, problems: JSON.parse(analyse(data.query)).problems });
  } catch (error) {
    postMessage({ id: data.id, failure: String(error) });
  }
};
