"""Fails unless the wheel named as argument holds every file that a user needs beside the code, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent


def main(wheel: str) -> int:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    wanted = {
        f.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.lark", "*.js", "*.css", "*.html", "*.svg", "*.j2", "py.typed")
        for f in (ROOT / "sigma2kql").rglob(pattern)
    }
    wanted |= {f"sigma2kql/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "mappings").rglob("*") if f.is_file()}
    for name in sorted(wanted - names):
        print(f"not in the wheel: {name}")
    for name in sorted(names - wanted):
        print(f"has no business in the wheel: {name}")
    print(f"{len(names)} files in {Path(wheel).name}")
    return int(names != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
