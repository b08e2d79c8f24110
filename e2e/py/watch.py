"""Asks HSDirs repeatedly for the two descriptors of a service, one for each of two time periods."""
import base64
import calendar
import functools
import hashlib
import json
import os
import random
import struct
import threading
import time
import traceback

from stem.descriptor import hidden_service

import circuit

# The pauses between an HSDir's answer and the next request: if it has the descriptor, and otherwise.
PAUSE_SECONDS, IDLE_SECONDS = 1, 10
# The time between two looks at the consensus.
CONSENSUS_SECONDS = 2
# The lengths of a time period in a private network, and of the time between the start of a period and the next shared
# random value, in voting intervals.
PERIOD, HALF_PERIOD = 24, 12
# The constants of rend-spec-v3, appendix A.2.
BLIND = b"Derive temporary signing key\0"
BASE_POINT = (
    b"(15112221349535400772501151409588531511454012693041857206046113283949847762202, "
    b"46316835694926478169428394003475163141307993866256225615783033603165251855960)"
)


def relays(control):
    """Returns the relays in tor's consensus, by fingerprint."""
    found = {}
    for words in (line.split() for line in control.information("ns/all") if line.startswith("r ")):
        fingerprint = base64.b64decode(words[2] + "=").hex().upper()
        description = control.information("md/id/" + fingerprint)
        keys = [line.split()[1] for line in description if line.startswith("ntor-onion-key ")]
        found[fingerprint] = circuit.Relay(words[-3], int(words[-2]), fingerprint, keys[0])
    return found


def periods(control):
    """Returns the period that clients use, the other period for which services publish, and a period's length in
    minutes. A service publishes for the previous period until the next shared random value is known, and then for the
    next period (rend-spec-v3, section 2.2.1)."""
    def seconds(key):
        return calendar.timegm(time.strptime(control.information("consensus/" + key)[0], "%Y-%m-%d %H:%M:%S"))

    valid_after = seconds("valid-after")
    interval = seconds("fresh-until") - valid_after
    number, phase = divmod(valid_after - HALF_PERIOD * interval, PERIOD * interval)
    return number, number - 1 if phase < HALF_PERIOD * interval else number + 1, PERIOD * interval // 60


def blinded_key(address, period, minutes):
    identity = hidden_service.HiddenServiceDescriptorV3.identity_key_from_address(address)
    nonce = b"key-blind" + struct.pack(">QQ", period, minutes)
    return hidden_service._blinded_pubkey(identity, hashlib.sha3_256(BLIND + identity + BASE_POINT + nonce).digest())


def end(failure):
    """Ends the whole process after an unexpected error in a thread."""
    traceback.print_exception(failure.exc_value)
    os._exit(1)


class Watch:
    """The watch over one service. Each HSDir has its own thread, so that a silent one does not delay the others."""

    def __init__(self, control, decode, address, hsdirs):
        self.control, self.decode, self.address, self.hsdirs = control, decode, address, hsdirs
        # Decoding takes most of the time, and most answers are the same as those before.
        self.read = functools.lru_cache(maxsize=256)(self.read_anew)
        self.relays, self.output, self.known, self.keys = relays(control), threading.Lock(), {}, []

    def run(self):
        """Prints a line of JSON for each answer, until tor closes the control connection."""
        self.update()
        threading.excepthook = end
        for hsdir in self.hsdirs:
            threading.Thread(target=self.ask_repeatedly, args=[hsdir], daemon=True).start()
        while True:
            time.sleep(CONSENSUS_SECONDS)
            self.update()

    def update(self):
        clients, other, minutes = periods(self.control)
        for period in (clients, other):
            if period not in self.known:
                self.known[period] = blinded_key(self.address, period, minutes)
        self.keys = [(self.known[clients], True), (self.known[other], False)]

    def ask_repeatedly(self, hsdir):
        route, due = None, {}
        while True:
            keys = self.keys
            # The key of a period that is over would be due for ever.
            due = {key: due.get(key, 0) for key, _ in keys}
            for key, of_clients in keys:
                if due[key] > time.monotonic():
                    continue
                asked, answer = time.monotonic(), {"hsdir": hsdir, "blinded_key": key.hex(), "of_clients": of_clients}
                try:
                    if route is None or route.is_used_up:
                        route = self.circuit(hsdir, route)
                    self.ask(route, key, answer)
                except (OSError, circuit.CircuitError) as error:
                    if route:
                        route.close()
                    route, answer["failure"] = None, f"NO_ANSWER: {error}"
                now = time.monotonic()
                due[key] = now + (IDLE_SECONDS if answer.get("failure") == "NOT_FOUND" else PAUSE_SECONDS)
                self.answered(answer | {"asked_seconds_ago": now - asked})
            time.sleep(max(0, min(due.values()) - time.monotonic()))

    def answered(self, answer):
        """Prints an HSDir's answer. A subclass may do more."""
        self.print(answer)

    def print(self, line):
        with self.output:
            print(json.dumps(line), flush=True)

    def circuit(self, hsdir, old):
        if old:
            old.close()
        first = random.choice([relay for fingerprint, relay in self.relays.items() if fingerprint != hsdir])
        return circuit.Circuit(first, self.relays[hsdir])

    def ask(self, route, key, answer):
        status, text = route.get("/tor/hs/3/" + base64.b64encode(key).decode().rstrip("="))
        code = status.split()[1:2]
        if code == ["200"]:
            answer |= self.read(text)
        else:
            answer["failure"] = "NOT_FOUND" if code == ["404"] else status

    def read_anew(self, text):
        try:
            return {"descriptor": self.decode(text, self.address)}
        except ValueError as error:
            # While discovery is restricted, only a client with a key can decrypt the descriptor.
            return {"failure": f"UNREADABLE: {error}"}
