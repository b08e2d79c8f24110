#!/usr/bin/env python3
"""Prints the section of CHANGELOG.md about one version: as Markdown, or as the YAML list of changes that Artifact Hub
shows. The section [Unreleased] stands for a version that has no section yet.
"""
import argparse
import json
import re
from pathlib import Path

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def section(version: str) -> list[str]:
    """Returns the lines of the section."""
    sections = re.split(r"^## \[(.+?)\].*$", CHANGELOG.read_text(), flags=re.MULTILINE)
    texts = dict(zip(sections[1::2], sections[2::2]))
    text = texts.get(version, texts.get("Unreleased"))
    if text is None:
        raise SystemExit(f"error: {CHANGELOG.name} has neither a section [{version}] nor [Unreleased]")
    return text.strip().splitlines()


def changes(lines: list[str]) -> list[tuple[str, str]]:
    """Returns the kind and the text of each change."""
    found, kind = [], "changed"
    for line in lines:
        if line.startswith("### "):
            kind = line.removeprefix("### ").strip().lower()
        elif line.startswith("- "):
            found.append((kind, line.removeprefix("- ")))
        elif line.startswith("  ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--format", choices=["markdown", "yaml"], default="markdown")
    options = parser.parse_args()
    lines = section(options.version)
    if options.format == "markdown":
        print("\n".join(lines))
        return
    for kind, text in changes(lines):
        # A JSON string is a YAML string.
        print(f"- kind: {kind}\n  description: {json.dumps(text, ensure_ascii=False)}")


if __name__ == "__main__":
    main()
