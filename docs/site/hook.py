"""Adapts MkDocs to the pages: anchors like GitHub's, all design decisions in the navigation, and no external content.

https://www.mkdocs.org/dev-guide/plugins/#events describes when MkDocs calls the functions `on_…`.
"""

import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.exceptions import PluginError

# The anchors of the current page, and how often each one occurs.
anchors = {}


def github_anchor(heading, _separator):
    """Returns the anchor that GitHub generates for a heading. tests/docs.rs has the same rule."""
    kept = unicodedata.normalize("NFC", heading).strip().lower()
    anchor = re.sub(r"[^\w\- ]", "", kept).replace(" ", "-")
    count = anchors[anchor] = anchors.get(anchor, -1) + 1
    return f"{anchor}-{count}" if count else anchor


def on_config(config):
    config.mdx_configs.setdefault("toc", {})["slugify"] = github_anchor
    for section in config.nav:
        if "Design decisions" in section:
            decisions = sorted((Path(config.docs_dir) / "docs/decisions").glob("[0-9]*.md"))
            section["Design decisions"] += [f"docs/decisions/{page.name}" for page in decisions]
    return config


def as_python_markdown(markdown):
    """Adapts the lists of a page to Python-Markdown. The pages follow CommonMark, as GitHub does.

    What belongs to a list item is indented by four columns for each level, instead of by the width of the item's
    marker. A list that follows a paragraph begins after an empty line.
    """
    lines, widths, fence = [], [], None
    for line in markdown.split("\n"):
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        before = len(widths)
        if fence is None and text:
            widths = [width for width in widths if width <= indent]
        depth = len(widths) if fence is None else fence
        marker = re.match(r"(?:[-*]|\d+\.) +", text) if fence is None else None
        if marker and before == 0 and lines and lines[-1]:
            lines.append("")
        width = widths[depth - 1] if depth else 0
        lines.append(" " * (4 * depth + indent - width) + text if text else "")
        if text.startswith("```"):
            fence = depth if fence is None else None
        elif marker:
            widths.append(indent + len(marker[0]))
    return "\n".join(lines)


def on_page_markdown(markdown, page, **_):
    anchors.clear()
    if re.search(r"^\s*```mermaid", markdown, re.MULTILINE):
        # The theme would load the program that draws such diagrams from another site.
        raise PluginError(f"{page.file.src_uri} contains a Mermaid diagram; draw it as a picture in docs/pictures/")
    return as_python_markdown(markdown)


class Loads(HTMLParser):
    """Collects the addresses from which a page loads content when it is opened."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href"))
        elif tag not in ("a", "link"):
            self.found += [values.get("src"), values.get("srcset"), values.get("data"), values.get("poster")]


def external(name, text):
    """Returns the addresses on other sites from which a file of the site loads content."""
    if name.endswith(".html"):
        addresses = [address for address in Loads(text).found if address]
    else:
        addresses = re.findall(r"""(?:url\(|@import\s+)\s*["']?([^"')]+)""", text)
    return [address for address in addresses if re.match(r"\s*(?:https?:)?//", address)]


def on_post_build(config):
    """Fails if a page or a style sheet loads content from another site. Readers may use Tor, or have no network."""
    faults = []
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in (".html", ".css", ".svg"):
            faults += [f"{path}: {address}" for address in external(path.name, path.read_text(encoding="utf-8"))]
    if faults:
        raise PluginError("these files load content from other sites:\n" + "\n".join(faults))
