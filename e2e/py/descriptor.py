#!/usr/bin/env python3
"""Decodes a v3 onion service's descriptor with stem, and so without any code of ours. Prints JSON.

    descriptor.py fetch CONTROL_SOCKET COOKIE_FILE ONION_ADDRESS   asks the HSDirs, through that tor's HSFETCH
    descriptor.py decode ONION_ADDRESS                             reads the descriptor from standard input
"""
import base64
import json
import socket
import sys

from stem.descriptor.hidden_service import HiddenServiceDescriptorV3

TIMEOUT_SECONDS = 60
LEGACY_IDENTITY, ED25519_IDENTITY = 2, 3


def main(arguments):
    match arguments:
        case ["fetch", control_socket, cookie, address]:
            text = fetch(control_socket, cookie, address.removesuffix(".onion"))
        case ["decode", address]:
            text = sys.stdin.read()
        case _:
            sys.exit(__doc__)
    print(json.dumps(decode(text, address.removesuffix(".onion"))))


def decode(text, address):
    descriptor = HiddenServiceDescriptorV3.from_str(text)
    inner = descriptor.decrypt(address)
    return {
        "revision_counter": descriptor.revision_counter,
        "lifetime_minutes": descriptor.lifetime,
        "bytes": len(text),
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


def fetch(control_socket, cookie, address):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(control_socket)
        lines = connection.makefile("rb")

        def line():
            text = lines.readline().decode()
            if not text:
                sys.exit("tor closed the control connection")
            return text.rstrip("\r\n")

        def command(text):
            connection.sendall(text.encode() + b"\r\n")
            answer = line()
            if answer != "250 OK":
                sys.exit(f"{text.split()[0]}: {answer}")

        with open(cookie, "rb") as file:
            command("AUTHENTICATE " + file.read().hex())
        command("SETEVENTS HS_DESC HS_DESC_CONTENT")
        command("HSFETCH " + address)
        failures = []
        while True:
            event = line()
            if event.startswith("650 HS_DESC FAILED " + address):
                failures.append(event.partition("REASON=")[2] or event)
            if event.startswith("650+HS_DESC_CONTENT " + address):
                body = []
                while (text := line()) != ".":
                    body.append(text.removeprefix("."))
                if any(body):
                    return "\n".join(body) + "\n"
                # An empty body ends the search: no HSDir was left to ask.
                sys.exit("no HSDir has the descriptor: " + ", ".join(failures))


if __name__ == "__main__":
    main(sys.argv[1:])
