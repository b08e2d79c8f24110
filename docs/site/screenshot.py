"""Runs a command in a terminal of 80x24 characters, and prints a picture (SVG) of what it shows.

    screenshot.py COMMAND [ARGUMENT…]

The picture has the title "$ COMMAND ARGUMENT…". Only the base name of the command is shown, and `kubectl-NAME` as
`kubectl NAME`. The output must be text with colours; other control sequences, which need a real terminal, are an error.
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from html import escape

COLUMNS, ROWS = 80, 24
# The size of one character cell, in pixels.
WIDTH, HEIGHT = 8.4, 18
PAD = 14
COLOURS = ["#24292f", "#e5534b", "#57ab5a", "#c69026", "#539bf5", "#b083f0", "#39c5cf", "#909dab"]
# The SVG attributes for the SGR codes of bold, faint and normal text.
INTENSITIES = {1: ' font-weight="bold"', 2: ' opacity="0.65"', 22: None}
# Words between single spaces.
CELL = re.compile(r"\S+(?: \S+)*")
SEQUENCE = re.compile(r"\x1b\[([0-9;]*)m")


def run(command):
    """Runs a command in a pseudo-terminal, and returns its output. Any exit code is fine: `status` reports with it
    whether the services are Ready."""
    child, terminal = pty.fork()
    if child == 0:
        # Wait until the terminal has its size.
        os.read(0, 1)
        os.environ["TERM"] = "xterm-256color"
        for name in ("NO_COLOR", "CLICOLOR", "COLUMNS", "LINES"):
            os.environ.pop(name, None)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", flush=True)
            os._exit(127)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    attributes = termios.tcgetattr(terminal)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    os.write(terminal, b"\n")
    output = bytearray()
    while chunk := read(terminal):
        output += chunk
    _, status = os.waitpid(child, 0)
    text = output.decode().replace("\r\n", "\n")
    if os.waitstatus_to_exitcode(status) in (1, 2, 127):
        raise SystemExit(f"screenshot.py: {text.strip() or 'the command failed'}")
    return text


def read(terminal):
    """Reads from a terminal. Linux reports the end of the last program as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def runs(line, style):
    """Splits a line into pairs of a text and its style. Returns the pairs, and the style at the end of the line."""
    found, place = [], 0
    for sequence in SEQUENCE.finditer(line):
        if sequence.start() > place:
            found.append((line[place : sequence.start()], style))
        style = changed(style, sequence[1])
        place = sequence.end()
    if place < len(line):
        found.append((line[place:], style))
    return found, style


def changed(style, codes):
    """Returns a style, which is a pair of the colour and the intensity, after a sequence of SGR codes (ECMA-48)."""
    colour, intensity = style
    for code in map(int, (codes or "0").split(";")):
        if code == 0:
            colour, intensity = None, None
        elif code in INTENSITIES:
            intensity = INTENSITIES[code]
        elif 30 <= code <= 37 or 90 <= code <= 97:
            colour = COLOURS[code % 10]
        elif code == 39:
            colour = None
        else:
            raise ValueError(f"the SGR code {code} is not supported")
    return colour, intensity


def draw(title, text):
    """Returns the picture of a terminal that shows the text."""
    lines = text.rstrip("\n").split("\n")
    plain = [SEQUENCE.sub("", line) for line in lines]
    if any(not character.isprintable() for line in plain for character in line):
        raise ValueError("the output contains control sequences other than colours")
    if len(lines) > ROWS - 1 or any(len(line) > COLUMNS for line in plain):
        raise ValueError(f"the output does not fit into {COLUMNS}x{ROWS} characters")
    width, height = COLUMNS * WIDTH + 2 * PAD, (len(lines) + 1) * HEIGHT + 2 * PAD
    rows, style = [row(0, [(title, (COLOURS[7], None))])], (None, None)
    for number, line in enumerate(lines, 1):
        pieces, style = runs(line, style)
        rows.append(row(number, pieces))
    label = escape(title, quote=True)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">
  <style>
    text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #e6e6ec; white-space: pre; }}
  </style>
  <rect width="100%" height="100%" rx="8" fill="#16181d"/>
{"".join(rows)}</svg>
"""


def row(number, pieces):
    """Returns the SVG text of one line. Each cell of a table has its own place and length, so the columns stay aligned
    in every font."""
    parts, column = [], 0
    for text, (colour, intensity) in pieces:
        fill = f' fill="{colour}" style="fill: {colour}"' if colour else ""
        for cell in CELL.finditer(text):
            x, length = PAD + (column + cell.start()) * WIDTH, len(cell[0]) * WIDTH
            place = f'x="{x:.1f}" textLength="{length:.1f}"'
            parts.append(f"<tspan {place}{fill}{intensity or ''}>{escape(cell[0], quote=False)}</tspan>")
        column += len(text)
    if not parts:
        return ""
    return f'  <text y="{PAD + (number + 0.75) * HEIGHT:g}" xml:space="preserve">{"".join(parts)}</text>\n'


def main(command):
    if not command:
        raise SystemExit(__doc__)
    # People run a plugin through kubectl.
    name = os.path.basename(command[0]).replace("kubectl-", "kubectl ", 1)
    title = "$ " + " ".join([name, *command[1:]])
    try:
        print(draw(title, run(command)), end="")
    except ValueError as error:
        raise SystemExit(f"screenshot.py: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
