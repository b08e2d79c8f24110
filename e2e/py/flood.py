"""Floods an onion service with introductions at a fixed rate, and watches what its HSDirs hold meanwhile.

The flood needs no onion service and no rendezvous of its own, as that of an attacker who wants to pay as little as
possible. It knows every descriptor that an HSDir holds for the period that clients use. It spares introduction points
that are known to be dead, and looks at them again now and then.
"""
import functools
import queue
import random
import sys
import threading
import time

from stem.descriptor.hidden_service import HiddenServiceDescriptorV3

import circuit
import introduction
import watch

# The number of threads that introduce, and of those that look at new and dead points.
FLOODERS, CHECKERS = 32, 2
# The time between two looks at a dead point, and the pause if there is nothing to look at.
CHECK_SECONDS, IDLE_SECONDS = 2, 0.1


class Flood(watch.Watch):
    """The flood of one service. It prints a line of JSON for each answer of an HSDir and of an introduction point."""

    def __init__(self, control, decode, address, hsdirs):
        # Most answers repeat the one before.
        super().__init__(control, functools.lru_cache(maxsize=256)(decode), address, hsdirs)
        self.identity = HiddenServiceDescriptorV3.identity_key_from_address(address)
        self.held, self.tried, self.dead = {}, {}, set()
        self.state, self.due = threading.Lock(), queue.Queue()
        self.rate, self.has_new_rate = 0.0, threading.Event()

    def run(self):
        """Floods and watches until tor closes the control connection."""
        for flooder in range(FLOODERS):
            threading.Thread(target=self.flood, args=[flooder], daemon=True).start()
        for checker in range(CHECKERS):
            threading.Thread(target=self.check, args=[checker], daemon=True).start()
        for task in (self.obey, self.pace):
            threading.Thread(target=task, daemon=True).start()
        super().run()

    def answered(self, answer):
        if answer["of_clients"] and ("descriptor" in answer or answer.get("failure") == "NOT_FOUND"):
            with self.state:
                self.held[answer["hsdir"]] = (answer["blinded_key"], answer.get("descriptor"))
        self.print(answer)

    def points(self):
        """Returns the introduction points that any HSDir holds for the period that clients use, with the subcredential
        of the period."""
        found = {}
        with self.state:
            held = list(self.held.values())
        for key, descriptor in held:
            blinded_key, of_clients = self.keys[0]
            if descriptor and of_clients and key == blinded_key.hex():
                credential = introduction.subcredential(self.identity, blinded_key)
                found |= {point["auth_key"]: (point, credential) for point in descriptor["points"]}
        return found

    def obey(self):
        """Reads rates, in introductions per second, from standard input."""
        for line in sys.stdin:
            self.rate = float(line)
            self.has_new_rate.set()

    def pace(self):
        """Makes introductions due at the current rate."""
        due = time.monotonic()
        while True:
            if self.rate:
                due += 1 / self.rate
                time.sleep(max(0, due - time.monotonic()))
                # An attacker who cannot keep up does not make up for it later.
                if self.due.qsize() < FLOODERS:
                    self.due.put(None)
            else:
                self.has_new_rate.wait()
                self.has_new_rate.clear()
                due = time.monotonic()

    def flood(self, number):
        """Sends introductions that are due to points that are not known to be dead, or to any if all are dead."""
        links = {}
        while True:
            self.due.get()
            points = self.points()
            alive = [point for name, point in points.items() if name not in self.dead]
            if points:
                self.introduce(number, links, random.choice(alive or list(points.values())))

    def check(self, number):
        """Looks at new points and at dead ones, without which the flood would go on as before."""
        links = {}
        while True:
            point = self.next_to_check()
            if point:
                self.introduce(number, links, point)
            else:
                time.sleep(IDLE_SECONDS)

    def next_to_check(self):
        points, now = self.points(), time.monotonic()
        with self.state:
            for name, point in points.items():
                tried = self.tried.get(name)
                if tried is None or (name in self.dead and tried < now - CHECK_SECONDS):
                    self.tried[name] = now
                    return point
        return None

    def introduce(self, number, links, chosen):
        """Introduces once, and prints the answer. A thread has links to two relays, as a relay does not extend a circuit
        to itself."""
        point, credential = chosen
        name, fingerprints = point["auth_key"], sorted(self.relays)
        line = {"point": name}
        firsts = [fingerprints[(number + offset) % len(fingerprints)] for offset in (0, 1)]
        first = next(fingerprint for fingerprint in firsts if fingerprint != point["relay"])
        try:
            if first not in links:
                links[first] = circuit.Link(self.relays[first])
            rendezvous = random.choice(list(self.relays.values()))
            status = introduction.introduce(links[first], self.relays[point["relay"]], point, rendezvous, credential)
        except (OSError, circuit.CircuitError) as error:
            if first in links:
                links.pop(first).close()
            line["failure"] = str(error)
        else:
            line["answer"] = status
            with self.state:
                self.tried[name] = time.monotonic()
                (self.dead.discard if status == introduction.PASSED_ON else self.dead.add)(name)
        self.print(line)
