"""Copies the pages of the documentation, and everything that they link to, into an empty folder.

    stage.py SOURCE_TREE FOLDER

The copy has the layout of the source tree, so all relative links keep working. MkDocs cannot read the source tree
itself, because its pages link to files outside `docs`, and because the tree contains files that no site should have.
A link to a folder leads to the folder's README.md, or to a list of the folder's files.
"""

import os
import re
import shutil
import sys
from pathlib import Path

# The target of a link or a picture. Titles of links and reference-style links do not occur in the pages.
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^\s*```")
CODE = re.compile(r"(`+).*?\1")


def outside_code(text, replace):
    """Returns the page with `replace(target)` in place of the target of each link outside code."""
    lines, fenced = [], False
    for line in text.split("\n"):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            line = replace_targets(line, replace)
        lines.append(line)
    return "\n".join(lines)


def replace_targets(line, replace):
    """Does the same for a line that is outside code blocks, but may contain code between backquotes."""
    code = [found.span() for found in CODE.finditer(line)]

    def replaced(link):
        if any(start <= link.start() < end for start, end in code):
            return link[0]
        return link[1] + replace(link[2]) + link[3]

    return LINK.sub(replaced, line)


class Stage:
    def __init__(self, tree, folder):
        self.tree, self.folder, self.waiting, self.seen = tree, folder, [], set()

    def add(self, path):
        """Notes a path in the source tree to be copied."""
        if path not in self.seen:
            self.seen.add(path)
            self.waiting.append(path)

    def run(self):
        while self.waiting:
            path = self.waiting.pop()
            source, copy = self.tree / path, self.folder / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md" and source.exists():
                text = source.read_text(encoding="utf-8")
                copy.write_text(outside_code(text, lambda link: self.follow(path, link)), encoding="utf-8")
            elif source.exists():
                shutil.copyfile(source, copy)

    def follow(self, page, link):
        """Notes the target of a page's link, and returns the link as the copy of the page needs it."""
        target, mark, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:") or not target:
            return link
        path = Path(os.path.normpath(page.parent / target))
        if path.parts[0] == "..":
            sys.exit(f"{page}: the link {link} leaves the source tree")
        if (self.tree / path).is_dir():
            path = self.listing(path)
            target = os.path.relpath(path, page.parent)
        # MkDocs reports a target that does not exist.
        self.add(path)
        return target + mark + anchor

    def listing(self, folder):
        """Returns the path of the page about a folder. If the folder has none, lists the folder's files."""
        page = folder / "README.md"
        if not (self.tree / page).exists():
            names = sorted(path.name + "/" * path.is_dir() for path in (self.tree / folder).iterdir())
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
            lines = [f"# {folder}", "", "This folder of the source tree contains:", "", *(f"- `{name}`" for name in names)]
            (self.folder / page).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return page


def main():
    tree, folder = Path(sys.argv[1]), Path(sys.argv[2])
    stage = Stage(tree, folder)
    stage.add(Path("README.md"))
    for page in sorted((tree / "docs").rglob("*.md")):
        stage.add(page.relative_to(tree))
    stage.run()


if __name__ == "__main__":
    main()
