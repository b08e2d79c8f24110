#!/usr/bin/env python3
"""Decodes a v3 onion service's descriptor with stem instead of our own code, and prints JSON.

    descriptor.py fetch CONTROL_SOCKET COOKIE_FILE ONION_ADDRESS
        Fetches the descriptor from the HSDirs by sending HSFETCH to this tor.
    descriptor.py fetch-each CONTROL_SOCKET COOKIE_FILE ONION_ADDRESS FINGERPRINT...
        Fetches the descriptor that each of these HSDirs holds.
    descriptor.py answers CONTROL_SOCKET COOKIE_FILE ONION_ADDRESS FINGERPRINT...
        Prints each HSDir's answer: HELD if it holds a descriptor, otherwise tor's reason, such as NOT_FOUND.
    descriptor.py watch CONTROL_SOCKET COOKIE_FILE ONION_ADDRESS FINGERPRINT...
        Asks these HSDirs repeatedly for the descriptors of two time periods, until the process is stopped. Prints a
        line of JSON for each answer. Uses this tor for the consensus only.
    descriptor.py flood CONTROL_SOCKET COOKIE_FILE ONION_ADDRESS FINGERPRINT...
        Works like watch, and also introduces itself to the service's introduction points, at the rate per second that
        the last line of standard input gave. Prints a line of JSON for each answer of an introduction point.
    descriptor.py decode ONION_ADDRESS
        Reads the descriptor from standard input.
"""
import base64
import json
import socket
import sys

from stem.descriptor.hidden_service import HiddenServiceDescriptorV3

import flood
import watch

# The longest pause between two lines from tor. Once a network is up, HSDirs answer within seconds.
TIMEOUT_SECONDS = 30
# The number of times that each HSDir is asked until it answers.
FETCH_ATTEMPTS = 3
LEGACY_IDENTITY, ED25519_IDENTITY = 2, 3


def main(arguments):
    match arguments:
        case ["fetch", control_socket, cookie, address]:
            address = address.removesuffix(".onion")
            result = decode(fetch(control_socket, cookie, address), address)
        case ["fetch-each", control_socket, cookie, address, *hsdirs]:
            result = fetch_each(control_socket, cookie, address.removesuffix(".onion"), hsdirs)
        case ["answers", control_socket, cookie, address, *hsdirs]:
            result = answers(control_socket, cookie, address.removesuffix(".onion"), hsdirs)
        case ["watch", control_socket, cookie, address, *hsdirs]:
            control = Control(control_socket, cookie)
            watch.Watch(control, decode, address.removesuffix(".onion"), hsdirs).run()
        case ["flood", control_socket, cookie, address, *hsdirs]:
            control = Control(control_socket, cookie)
            flood.Flood(control, decode, address.removesuffix(".onion"), hsdirs).run()
        case ["decode", address]:
            result = decode(sys.stdin.read(), address.removesuffix(".onion"))
        case _:
            sys.exit(__doc__)
    print(json.dumps(result))


def fingerprint(relay):
    """Returns the fingerprint in tor's form of a relay, `$FINGERPRINT~NICKNAME`."""
    return relay.lstrip("$").partition("~")[0]


def decode(text, address):
    # With validate=True, stem also checks the signatures.
    descriptor = HiddenServiceDescriptorV3.from_str(text, validate=True)
    inner = descriptor.decrypt(address)
    return {
        "blinded_key": descriptor.signing_cert.signing_key().hex(),
        "revision_counter": descriptor.revision_counter,
        "lifetime_minutes": descriptor.lifetime,
        "bytes": len(text),
        "single_onion_service": inner.is_single_service,
        "points": [point(p) for p in inner.introduction_points],
    }


def point(p):
    links = {link.type: link.value for link in p.link_specifiers}
    return {
        "relay": links[LEGACY_IDENTITY].hex().upper(),
        "relay_ed25519": links[ED25519_IDENTITY].hex() if ED25519_IDENTITY in links else None,
        "onion_key": p.onion_key_raw,
        "auth_key": p.auth_key_cert.key.hex(),
        "enc_key": base64.b64decode(p.enc_key_raw).hex(),
    }


