"""Every diagnostic code once: severity, what it means, why it is so and how to mend it (`sigma2kql explain CODE`).

Place in the flow: below everything; data only. Invariant: a code, once released, keeps its meaning.
E1xx files and YAML, E2xx/W2xx the Sigma language, E3xx conditions, E4xx/W4xx mapping, E5xx/W5xx emission, E6xx
running, E7xx artifacts and deployment, E8xx the call itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

# Every code as a type: a code that is not here, or a slip in one, does not pass the type checker. One line a hundred.
Code = Literal[
    "E101", "E102", "E103", "E104", "E105", "E106", "E107", "E108", "E109", "E110", "E111", "E112", "E113", "E114",
    "E115", "E116", "E117", "E118",
    "E201", "E202", "E203", "E204", "E205", "E210", "E211", "E212", "E213", "E214", "E215", "E216", "E217", "E218",
    "E220", "E221", "E222", "E223", "E226", "E230", "E231", "E232", "E233", "E234", "E240",
    "E301", "E302", "E303", "E304", "E305", "E306", "E307", "E308", "E309",
    "E401", "E402", "E403", "E404", "E405", "E406", "E407", "E408", "E410", "E411", "E412", "E413", "E414", "E450",
    "E451", "E452", "E453", "E454", "E455", "E456", "E457", "E458", "E459", "E460",
    "E520", "E521", "E522",
    "E600", "E601", "E602", "E603", "E604", "E605", "E606", "E650", "E651", "E652", "E653", "E660", "E661", "E662",
    "E663", "E664", "E665", "E666", "E667", "E668", "E670", "E671", "E672", "E673", "E690", "E691",
    "E701", "E702", "E703", "E704", "E705", "E706", "E707", "E708", "E709", "E710", "E711", "E712", "E713", "E714",
    "E715", "E716", "E717", "E718", "E719", "E750", "E751", "E752", "E753", "E754", "E755", "E756", "E757", "E758",
    "E801", "E802", "E803", "E804", "E805", "E806", "E821", "E822", "E830", "E831", "E899",
    "W101",
    "W201", "W202", "W203", "W204", "W205", "W206", "W207", "W210", "W211", "W212", "W213", "W214", "W215", "W240",
    "W241", "W242", "W243", "W244", "W245",
    "W301", "W302",
    "W401", "W402", "W403", "W404", "W405", "W406", "W407", "W408", "W409", "W410", "W411", "W412", "W420", "W421",
    "W501",
    "W650", "W673", "W674", "W690", "W691", "W692", "W693", "W694",
    "W751", "W752", "W753", "W754", "W755", "W756", "W757", "W758", "W759", "W761", "W762", "W763", "W764", "W765",
    "W766", "W767", "W768", "W769", "W770", "W771", "W772",
    "W801",
    "I240",
    "I403", "I406", "I414",
]  # fmt: skip


class Entry(NamedTuple):
    severity: Literal["error", "warning", "info"]
    title: str
    why: str
    fix: str


CATALOGUE: dict[Code, Entry] = {
    # running on this machine (E600 to E606)
    "E600": Entry(
        "error",
        "running queries on this machine needs more than is installed",
        "The local engine (DuckDB with duckdb-kql) comes with the extra `test`, so that compiling stays light.",
        "pip install 'sigma2kql[test]'",
    ),
    "E601": Entry(
        "error",
        "the local engine cannot run this query",
        "It refuses a construct of KQL that it cannot translate exactly; the query may well be right.",
        "Run it where the data is (`--engine kusto` or `--engine loganalytics`), or write it with other operators.",
    ),
    "E602": Entry(
        "error",
        "the query is not valid",
        "Its syntax, a name or a type is wrong; Kusto would refuse it too.",
        "Correct the query, or report the rule: emitted queries are never to fail like this.",
    ),
    "E603": Entry(
        "error",
        "the query failed while it ran",
        "The local engine ran out of memory, or met a value that it cannot compute with.",
        "Give it more memory, or fewer rows.",
    ),
    "E604": Entry(
        "error",
        "the events do not fit into a table",
        "A value is nested too deeply or too large, or two columns differ only in case (DuckDB takes them for one).",
        "Leave out the event or the column that the message names.",
    ),
    "E605": Entry(
        "error",
        "the query is nested too deeply",
        "Parentheses, `not` or calls stand in one another more often than the engine can follow.",
        "Write the condition flatter, or split the rule.",
    ),
    "E606": Entry(
        "error",
        "the query took too long",
        "The time given to each query is over; it was stopped.",
        "Give it more time, or fewer rows.",
    ),
    # files and YAML: E1 and W1
    "E101": Entry(
        "error",
        "the file is not UTF-8",
        "Sigma rules are UTF-8 texts; read in another encoding, their values would silently be other values.",
        "Save the file as UTF-8, with or without a byte order mark.",
    ),
    "E102": Entry(
        "error",
        "the file is too large",
        "The largest public rule is far below the limit; a larger file is no rule, or many of them.",
        "Split it into several files.",
    ),
    "E103": Entry(
        "error",
        "a character that YAML does not allow",
        "YAML texts hold printable characters, line ends and tabs; control characters are written as escapes.",
        'Remove it, or write it inside double quotes as an escape ("\\x07").',
    ),
    "E104": Entry(
        "error",
        "the text is not YAML",
        "The parser's own words follow; the mistake is often in the line before: a missing quote or wrong indentation.",
        "Quote values that start with * & % @ ` { [ or hold `: ` or ` #`; indent with blanks.",
    ),
    "E105": Entry(
        "error",
        "nested too deeply",
        "No rule nests lists and maps this deep; a text that does is made to exhaust the reader.",
        "Flatten the document.",
    ),
    "E106": Entry(
        "error",
        "aliases or templates expand without bound",
        "An alias that contains itself, aliases of aliases, or a long template can make a small text endlessly large.",
        "Write the values out, or use fewer levels of aliases; split the file.",
    ),
    "E107": Entry(
        "error",
        "a key stands twice in one map",
        "YAML keeps one of the two, so the rule would silently lose the other line.",
        "Join both into one list, or put one of them into a search identifier of its own.",
    ),
    "E108": Entry(
        "error",
        "a key is not text",
        "Keys are names of fields and attributes.",
        "Quote it if a text was meant.",
    ),
    "E109": Entry(
        "error",
        "a YAML tag that is not supported",
        "Only the tags of plain YAML types are read; others could make the reader run code.",
        "Remove the tag.",
    ),
    "E110": Entry(
        "error",
        "the file is empty",
        "Every file that is read must give a result; an empty one cannot.",
        "Remove the file, or write a rule into it.",
    ),
    "E111": Entry(
        "error",
        "a merge key without a map",
        "`<<` takes the entries of a map, or of several maps, into this one.",
        "Let it point at a map, or write the key in quotes if it is a name.",
    ),
    "E112": Entry(
        "error",
        "the document is of no known kind",
        "Sigma rules, correlations and filters are read, and Microsoft hunting and analytics queries in YAML.",
        "Add what is missing, or keep other YAML files out of the call.",
    ),
    "E113": Entry(
        "error",
        "unknown action",
        "`action` joins the documents of a file: global (a template), reset (forget it), repeat (the last rule again).",
        "Use one of the three, or remove it.",
    ),
    "E114": Entry(
        "error",
        "the template of this rule is broken",
        "The rule takes parts of an `action: global` document that has errors of its own.",
        "Mend the template.",
    ),
    "E115": Entry(
        "error",
        "a Microsoft query without text",
        "The document looks like a hunting or analytics query, but `query` holds no text.",
        "Write the KQL under `query: |`.",
    ),
    "E116": Entry(
        "error",
        "the text is not JSON",
        "Files named *.json are read as JSON. Comments are skipped; a comma too many or single quotes are not JSON.",
        "Mend the place that the message names, or name the file *.yml if it is YAML.",
    ),
    "E117": Entry(
        "error",
        "a template without a rule",
        "A document with `action: global` or `reset` gives no query: it is merged into the rules that follow it.",
        "Write the rules after it, separated by `---`, or remove `action`.",
    ),
    "E118": Entry(
        "error",
        "two kinds in one document",
        "A document is a detection, a correlation or a filter; of two one would be left out in silence.",
        "Write two documents, with `---` between them.",
    ),
    "W101": Entry(
        "warning",
        "YAML 1.1 reads this otherwise than it looks",
        "Unquoted yes, no, on, off, 010, 0x17, 1:30 and 1_000 are truth values and numbers in YAML 1.1, which Sigma "
        "rules are tested with; newer readers take them as text.",
        "Quote the text, or write the value plainly (true, 8, 23, 90, 1000).",
    ),
    # the Sigma language: E2 and W2
    "E201": Entry(
        "error",
        "a part of the document is missing",
        "A rule needs `logsource` and `detection`, a filter `logsource` and `filter`.",
        "Add it.",
    ),
    "E202": Entry(
        "error",
        "a part of the document is not a map",
        "The parts of a rule are maps of names to values.",
        "Write it as a map.",
    ),
    "E203": Entry(
        "error",
        "the log source is empty",
        "Category, product and service say which table the rule is about; one of them is needed.",
        "State at least one.",
    ),
    "E204": Entry(
        "error",
        "an attribute of the log source is not text",
        "Each attribute is one name; a list would make several rules of one.",
        "Write one name; write one document for each log source.",
    ),
    "E205": Entry(
        "error",
        "an unknown taxonomy",
        "The taxonomy says what the field names mean; names of another one cannot be mapped.",
        "Use Sigma's own field names.",
    ),
    "E210": Entry(
        "error",
        "an empty or blank-padded modifier",
        "Modifiers are exact names between bars; with a blank the key would be about another field.",
        "Remove the blank or the bar.",
    ),
    "E211": Entry(
        "error",
        "an unknown modifier",
        "Left out, it would change what the rule finds.",
        "Correct the name; names are lower case.",
    ),
    "E212": Entry(
        "error",
        "a modifier at the wrong place",
        "Modifiers are applied from left to right: a pattern is read first, encodings come before base64.",
        "Write them in the order of the hint.",
    ),
    "E213": Entry(
        "error",
        "modifiers that exclude each other",
        "Together they have no meaning in the Sigma specification.",
        "Use one of them, or two search identifiers.",
    ),
    "E214": Entry(
        "error",
        "a value of the wrong type for its modifier",
        "Text modifiers take text, comparisons and parts of time take numbers, `exists` takes true or false.",
        "Quote the value, or remove its quotes.",
    ),
    "E215": Entry(
        "error",
        "a value that its modifier cannot take",
        "A wildcard cannot be encoded or name a field, and an empty text would be found everywhere.",
        r"Write the text in full; `\*` and `\?` are the characters themselves.",
    ),
    "E216": Entry(
        "error",
        "not a network",
        "`cidr` takes an IPv4 or IPv6 network whose bits behind the prefix are zero, or one address.",
        "Write the network that the hint names.",
    ),
    "E217": Entry(
        "error",
        "a modifier that needs a field",
        "Keywords are searched in the whole event, which has no beginning, number or network of its own.",
        "Name the field before the modifier.",
    ),
    "E218": Entry(
        "error",
        "a part of time that no moment has",
        "Minutes run to 59, hours to 23, days to 31, weeks to 53, months to 12.",
        "Correct the number.",
    ),
    "E220": Entry(
        "error",
        "an empty detection",
        "A search identifier without content says nothing about the event.",
        "Fill it or remove it.",
    ),
    "E221": Entry(
        "error",
        "not a value of the Sigma language",
        "Values are texts, numbers, truth values and null; dates, maps and lists within lists are not.",
        "Quote the value if a text is meant.",
    ),
    "E222": Entry(
        "error",
        "an empty list of values",
        "It could mean nothing, anything, or a missing field.",
        "Remove the item, or write null for a missing field.",
    ),
    "E223": Entry(
        "error",
        "null without a field",
        "Null says that a field is missing, so it needs one.",
        "Name the field.",
    ),
    "E226": Entry(
        "error",
        "too many combinations of placeholders",
        "Several placeholders in one value stand for every combination of their values.",
        "Use fewer values, or one placeholder in a value.",
    ),
    "E230": Entry(
        "error",
        "a correlation with a missing or wrong attribute",
        "A correlation has type, rules, timespan, and where needed group-by, condition, aliases and generate.",
        "Add or correct the attribute.",
    ),
    "E231": Entry(
        "error",
        "an unknown type of correlation",
        "The type says what is counted.",
        "Use one of the types that the hint names.",
    ),
    "E232": Entry(
        "error",
        "not a time span",
        "A time span is a whole number and one unit: s, m, h, d, w, M (30 days), y (365 days).",
        "Write it like 5m.",
    ),
    "E233": Entry(
        "error",
        "a correlation condition that cannot be read",
        "It compares the aggregate with numbers (gt, gte, lt, lte, eq, neq) and names a field for the value_ types.",
        "Write it like `gte: 10`, with `field` where values are counted.",
    ),
    "E234": Entry(
        "error",
        "an alias that cannot be read",
        "An alias gives fields of several rules one name: alias -> {rule name: field}.",
        "Write it as a map of maps.",
    ),
    "E240": Entry(
        "error",
        "a filter without rules",
        "A filter says which rules it is added to.",
        "List ids or names, or write `rules: any`.",
    ),
    "W201": Entry(
        "warning",
        "metadata that is missing or of the wrong type",
        "It does not change what the rule finds, but what is shown of it.",
        "Correct it.",
    ),
    "W202": Entry(
        "warning",
        "the id is not a UUID",
        "Ids are to be unique over all rules; other tools refuse ids of another form.",
        "Generate a random UUID (version 4).",
    ),
    "W203": Entry(
        "warning",
        "a tag without a namespace",
        "Tags are namespace.name; only attack tags are turned into tactics and techniques.",
        "Add the namespace.",
    ),
    "W204": Entry("warning", "not a date", "Dates are YYYY-MM-DD.", "Correct it."),
    "W205": Entry(
        "warning",
        "an unknown status or level",
        "The level becomes the severity of an alert.",
        "Use a value that the hint names.",
    ),
    "W206": Entry("warning", "metadata that should be a list", "Other tools refuse it.", "Write it as a list."),
    "W207": Entry(
        "warning",
        "a key at the top that looks misspelt or misplaced",
        "The specification allows keys of one's own; one that resembles a key of its own is nearly always a slip.",
        "Correct it, or move it to where it belongs.",
    ),
    "W210": Entry(
        "warning",
        "`all` with a single value",
        "It asks for all of several values; with one value it does nothing.",
        "Remove it, or list the values that were meant.",
    ),
    "W211": Entry(
        "warning",
        r"a literal `\*` in a path",
        r"A backslash before `*` makes it the character itself, which no path of Windows can hold.",
        r"Write `\\*` for a backslash and a wildcard.",
    ),
    "W212": Entry(
        "warning",
        "`expand` without a placeholder",
        "The modifier looks for %name%, and there is none.",
        "Remove the modifier, or correct the value.",
    ),
    "W213": Entry(
        "warning",
        "a keyword that every event holds",
        "An empty keyword or a lone wildcard is found everywhere.",
        "Remove it.",
    ),
    "W214": Entry(
        "warning",
        "`timeframe` has no effect",
        "It belonged to aggregations in conditions, which Sigma 2 has replaced by correlations.",
        "Remove it, or write a correlation.",
    ),
    "W215": Entry(
        "warning",
        "a log source with capital letters",
        "Log sources are written in lower case.",
        "Write it in lower case.",
    ),
    "W240": Entry(
        "warning",
        "a document without an id",
        "The id ties alerts, tests and deployments to the rule, whatever becomes of its title or file.",
        "Add a random UUID (version 4).",
    ),
    "W241": Entry(
        "warning",
        "an id that is used twice",
        "Deployed, one of the two documents would overwrite the other.",
        "Give one of them a new UUID.",
    ),
    "W242": Entry(
        "warning",
        "a title that is used twice",
        "Alerts of the two cannot be told apart.",
        "Say in the title what differs.",
    ),
    "W243": Entry(
        "warning",
        "a rule without a level",
        "The level becomes the severity of an alert; without it a default stands in.",
        "Add `level`.",
    ),
    "W244": Entry(
        "warning",
        "modified before it was written",
        "`modified` is the day of the last change, so it cannot come before `date`.",
        "Correct one of the two dates.",
    ),
    "W245": Entry(
        "warning",
        "a tag that Sentinel's ATT&CK does not have",
        "It is left out of the tactics and techniques of an alert.",
        "Correct the tag (attack.tactic-name, attack.t1234.001), or let it be: Sentinel lags behind ATT&CK.",
    ),
    "I240": Entry(
        "info",
        "metadata that others look for",
        "A description, a status, an author and a date tell whether and how far a rule can be relied on.",
        "Add what is missing.",
    ),
    # what joins the search identifiers: E3 and W3
    "E301": Entry(
        "error",
        "a condition that cannot be read",
        "A condition is made of names, and, or, not, parentheses, `1 of pattern` and `all of pattern`.",
        "Correct it at the place shown.",
    ),
    "E302": Entry(
        "error",
        "an unknown search identifier",
        "Every name in a condition is a key under `detection`, in the same case.",
        "Correct the name.",
    ),
    "E303": Entry(
        "error",
        "a pattern that matches nothing",
        "Left out, it would turn `a and not 1 of filter_*` into `a`. Names with a leading `_` are reached only by "
        "patterns that start with `_`.",
        "Correct the pattern, or remove the term.",
    ),
    "E304": Entry(
        "error",
        "a condition that is too deep or too large",
        "No rule needs it; a condition that has it is made to exhaust the reader.",
        "Give parts of it search identifiers of their own.",
    ),
    "E305": Entry(
        "error",
        "an aggregation in a condition",
        "Sigma 2 has removed `| count() ...` and `near`; correlations took their place.",
        "Write a correlation rule.",
    ),
    "E306": Entry(
        "error",
        "a form that the Sigma language does not have",
        "`2 of`, `none of` and `1 of (a, b)` come from other dialects.",
        "Use `1 of`, `all of`, `not` and parentheses.",
    ),
    "E307": Entry("error", "an unmatched parenthesis", "Where it closes decides what the rule means.", "Mend it."),
    "E308": Entry(
        "error",
        "a condition is missing or not text",
        "The condition says how the search identifiers join.",
        "Write it as text, or as a list of texts.",
    ),
    "E309": Entry(
        "error",
        "a detection without search identifiers",
        "There is nothing to look for.",
        "Add at least one search identifier beside the condition.",
    ),
    "W301": Entry(
        "warning",
        "an unused search identifier",
        "It has no effect; often the condition was meant to name it.",
        "Use it in the condition, or remove it.",
    ),
    "W302": Entry(
        "warning",
        "an operator with capital letters",
        "The operators of the Sigma language are lower case; other tools refuse this condition.",
        "Write it in lower case.",
    ),
    # regular expressions in Kusto's dialect (E52x)
    "E520": Entry(
        "error",
        "the pattern asks for more than Kusto's regular expressions can say",
        "Kusto matches in linear time (Rust's regex crate): no lookaround, backreference, recursion, possessive part.",
        "Say it with further values or field items of the rule, or list the texts that the construct stands for.",
    ),
    "E521": Entry(
        "error",
        "the pattern is not a regular expression",
        "It is malformed, or uses an escape or flag that Kusto does not know. The place is shown under the value.",
        "Correct it; a backslash that means itself is written twice, punctuation that means itself after a backslash.",
    ),
    "E522": Entry(
        "error",
        "the pattern is too large",
        "Counted repetitions are unfolded when a pattern is compiled; the compiled size and the nesting are bounded.",
        "Use smaller counts, `*` or `+`, or fewer nested groups.",
    ),
    # running: Microsoft's parser (E650), event files (E66x), remote engines (E67x)
    "E650": Entry(
        "error",
        "the named folder does not hold Microsoft's KQL parser",
        "An option or the variable KUSTO_JS names a folder for the npm package @kusto/language-service-next.",
        "Name the folder of the package or one that holds its node_modules; or name nothing, and it is looked for.",
    ),
    "E651": Entry(
        "error",
        "KQL cannot be validated on this machine",
        "It needs the npm package @kusto/language-service-next and something to run it; for syntax alone, duckdb-kql.",
        "Install what the hint names.",
    ),
    "E652": Entry(
        "error",
        "the parser gave no verdict on a query",
        "It ran out of time, memory or stack; a query of an ordinary size is analysed in milliseconds.",
        "Split the rule, or shorten its lists of values.",
    ),
    "E653": Entry(
        "error",
        "this release of Microsoft's parser is not run with node",
        "Code run by node can do anything on this machine, so only the release whose files are known is handed to it.",
        "Install the release that the hint names, or mini-racer, which runs any release without files and network.",
    ),
    "W650": Entry(
        "warning",
        "only the syntax of the queries was checked",
        "Without Microsoft's parser unknown columns and wrong types are not found.",
        "Install what the hint names.",
    ),
    "E660": Entry(
        "error",
        "no kind of event file",
        "Event files are known by their first bytes, and text by its extension.",
        "Give the file the extension of its format, or convert it to NDJSON.",
    ),
    "E661": Entry(
        "error",
        "an event file cannot be opened",
        "It is missing, may not be read, or is no regular file; pipes and devices might never end.",
        "Check the path and its permissions.",
    ),
    "E662": Entry(
        "error",
        "events go beyond the limits",
        "Event files are read with bounded memory and time, since they may come from anywhere.",
        "Split what is too large; NDJSON, with one event per line, has no limit on the number of events.",
    ),
    "E663": Entry(
        "error",
        "a damaged event file",
        "Its bytes are not what its format demands, or its end is missing.",
        "Copy or export it again. The events before the damage were read.",
    ),
    "E664": Entry(
        "error",
        "an event file is not text in UTF-8",
        "Text formats are read as UTF-8, or as UTF-16 where a byte order mark says so.",
        "Save the file as UTF-8.",
    ),
    "E665": Entry(
        "error",
        "events that are not written in their format",
        "The text is not JSON, CSV or YAML, or an event in it is not a map of field names to values.",
        "Mend the place that the message names.",
    ),
    "E666": Entry(
        "error",
        "an event file given up after too many unreadable records",
        "A few bad records are passed over; with so many the file is likely not what it seems.",
        "Mend the records that were reported before.",
    ),
    "E667": Entry(
        "error",
        "a package is missing that reads a kind of event file",
        "EVTX and Parquet are read by packages of the extra `test`, which is not installed by default.",
        "pip install 'sigma2kql[test]'",
    ),
    "E668": Entry(
        "error",
        "the description of a recorded attack cannot be used",
        "An info.yml in regression_data/ is unreadable, names no rule, or names a file outside the checkout.",
        "Mend the info.yml; see https://github.com/SigmaHQ/sigma for its form.",
    ),
    "E670": Entry(
        "error",
        "the packages for querying Azure are not installed",
        "They belong to the extra `azure`.",
        "pip install 'sigma2kql[azure]'",
    ),
    "E671": Entry(
        "error",
        "the address of a service is not acceptable",
        "Queries and their results travel over https; plain http is for a service on this machine only.",
        "Use the https address of the cluster or workspace service.",
    ),
    "E672": Entry(
        "error",
        "signing in to Azure failed",
        "The default chain of azure-identity (environment, managed identity, Azure CLI and so on) gave no token.",
        "Sign in with `az login`, or set the variables that azure-identity documents.",
    ),
    "E673": Entry(
        "error",
        "the service refused or failed a query",
        "The service answered with an error, or could not be reached after the retries of its SDK.",
        "Read the service's message; check the address, the database or workspace, and your permission on it.",
    ),
    "W673": Entry(
        "warning",
        "a partial result",
        "The service gave some rows and an error; further rows may exist.",
        "Narrow the time range or the query.",
    ),
    "W674": Entry(
        "warning",
        "more rows than asked for",
        "The row limit cut the result.",
        "Raise the row limit, or narrow the query.",
    ),
    # what a parser of KQL says (E690, E691, W690, W691), and hunting (W692 and up)
    "E690": Entry(
        "error",
        "a query that the KQL parser refuses",
        "The emitted query would fail where it is deployed: most often a mapping file states a wrong column or type.",
        "Mend the mapping of the field at the place shown; if the mapping is shipped, report it.",
    ),
    "E691": Entry(
        "error",
        "a hand-written query that the KQL parser refuses",
        "It would fail where it is run.",
        "Correct the query at the place shown.",
    ),
    "W690": Entry(
        "warning",
        "the KQL parser warns",
        "The query runs, but perhaps not as it was meant.",
        "Read the parser's message.",
    ),
    "W691": Entry(
        "warning",
        "a name that the mapping files do not know",
        "Hand-written queries may use tables, columns and functions that no mapping names; this is one, or a mistake.",
        "Check its spelling against the workspace, or declare it in a mapping file of your own.",
    ),
    "W692": Entry(
        "warning",
        "events that no rule was run on",
        "They say neither their log nor their table, or no rule asks for that log.",
        "Name the log with --logsource where all events are of one log, or the target of table rows with -t.",
    ),
    "W693": Entry(
        "warning",
        "events that could not become rows in full",
        "The table has no column for a field that a rule asks for, or a column of another type.",
        "Read the message; other rules are not affected. Another target (-t) may carry the field.",
    ),
    "W694": Entry(
        "warning",
        "no events for a rule",
        "Nothing in the data stands in the table that the rule is about, so it was not run.",
        "Give data of that log, or leave the rule out.",
    ),
    # ---- mapping ---------------------------------------------------------------------------------------------------
    "E401": Entry(
        "error",
        "no table carries this log source",
        "No mapping file of the target serves the rule's product, category and service (and EventIDs, where a "
        "table depends on them).",
        "Choose another target (`sigma2kql targets` shows what each serves), or write a mapping file for the "
        "table that you have.",
    ),
    "E402": Entry(
        "error",
        "a field has no column",
        "The table holds nothing that the field could honestly be compared with; leaving the condition out "
        "would change the rule.",
        "Correct the field's name, choose a target whose table has it, or map it in a mapping file of your own.",
    ),
    "E403": Entry(
        "error",
        "keywords cannot be searched here",
        "The table has no column with the text of the whole event.",
        "Name the field, or give `keywords:` in a mapping file of your own.",
    ),
    "E404": Entry(
        "error",
        "fields cannot be compared with each other here",
        "A field of the comparison stands in several columns or in another form, so that no comparison of "
        "columns means the same.",
        "Map the field to one column in a mapping file of your own.",
    ),
    "E405": Entry(
        "error",
        "a placeholder has no values",
        "`%name%` with the `expand` modifier stands for values of your environment; without them the rule means "
        "nothing.",
        "Give the values in sigma2kql.yml under `placeholders:`.",
    ),
    "E406": Entry(
        "error",
        "a correlation names a rule that is not there",
        "The rules of a correlation must be among the files given.",
        "Correct the name or id, or convert the referenced rule in the same call.",
    ),
    "E407": Entry(
        "error",
        "a correlation cannot be expressed",
        "The correlation needs something that KQL, or the tables of its rules, cannot give exactly.",
        "See the hint.",
    ),
    "E408": Entry(
        "error",
        "a reference may mean two rules",
        "Two rules of the files given have the name (or id) by which a correlation refers to one, and neither or both "
        "stand in its own file.",
        "Give each rule a name of its own, or refer to it by its id.",
    ),
    "E410": Entry(
        "error",
        "can never match",
        "The column can never hold what the rule asks for; a query would look like coverage and never fire.",
        "Correct the value, or choose a target whose table holds it.",
    ),
    "E411": Entry(
        "error",
        "can never match: a folder in a column of bare names",
        "The table stores the file's name without its path.",
        "Test the file name, or choose a target whose table stores the path.",
    ),
    "E412": Entry(
        "error",
        "can never match: no column for this hash",
        "The table has no column for the algorithm, or the text is no whole hash.",
        "Name another hash of the file, or choose a target whose table has it.",
    ),
    "E413": Entry(
        "error",
        "can never match: one column, two values",
        "The rule and the table's own rows ask the same column for different values at once.",
        "Correct the rule: often the log source and an EventID contradict each other.",
    ),
    "I403": Entry(
        "info",
        "a column of the table itself",
        "The rule names a column as the table does, not as Sigma's taxonomy does; it is read as that column.",
        "Write the taxonomy's name, so that the rule works on other tables too.",
    ),
    "E414": Entry(
        "error",
        "can never match: no event has the field",
        "None of the events that the rule speaks of has the field, so that it is missing in each of them; by Sigma's "
        "own meaning no value matches a missing field.",
        "Correct the field's name, or choose the log source whose events have it.",
    ),
    "I414": Entry(
        "info",
        "no event has a field that the rule names",
        "The field is missing in each event that the rule speaks of; what is asked of its value holds for none of "
        "them, and the rest of the rule is converted as it stands.",
        "Nothing, where the rule is written for several sources; else correct the field's name.",
    ),
    "W401": Entry(
        "warning",
        "the query returns more than the rule means",
        "A column holds less than the rule tests, so that part of a condition is not tested.",
        "Accept it, choose another target, or use --strict to refuse such rules.",
    ),
    "W402": Entry(
        "warning",
        "the query returns less than the rule means",
        "A column holds less than the rule tests, so that some events are not found.",
        "Accept it, choose another target, or use --strict to refuse such rules.",
    ),
    "W403": Entry(
        "warning",
        "a filter names a rule that is not there",
        "The filter does nothing for a rule that is not among the files given.",
        "Convert the filter together with the rules, or correct the name.",
    ),
    "W404": Entry(
        "warning",
        "a correlation looks back too far",
        "The product behind the target looks back so many days and no more (`sigma2kql targets TARGET`).",
        "Shorten the timespan, or run the query by other means.",
    ),
    "W405": Entry(
        "warning",
        "a correlation is tested in fixed windows",
        "That few matches or none came is known of a window when it is over: whole windows of the clock are looked at, "
        "of groups that had a match before within the look-back. A group that never had one is not seen.",
        "Accept it, or count many instead of few.",
    ),
    "W420": Entry(
        "warning",
        "the rule is blind in this workspace",
        "The profile of the workspace says that no row can match: the table, a kind of event or a column is not there.",
        "Connect the source that writes it, or use a table that has it; `workspace inspect` makes a new profile.",
    ),
    "W406": Entry(
        "warning",
        "rows of one source are missed",
        "A source that writes the table keeps less than the rule asks, or puts something else into a column.",
        "Say which sources you have (`--source NAME`, `sources:`): a table that holds it is chosen where there is one. "
        "With --strict such rules are refused.",
    ),
    "W407": Entry(
        "warning",
        "rows of one source are found beside",
        "A source that writes the table does not keep what the rule excludes, so that its rows are not excluded.",
        "Say which sources you have (`--source NAME`, `sources:`), or accept it. With --strict such rules are refused.",
    ),
    "W408": Entry(
        "warning",
        "rows of one source can never match",
        "The rule needs a field that this source does not put into the table. Rows of other sources do match.",
        "Say which sources you have (`--source NAME`, `sources:`): a table that holds it is chosen where there is one.",
    ),
    "I406": Entry(
        "info",
        "a field that one source does not have",
        "Its events have no such field: to Sigma it is missing, a test on it is false, the rest of the rule decides.",
        "Nothing is to be done; the rule is exact for this source.",
    ),
    "W421": Entry(
        "warning",
        "the rule is dead in its table",
        "No source writes what the rule asks of this table, in whatever workspace.",
        "Use a table that can hold it (`explain` lists them), or mend the rule.",
    ),
    "W409": Entry(
        "warning",
        "a correlation compares names without their domains",
        "The rules' events write one field to group by in different forms, such as DOMAIN\\user and user: all are "
        "brought to the bare name, so that the same name in two domains is one group.",
        "Accept it, or group by a field that all the events write alike, such as a SID.",
    ),
    "W410": Entry(
        "warning",
        "one value can never match",
        "Other values of the rule can match, so the rule converts; this one selects nothing.",
        "Correct the value or leave it out.",
    ),
    "W412": Entry(
        "warning",
        "no source that you have writes this table",
        "`--source` and `sources:` say what is there; the only tables that carry the rule are written by others.",
        "Add the source if you have it; else the query finds nothing in your workspace.",
    ),
    "W411": Entry(
        "warning",
        "nothing fills this table yet",
        "Microsoft has no table for this log. The name and the columns are a proposal of this project's.",
        "Fill a table of that name with a data collection rule, or name your own in a mapping file: `extends: NAME`.",
    ),
    "E450": Entry(
        "error",
        "a mapping file cannot be read",
        "It is missing, unreadable or not UTF-8.",
        "Check the path and the encoding.",
    ),
    "E451": Entry(
        "error",
        "a mapping file has a wrong shape",
        "A map, list or text is expected at this place.",
        "See mappings/README.md.",
    ),
    "E452": Entry(
        "error",
        "a mapping file has an unknown key",
        "Only the keys in mappings/README.md mean something.",
        "See the hint.",
    ),
    "E453": Entry(
        "error",
        "a wrong name or type",
        "Column types are those of Kusto; names are those of the table.",
        "See the hint.",
    ),
    "E454": Entry(
        "error",
        "a column is not declared",
        "Every column that a mapping file uses must stand in its `columns` with its type.",
        "Declare it, or correct its name.",
    ),
    "E455": Entry(
        "error",
        "keywords in a predicate on columns",
        "A predicate in a mapping file names the column it tests.",
        "Name the column.",
    ),
    "E456": Entry(
        "error",
        "a field's mapping is not one of the forms",
        "Exactly one form says where a field stands.",
        "See mappings/README.md.",
    ),
    "E457": Entry("error", "an unknown transform", "Transforms are the ones in mappings/README.md.", "See the hint."),
    "E458": Entry(
        "error", "a loss without a reason", "Users are told why a query is broader or narrower.", "Add `why:`."
    ),
    "E459": Entry(
        "error",
        "an unknown data source",
        "Sources are named as mappings/sources.yml names them.",
        "See the hint, or `sigma2kql targets sources`.",
    ),
    "E460": Entry(
        "error",
        "an unknown table",
        "A table is named that no mapping file of the target is about.",
        "See the hint, or `sigma2kql targets TARGET`.",
    ),
    # ---- emission --------------------------------------------------------------------------------------------------
    "W501": Entry(
        "warning",
        "the query is longer than the product takes",
        "A target states how many characters its product takes: an analytics rule of Microsoft Sentinel 10,000.",
        "Deploy the query as a saved function and call it, or split the rule.",
    ),
    # ---- the call --------------------------------------------------------------------------------------------------
    "E801": Entry(
        "error", "unknown target", "A target is a folder of mapping files.", "`sigma2kql targets` lists them."
    ),
    "E802": Entry("error", "no such file or directory", "A path of the call does not exist.", "Correct the path."),
    "E803": Entry("error", "a file cannot be read", "The system refused to read it.", "Check its permissions."),
    "E804": Entry(
        "error", "the configuration is wrong", "sigma2kql.yml says something that no option takes.", "See the hint."
    ),
    "E821": Entry(
        "error",
        "the profile of a workspace is wrong",
        "`workspace inspect` writes profiles; this file says something that a profile does not have.",
        "Make the profile anew, or see the hint.",
    ),
    "E822": Entry(
        "error",
        "no answer of `workspace inspect --print`",
        "A profile is made from the rows that those queries give, exported as CSV or JSON.",
        "Run the printed queries and export their results, with all columns.",
    ),
    "E805": Entry(
        "error",
        "the output cannot be written",
        "The system refused to write the file.",
        "Check the path and its permissions.",
    ),
    "E830": Entry(
        "error",
        "a template of the site is at fault",
        "A template of one's own does not parse, or asks for a value that the page does not have.",
        "Correct the template; the shipped one of its name shows which values there are.",
    ),
    "E831": Entry(
        "error",
        "the playground lacks a package",
        "Its page ships Python for the browser and what conversion imports, and fetches nothing from elsewhere.",
        "npm install pyodide, and name the node_modules folder.",
    ),
    "E806": Entry(
        "error",
        "a wrong option of `convert`",
        "The library's `convert` takes the fields of `Options`, each of its type.",
        "See the hint, or `help(sigma2kql.Options)`.",
    ),
    "W801": Entry(
        "warning",
        "a folder without rules",
        "A folder that was named holds no *.yml and no *.yaml: often the path is not the one that was meant.",
        "Correct the path.",
    ),
    "E899": Entry(
        "error",
        "a fault of sigma2kql itself",
        "The program met something that it was not written for. Only this document is lost.",
        "Please report it with the rule; SIGMA2KQL_DEBUG=1 shows where it happened.",
    ),
    # artifacts, native queries, deployment (E7xx, W7xx)
    "E701": Entry(
        "error",
        "unknown deployment setting",
        "A setting that nobody reads would silently do nothing.",
        "Use the keys of Azure-Sentinel's rule YAML (queryFrequency, entityMappings, ...) or this project's own.",
    ),
    "E702": Entry(
        "error",
        "a deployment setting has a value that it cannot have",
        "The service would refuse the artifact, or read it otherwise than meant.",
        "Write the value as the message says.",
    ),
    "E703": Entry(
        "error",
        "the query is longer than a rule takes",
        "A Sentinel rule holds a query of 1 to 10,000 characters (Scheduled analytics rules, query length).",
        "Set `function: true` for a saved function that a short rule calls, or split the rule.",
    ),
    "E704": Entry(
        "error",
        "there is no query to deploy",
        "The document failed to convert, or it only feeds another one (a filter, a rule of a correlation).",
        "Mend the errors of the document; deploy the correlation rather than its parts.",
    ),
    "E705": Entry(
        "error",
        "a schedule that the service does not take",
        "Sentinel runs a rule every 5 minutes to 14 days over at least that long, once an hour at most from 2 days on.",
        "Change queryFrequency or queryPeriod.",
    ),
    "E706": Entry(
        "error",
        "the rule cannot run in near real time",
        "Near-real-time rules look at one workspace, one minute of rows at a time.",
        "Use kind: Scheduled, or take out what the message names.",
    ),
    "E707": Entry(
        "error",
        "a column that the query does not return",
        "Entity mappings, custom details and alert details read columns of the result; the service refuses others.",
        "Name a column of the output, or leave the mapping to be inferred.",
    ),
    "E708": Entry(
        "error",
        "the query cannot become a custom detection",
        "Defender needs the event's identity (Timestamp, DeviceId, ReportId) and an impacted entity in every row.",
        "Convert for the target xdr; keep those columns in the output.",
    ),
    "E709": Entry(
        "error",
        "a rule's query reads everything",
        "Sentinel refuses `search *` and `union *` in rules.",
        "Name the tables.",
    ),
    "E710": Entry(
        "error",
        "the artifact cannot be read",
        "Only what can be kept whole is read back: an unknown key or a template expression would be lost.",
        "Mend the text, or read it as a native query, which accepts looser forms with warnings.",
    ),
    "E711": Entry(
        "error",
        "two rules under one id",
        "The second would overwrite the first in the same deployment.",
        "Give every rule its own id.",
    ),
    "E712": Entry(
        "error",
        "the format holds one rule per file",
        "Only arm, hunting-arm, bicep and terraform carry several rules in one text.",
        "Write into a directory, or choose one of those formats.",
    ),
    "E713": Entry(
        "error",
        "the native document cannot be deployed",
        "A name and a query are the least that a rule or a hunting query has.",
        "Add what the message names.",
    ),
    "E714": Entry(
        "error",
        "the query cannot run continuously",
        "A continuous detection looks at one table, without comments, with the operators of ingestion transformations.",
        "Use kind: Scheduled, or rewrite the query without what the message names.",
    ),
    "E715": Entry(
        "error",
        "not the name of a resource",
        "Names are placed in template code, so they are letters, digits, `-` and `_` alone.",
        "Use a GUID as id.",
    ),
    "E716": Entry(
        "error",
        "the artifact does not read back as what was written",
        "Every artifact is parsed again before it is given out; this one would deploy something else.",
        "Report it with the rule: this is a mistake of the program.",
    ),
    "E717": Entry(
        "error",
        "unknown or unfitting format",
        "The name is no format, the artifact is not of its kind, or the target does not say that it takes it.",
        "See `sigma2kql convert --help` for the formats; a target of your own names its formats in `target.yml`.",
    ),
    "E718": Entry(
        "error",
        "a resource that is neither a rule nor a hunting query",
        "Templates and API answers hold other resources too; each resource of a file gives one result, never nothing.",
        "Take it out of the file; a saved function belongs into the file of the rule that calls it.",
    ),
    # deployment (E750 to E758)
    "E750": Entry(
        "error",
        "deploying needs more than is installed",
        "Signing in and the calls come with azure-identity, which belongs to the extra `azure`.",
        "pip install 'sigma2kql[azure]'",
    ),
    "E751": Entry(
        "error",
        "a destination that rules cannot be deployed to",
        "Tokens are sent over https to Microsoft's own addresses only; subscription, group and workspace have "
        "set forms.",
        "Check --subscription (a GUID), --resource-group, --workspace (its name) and --service.",
    ),
    "E752": Entry(
        "error",
        "signing in to Azure failed",
        "The default chain of azure-identity (environment, workload and managed identity, Azure CLI ...) gave "
        "no token.",
        "Sign in with `az login`, or set the variables that azure-identity documents.",
    ),
    "E753": Entry(
        "error",
        "what is deployed cannot be read",
        "A plan compares with what is there; without the whole list it would be wrong.",
        "Check the destination, your permission to read it and the network.",
    ),
    "E754": Entry(
        "error",
        "the service refused a change",
        "It was asked again where that can help (429 and 5xx); the message is its own. Other changes were made.",
        "Mend what it names and apply again: what was made is then unchanged.",
    ),
    "E755": Entry(
        "error",
        "a rule of this id is there and not this owner's",
        "Rules from the portal (copies of ours too), other tools or another --owner are never overwritten unasked.",
        "Give the rule another id, or take the one that is there over with --adopt.",
    ),
    "E756": Entry(
        "error",
        "the exported state cannot be read",
        "It is to be what the list API answers, all pages of it: a plan against a part would create what exists.",
        "Export again, with `az rest` for example.",
    ),
    "E757": Entry(
        "error",
        "nothing was deleted",
        "A rule that fails to convert, or is in a folder that is unread or empty, is missing from what is wanted; "
        "pruning would delete it where it runs.",
        "Mend the failing rules (name only folders that hold rules), then prune.",
    ),
    "E758": Entry(
        "error",
        "changed since it was read",
        "Somebody else changed or created the rule between the plan and the change (its ETag differs).",
        "Apply again: the new plan shows both changes.",
    ),
    "W751": Entry(
        "warning",
        "the name was cut",
        "Portals and checks limit names (100 characters in Azure-Sentinel's guidance, 256 in the service).",
        "Shorten the title, or set `name`; the whole title stands in the description.",
    ),
    "W752": Entry(
        "warning",
        "the description was cut",
        "A description has at most 5,000 characters in Sentinel.",
        "Shorten it, or set `description`.",
    ),
    "W753": Entry(
        "warning",
        "ATT&CK that was left out",
        "Sentinel knows ATT&CK v16; newer techniques, other words and what is over a limit would be refused.",
        "Tag the rule with a technique of v16; the description names what was left out.",
    ),
    "W754": Entry(
        "warning",
        "no tactic or no technique",
        "Azure-Sentinel's checks ask for both, so it is a warning for its YAML; the service does not, so else a note.",
        "Add attack.* tags to the rule, or set tactics and relevantTechniques under its `sigma2kql:`; or "
        "fallbackTactics and fallbackTechniques in the configuration.",
    ),
    "W755": Entry(
        "warning",
        "no entity mapping",
        "Without entities, incidents cannot be grouped or enriched; Azure-Sentinel's checks ask for at least one.",
        "Set entityMappings to columns of the output, or fallbackEntityMappings in the configuration.",
    ),
    "W756": Entry(
        "warning",
        "a loose form in a native document",
        "Public queries differ from the schema in many ways; the message says how this one is read.",
        "Write the document as the schema asks for it.",
    ),
    "W757": Entry(
        "warning",
        "deprecated function",
        "Kusto keeps the old name working but documents another.",
        "Use the new name.",
    ),
    "W758": Entry(
        "warning",
        "more entity mappings than asked for",
        "azurerm and older checks take five, the service ten.",
        "Set maxEntities, or map fewer.",
    ),
    "W759": Entry(
        "info",
        "a custom detection has one tactic",
        "Defender accepts one tactic with its techniques; the first that has a technique was taken.",
        "Set tactics to choose another.",
    ),
    "W761": Entry(
        "warning",
        "azurerm has no argument for a value",
        "Sub-techniques, and more mappings than it takes, exist in the API but not in the azurerm provider.",
        "Leave terraformProvider at auto, so that such rules become azapi resources.",
    ),
    "W762": Entry(
        "warning",
        "a table without its data connector",
        "The portal tells users which connectors a query needs; a table of this query is not covered.",
        "Add the connector to requiredDataConnectors.",
    ),
    "W763": Entry(
        "warning",
        "a long native query",
        "It can be run, but a rule or a saved hunting query takes at most 10,000 characters.",
        "Save part of it as a function.",
    ),
    "W764": Entry(
        "warning",
        "a technique without its tactic",
        "Azure-Sentinel's checks want one of the technique's own tactics beside it; it is added.",
        "Add the tactic to the document.",
    ),
    "W765": Entry(
        "warning",
        "a look-back that cuts a correlation's windows",
        "Events of one window that lie before and after the beginning of a run's rows are seen together by no run.",
        "Let queryPeriod be the timespan and one queryFrequency at least, as it is by itself.",
    ),
    "W766": Entry(
        "warning",
        "a parser that a custom detection may not know",
        "ASIM's parsers are functions of the workspace; which of them custom detections can call differs by tenant.",
        "Run the query once in advanced hunting, or convert for the target xdr.",
    ),
    "W767": Entry(
        "warning",
        "a wish that a custom detection has no place for",
        "Custom detections have no suppression and no grouping into incidents, and their tables have other columns.",
        "Leave the setting out, or deploy the rule as an analytics rule.",
    ),
    "W770": Entry(
        "warning",
        "a rule of Sentinel over Defender's tables",
        "Sentinel has Defender's tables only where the connector Microsoft Defender XDR streams them to the workspace.",
        "Stream the tables that the message names, or write a custom detection (-f xdr-json).",
    ),
    "W771": Entry(
        "warning",
        "more rules than a workspace runs",
        "Microsoft Sentinel takes 512 enabled scheduled rules and 50 near-real-time ones of a workspace.",
        "Choose rules (--level, --status), or convert for Defender, whose custom detections do not count.",
    ),
    "W772": Entry(
        "warning",
        "custom detections of one name",
        "Names and titles of custom detections are unique in a tenant: the service refuses the second (409, 400).",
        "Nothing: its id was put behind each. Give the rules titles of their own if you like.",
    ),
    "E719": Entry(
        "error",
        "a bundle that Azure Resource Manager refuses",
        "A template has at most 800 resources and 4 MB.",
        "Give a folder (-o DIR/): the bundle is written as numbered templates under one parent.",
    ),
    "W769": Entry(
        "warning",
        "late events that a rule cannot count in",
        "When a row came is known directly behind a table; a parser function, a union or a query of your own hides it.",
        "Leave `lateEvents` out, or convert with tables in place of parsers.",
    ),
    "W768": Entry(
        "warning",
        "another time between two runs than the rule asks for",
        "Over Defender's tables custom detections run at fixed times, each with a look-back of its own.",
        "Ask for one of those, or for `kind: NRT` where the query allows it.",
    ),
}
