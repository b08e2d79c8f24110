#!/usr/bin/env python3
"""Times the code of Python Onionbalance.

Reads one command per line from standard input and writes one response per line. Times are in seconds.

    service KEY DESCRIPTOR_FILE ADDRESS
        Loads the master key (tor's key file in hexadecimal) and the introduction points of a
        descriptor. Responds with the number of introduction points.
    descriptor SECONDS
        Builds the service's descriptor SECONDS after the start of the shared random value.
    network CONSENSUS_FILE MICRODESCRIPTORS_FILE
        Parses a network and finds the HSDirs of the service's two descriptors.
"""
import io
import logging
import sys
import time

import stem.descriptor.hidden_service
import stem.descriptor.microdescriptor
from onionbalance.hs_v3 import consensus as ob_consensus
from onionbalance.hs_v3 import descriptor as ob_descriptor
from onionbalance.hs_v3 import hashring
from onionbalance.hs_v3 import tor_ed25519
from onionbalance.hs_v3.onionbalance import my_onionbalance

PERIOD = 20_000


class Timer:
    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.start


class Control:
    """A replacement for the control connection, with the replies already in memory."""

    def __init__(self, consensus, microdescriptors):
        with open(consensus) as file:
            self.consensus = file.read()
        with open(microdescriptors, "rb") as file:
            self.microdescriptors = file.read()
        self.controller = self

    def get_md_consensus(self):
        return self.consensus

    def get_microdescriptors(self):
        # stem parses the reply to GETINFO md/all in the same way.
        yield from stem.descriptor.microdescriptor._parse_file(io.BytesIO(self.microdescriptors))


class Worker:
    def service(self, key, descriptor, address):
        self.key = tor_ed25519.load_tor_key_from_disk(bytes.fromhex(key))
        # OnionbalanceService does the same for a key in tor's format.
        stem.descriptor.hidden_service._blinded_sign = tor_ed25519._blinded_sign_with_tor_key
        self.address = address
        with open(descriptor, "rb") as file:
            received = ob_descriptor.ReceivedDescriptor(file.read(), address.removesuffix(".onion"))
        self.points = received.get_intro_points()
        return len(self.points)

    def descriptor(self, seconds):
        my_onionbalance.consensus = ob_consensus.Consensus(do_refresh_consensus=False)
        # Replace the only input that depends on the clock and the network.
        start = time.time() - int(seconds)
        my_onionbalance.consensus.get_start_time_of_previous_srv_run = lambda: start
        with Timer() as timer:
            nonce = my_onionbalance.consensus.get_blinding_param(self.key.public_key().public_bytes(), PERIOD)
            built = ob_descriptor.OBDescriptor(self.address, self.key, nonce, self.points, True)
            str(built.v3_desc)
        return timer.seconds

    def network(self, consensus, microdescriptors):
        my_onionbalance.controller = Control(consensus, microdescriptors)
        with Timer() as timer:
            my_onionbalance.consensus = ob_consensus.Consensus()
            for is_first in (True, False):
                _, period = hashring.get_srv_and_time_period(is_first)
                public_key = self.key.public_key().public_bytes()
                nonce = my_onionbalance.consensus.get_blinding_param(public_key, period)
                blinded = stem.descriptor.hidden_service._blinded_pubkey(public_key, nonce)
                self.hsdirs = hashring.get_responsible_hsdirs(blinded, is_first)
        return timer.seconds


def main():
    logging.disable(logging.CRITICAL)
    worker = Worker()
    for line in sys.stdin:
        command, *arguments = line.split()
        print(getattr(worker, command)(*arguments), flush=True)


if __name__ == "__main__":
    main()