class Control:
    """A control connection that fetches descriptors and reads the consensus."""

    def __init__(self, control_socket, cookie):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(control_socket)
        self.connection, self.lines, self.events = connection, connection.makefile("rb"), []
        with open(cookie, "rb") as file:
            self.command("AUTHENTICATE " + file.read().hex())
        self.command("SETEVENTS HS_DESC HS_DESC_CONTENT")

    def line(self):
        text = self.lines.readline().decode()
        if not text:
            sys.exit("tor closed the control connection")
        return text.rstrip("\r\n")

    def command(self, text, refusal=None):
        """Returns True if tor accepts the command, and False if it answers with the status code `refusal`."""
        self.connection.sendall(text.encode() + b"\r\n")
        answer = self.line()
        while answer.startswith("650"):
            self.events.append(self.event(answer))
            answer = self.line()
        if answer != "250 OK" and (refusal is None or not answer.startswith(refusal)):
            sys.exit(f"{text.split()[0]}: {answer}")
        return answer == "250 OK"

    def information(self, key):
        """Returns the lines of a value that GETINFO reports."""
        self.connection.sendall(f"GETINFO {key}\r\n".encode())
        answer, lines = self.line(), []
        while answer.startswith("650"):
            self.events.append(self.event(answer))
            answer = self.line()
        while not answer.startswith("250 "):
            if answer.startswith(f"250+{key}="):
                while (text := self.line()) != ".":
                    lines.append(text)
            elif answer.startswith(f"250-{key}="):
                lines.append(answer.partition("=")[2])
            else:
                sys.exit(f"GETINFO {key}: {answer}")
            answer = self.line()
        return lines

    def event(self, first):
        """Returns an event's first line and its body."""
        body = []
        if first.startswith("650+"):
            while (text := self.line()) != ".":
                body.append(text.removeprefix("."))
            self.line()  # 650 OK
        return first, body

    def next_event(self):
        return self.events.pop(0) if self.events else self.event(self.line())

    def descriptors(self, address, failures):
        """Yields, for each answer, the HSDir's fingerprint (or UNKNOWN) and the descriptor (empty if it has none)."""
        while True:
            event, body = self.next_event()
            if event.startswith("650 HS_DESC FAILED " + address):
                failures.append(event.partition("REASON=")[2] or event)
            if event.startswith("650+HS_DESC_CONTENT " + address):
                yield fingerprint(event.split()[3]), "\n".join(body) + "\n" if any(body) else ""


def fetch(control_socket, cookie, address):
    failures = []
    control = Control(control_socket, cookie)
    control.command("HSFETCH " + address)
    for _, text in control.descriptors(address, failures):
        if text:
            return text
        # An empty body means that tor has asked all HSDirs, so the search is over.
        sys.exit("no HSDir has the descriptor: " + ", ".join(failures))


def fetch_each(control_socket, cookie, address, hsdirs):
    found, open_ones = {}, set(hsdirs)
    for _ in range(FETCH_ATTEMPTS):
        try:
            ask(Control(control_socket, cookie), address, open_ones, found)
            return found
        except TimeoutError:
            # tor reports no result for some fetches, for example if it gave up their circuit.
            continue
    sys.exit("got no answer from the HSDirs " + ", ".join(sorted(open_ones)))


def ask(control, address, open_ones, found):
    """Asks each HSDir once, adds the descriptors to `found`, and removes those that answered from `open_ones`."""
    # 552: this tor's consensus does not contain the HSDir.
    asked = {hsdir for hsdir in open_ones if control.command(f"HSFETCH {address} SERVER=${hsdir}", refusal="552")}
    open_ones &= asked
    if not open_ones and not found:
        sys.exit("tor knows none of these HSDirs")
    answers = control.descriptors(address, [])
    while open_ones:
        hsdir, text = next(answers)
        open_ones.discard(hsdir)
        if text:
            found[hsdir] = decode(text, address)


def answers(control_socket, cookie, address, hsdirs):
    """Returns each HSDir's answer. Asks again if a request did not reach the HSDir."""
    found = {}
    for _ in range(FETCH_ATTEMPTS):
        open_ones = {hsdir for hsdir in hsdirs if found.get(hsdir) not in ("HELD", "NOT_FOUND")}
        try:
            control = Control(control_socket, cookie)
            for hsdir in open_ones:
                control.command(f"HSFETCH {address} SERVER=${hsdir}")
            while open_ones:
                first, body = control.next_event()
                words = first.split()
                if words[1:4] == ["HS_DESC", "FAILED", address]:
                    found[fingerprint(words[5])] = first.partition("REASON=")[2]
                if words[:2] == ["650+HS_DESC_CONTENT", address]:
                    hsdir = fingerprint(words[3])
                    if any(body):
                        found[hsdir] = "HELD"
                    open_ones.discard(hsdir)
        except TimeoutError:
            continue
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
