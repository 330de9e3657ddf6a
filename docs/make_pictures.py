"""The pictures of README: a terminal as SVG, a rule page as PNG (needs the extra `dev`, Chromium and its driver).

python docs/make_pictures.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
LINE, CHAR = 19, 8.43


def main() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, body in re.findall(
            r"^<!-- file: (outlook\S+) -->\n```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        ):
            (folder / file).write_text(body, encoding="utf-8")
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / "terminal.svg").write_text(terminal(folder), encoding="utf-8")
        run(folder, "site", "outlook.yml", "-o", "public", "-q", "--prove", "--title", "Detections")
        screenshot(next((folder / "public" / "rules").glob("*.html")), PICTURES / "rule-page.png")


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "sigma2kql", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    return done.stdout + done.stderr


def terminal(folder: Path) -> str:
    """Two commands and what they print."""
    lines: list[str] = []
    for words in ("convert -q --no-header outlook.yml", "test outlook.yml"):
        lines += [f"$ sigma2kql {words}", *run(folder, *words.split()).splitlines(), ""]
    lines = lines[:-1]
    width = round(max(map(len, lines)) * CHAR) + 40
    height = len(lines) * LINE + 36
    rows = [
        f'<text x="20" y="{30 + at * LINE}"{CLASSES[line.startswith("$")]} xml:space="preserve">{escape(line)}</text>'
        for at, line in enumerate(lines)
    ]
    style = "text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#dfe3e8}.c{fill:#7db4f5}rect{fill:#14171b}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">'
    title = "<title>A rule converted and tested in a terminal</title>"
    return "\n".join(
        [
            head,
            title,
            f"<style>{style}</style>",
            f'<rect width="{width}" height="{height}" rx="6"/>',
            *rows,
            "</svg>",
            "",
        ]
    )


CLASSES = {True: ' class="c"', False: ""}


def screenshot(page: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command = ["chromium", *flags, "--window-size=1120,640", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
