"""Tests of the script that makes pictures of a terminal. `make docs` runs them before it builds the site."""

import sys
import unittest
import xml.etree.ElementTree as ElementTree

import screenshot

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture):
    """Returns the texts of each line of a picture."""
    root = ElementTree.fromstring(picture)
    return [[piece.text for piece in line.iter(f"{SVG}tspan")] for line in root.iter(f"{SVG}text")]


class Pictures(unittest.TestCase):
    def test_show_the_output_of_a_program_in_a_terminal(self):
        code = "import os; print(os.isatty(1), *os.get_terminal_size()); print('\\x1b[1;32mReady\\x1b[0m <a&b>')"
        picture = screenshot.draw("$ status", screenshot.run([sys.executable, "-c", code]))
        self.assertEqual(texts(picture), [["$ status"], ["True 80 24"], ["Ready", "<a&b>"]])
        ready = [piece for piece in ElementTree.fromstring(picture).iter(f"{SVG}tspan") if piece.text == "Ready"][0]
        self.assertEqual((ready.get("font-weight"), ready.get("fill")), ("bold", screenshot.COLOURS[2]))

    def test_keep_the_columns_and_the_style_across_lines(self):
        picture = screenshot.draw("$", "a\x1b[31mb\nc\x1b[39md\n")
        pieces = list(ElementTree.fromstring(picture).iter(f"{SVG}tspan"))[1:]
        places = [(piece.text, piece.get("x"), piece.get("fill")) for piece in pieces]
        red = screenshot.COLOURS[1]
        self.assertEqual(places, [("a", "14.0", None), ("b", "22.4", red), ("c", "14.0", red), ("d", "22.4", None)])

    def test_place_each_cell_of_a_table(self):
        picture = screenshot.draw("$", "NAME    STATE\nweb b   Ready\n")
        cells = [(cell.text, cell.get("x")) for cell in ElementTree.fromstring(picture).iter(f"{SVG}tspan")][1:]
        self.assertEqual(cells, [("NAME", "14.0"), ("STATE", "81.2"), ("web b", "14.0"), ("Ready", "81.2")])

    def test_show_faint_text(self):
        picture = screenshot.draw("$", "\x1b[2ma\x1b[22mb")
        self.assertEqual(
            [piece.get("opacity") for piece in ElementTree.fromstring(picture).iter(f"{SVG}tspan")], [None, "0.65", None]
        )

    def test_are_not_made_of_what_needs_a_real_terminal(self):
        for output in ["\x1b[2J", "a\rb", "\x1b[48;5;1mx", "x" * 81, "x\n" * 24]:
            with self.assertRaises(ValueError, msg=repr(output)):
                screenshot.draw("$", output)

    def test_are_not_made_of_a_command_that_fails(self):
        for command in [["/does/not/exist"], [sys.executable, "-c", "raise SystemExit('no cluster')"]]:
            with self.assertRaises(SystemExit):
                screenshot.run(command)
        # `status` exits with 3 if a service is not Ready.
        self.assertEqual(screenshot.run([sys.executable, "-c", "print('x'); raise SystemExit(3)"]), "x\n")


if __name__ == "__main__":
    unittest.main()
