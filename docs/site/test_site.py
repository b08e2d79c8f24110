"""Tests of what the site adds to MkDocs. `make docs` runs them before it builds the site."""

import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

import hook
from mkdocs.exceptions import PluginError
from stage import Stage, outside_code


class Anchors(unittest.TestCase):
    def test_are_those_of_github(self):
        hook.anchors.clear()
        headings = ["Is it there yet?", "`spec.ports[]`", "If an attacker takes over …", "A -- b", "Limits", "Limits"]
        expected = ["is-it-there-yet", "specports", "if-an-attacker-takes-over-", "a----b", "limits", "limits-1"]
        self.assertEqual([hook.github_anchor(heading, "-") for heading in headings], expected)


class Lists(unittest.TestCase):
    def test_are_indented_by_four_columns_for_each_level(self):
        page = "1. one\n\n   ```sh\n   a\n     b\n   - c\n   ```\n- two\n  more\n  - three\n\ntext\n  kept\n"
        expected = "1. one\n\n    ```sh\n    a\n      b\n    - c\n    ```\n- two\n    more\n    - three\n\ntext\n  kept\n"
        self.assertEqual(hook.as_python_markdown(page), expected)

    def test_begin_after_an_empty_line(self):
        self.assertEqual(hook.as_python_markdown("text:\n- a\n- b\n"), "text:\n\n- a\n- b\n")
        self.assertEqual(hook.as_python_markdown("```\ntext\n- a\n```\n"), "```\ntext\n- a\n```\n")


class ExternalContent(unittest.TestCase):
    def test_is_found_and_links_are_not(self):
        page = '<a href="https://a.example"></a><link rel="canonical" href="https://b.example"><img src="c.svg">'
        self.assertEqual(hook.external("index.html", page), [])
        loaded = '<script src="//d.example/x.js"></script><link rel="stylesheet" href="https://e.example">'
        self.assertEqual(hook.external("index.html", loaded), ["//d.example/x.js", "https://e.example"])
        self.assertEqual(hook.external("a.css", "a{b:url('https://f.example/g')}c{d:url(e.svg)}"), ["https://f.example/g"])

    def test_includes_diagrams_that_a_script_would_draw(self):
        page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
        with self.assertRaises(PluginError):
            hook.on_page_markdown("text\n```mermaid\na --> b\n```\n", page=page)


class Staging(unittest.TestCase):
    def test_changes_links_only_outside_code(self):
        page = "[a](b/) `[c](d/)`\n```\n[e](f/)\n```\n![g](h.svg)\n"
        expected = "[a](B/) `[c](d/)`\n```\n[e](f/)\n```\n![g](H.SVG)\n"
        self.assertEqual(outside_code(page, str.upper), expected)

    def test_copies_what_pages_link_to_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as folder:
            tree, copy = Path(folder, "tree"), Path(folder, "copy")
            files = {
                "README.md": "[a](docs/a.md#b) [x](https://x.example)",
                "docs/a.md": "[c](../c/) ![d](d.svg)",
                "docs/d.svg": "<svg/>",
                "c/e.rs": "",
                "secret": "",
            }
            for name, text in files.items():
                Path(tree, name).parent.mkdir(parents=True, exist_ok=True)
                Path(tree, name).write_text(text)
            stage = Stage(tree, copy)
            stage.add(Path("README.md"))
            stage.run()
            found = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
            self.assertEqual(found, ["README.md", "c/README.md", "docs/a.md", "docs/d.svg"])
            self.assertEqual(Path(copy, "docs/a.md").read_text(), "[c](../c/README.md) ![d](d.svg)")
            self.assertIn("- `e.rs`", Path(copy, "c/README.md").read_text())


if __name__ == "__main__":
    unittest.main()
