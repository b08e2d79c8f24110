#!/usr/bin/env python3
"""Prints the crates that our programs are built from, with their licences and the texts of the licences, which must
accompany copies of the programs. Each text appears once. Reads the sources of the crates in the folder of cargo, which
contains them after a build.
"""
import os
import re
import subprocess
from pathlib import Path

TREE = Path(__file__).parents[1]
SOURCES = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry/src"
# The names of the files with licences and notices.
NAMES = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)


def crates() -> list[tuple[str, str, str]]:
    """Returns the name, the version and the licence of each crate from a registry."""
    command = ["cargo", "tree", "--locked", "--package", "onionbalance-operator", "--edges", "normal"]
    command += ["--prefix", "none", "--format", "{p}|{l}"]
    output = subprocess.run(command, cwd=TREE, check=True, capture_output=True, text=True).stdout
    found = set()
    for line in output.splitlines():
        package, _, licence = line.removesuffix(" (*)").partition("|")
        name, version, *rest = package.split()
        # A crate in this tree is followed by its path.
        if not any(word.startswith("(/") for word in rest):
            found.add((name, version.removeprefix("v"), licence))
    return sorted(found)


def texts(name: str, version: str) -> list[str]:
    """Returns the texts of the licences in the source of a crate."""
    folders = sorted(SOURCES.glob(f"*/{name}-{version}"))
    if not folders:
        raise SystemExit(f"error: the source of {name} {version} is not in {SOURCES}; run cargo fetch")
    files = (path for path in sorted(folders[0].iterdir()) if path.is_file() and NAMES.match(path.name))
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in files]


def main() -> None:
    # The number of each text, by its words.
    numbers: dict[str, int] = {}
    distinct: list[str] = []
    print("The programs contain these crates. The numbers refer to the texts below.\n")
    for name, version, licence in crates():
        found = []
        for text in texts(name, version):
            words = " ".join(text.split())
            if words not in numbers:
                distinct.append(text)
                numbers[words] = len(distinct)
            found.append(str(numbers[words]))
        print(f"{name} {version}: {licence} [{', '.join(found) or 'no text in the source'}]")
    for number, text in enumerate(distinct, 1):
        print(f"\n{'-' * 80}\n[{number}]\n\n{text}")


if __name__ == "__main__":
    main()
