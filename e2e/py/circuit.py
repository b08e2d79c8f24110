"""Two-hop circuits, after tor-spec. Over a circuit, an HSDir answers directory requests: HSFETCH serves only the time
period that clients use, and HSDirs refuse requests for descriptors over a circuit with a single hop."""
import base64
import collections
import hashlib
import hmac
import os
import socket
import ssl
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TIMEOUT_SECONDS = 10
LINK_PROTOCOLS = (4, 5)
FIRST_CIRCUIT = 0x80000001
CELL_BODY = 509
# tor-spec, sections "Cell Packet format" and "Relay cells".
RELAY, DESTROY, VERSIONS, NETINFO, RELAY_EARLY, CREATE2, CREATED2 = 3, 4, 7, 8, 9, 10, 11
FIRST_VARIABLE_LENGTH = 128
DATA, END, CONNECTED, BEGIN_DIR, EXTEND2, EXTENDED2 = 2, 3, 4, 13, 14, 15
# A relay stops after 1000 cells if it gets no acknowledgement. The circuit is replaced before.
MOST_CELLS = 700
PROTOCOL = b"ntor-curve25519-sha256-1"

# A relay: its address, its port for other relays, its fingerprint and its ntor key.
Relay = collections.namedtuple("Relay", "address port fingerprint onion_key")


class CircuitError(Exception):
    """The circuit cannot be used any longer."""


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


class Handshake:
    """The client's side of an ntor handshake with a relay."""

    def __init__(self, relay):
        self.identity, self.onion_key = bytes.fromhex(relay.fingerprint), base64.b64decode(relay.onion_key + "==")
        self.secret = X25519PrivateKey.generate()
        self.public = self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def request(self):
        handshake = self.identity + self.onion_key + self.public
        return struct.pack(">HH", 2, len(handshake)) + handshake

    def finish(self, reply):
        """Returns the layer of encryption that the relay's reply completes."""
        theirs, proof = reply[2:34], reply[34:66]
        shared = [self.secret.exchange(X25519PublicKey.from_public_bytes(key)) for key in (theirs, self.onion_key)]
        secret = b"".join([*shared, self.identity, self.onion_key, self.public, theirs, PROTOCOL])
        verify = mac(PROTOCOL + b":verify", secret)
        parts = verify, self.identity, self.onion_key, theirs, self.public, PROTOCOL, b"Server"
        if not hmac.compare_digest(proof, mac(PROTOCOL + b":mac", *parts)):
            raise CircuitError("the relay's proof in the ntor handshake is wrong")
        seed, keys, block = mac(PROTOCOL + b":key_extract", secret), b"", b""
        for number in range(1, 4):
            block = mac(seed, block, PROTOCOL + b":key_expand", bytes([number]))
            keys += block
        return Layer(keys)


class Layer:
    """The encryption and the checksums between the client and one relay of the circuit."""

    def __init__(self, keys):
        self.forward_digest, self.backward_digest = hashlib.sha1(keys[:20]), hashlib.sha1(keys[20:40])
        cipher = lambda key: Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update
        self.encrypt, self.decrypt = cipher(keys[40:56]), cipher(keys[56:72])


class Link:
    """A connection to a relay, on which circuits begin one after another."""

    def __init__(self, relay):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The handshake of a circuit proves the relay's identity.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = socket.create_connection((relay.address, relay.port), TIMEOUT_SECONDS)
        self.connection = context.wrap_socket(connection)
        self.cells = self.connection.makefile("rb")
        self.relay, self.next_circuit = relay, FIRST_CIRCUIT
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self):
        versions = struct.pack(f">{len(LINK_PROTOCOLS)}H", *LINK_PROTOCOLS)
        self.connection.sendall(struct.pack(">HBH", 0, VERSIONS, len(versions)) + versions)
        circuit, command, length = struct.unpack(">HBH", self.read(5))
        self.read(length)
        if command != VERSIONS:
            raise CircuitError(f"the relay answered VERSIONS with the cell command {command}")
        self.receive_cell(NETINFO, circuit)
        # The time, the relay's address (of type 4, with 4 bytes) and none of our addresses.
        self.send_cell(NETINFO, bytes(4) + bytes([4, 4]) + socket.inet_aton(self.relay.address) + bytes(1), circuit)

    def take_circuit(self):
        self.next_circuit += 1
        return self.next_circuit - 1

    def read(self, length):
        data = self.cells.read(length)
        if len(data) < length:
            raise CircuitError("the relay closed the connection")
        return data

    def send_cell(self, command, body, circuit):
        self.connection.sendall(struct.pack(">IB", circuit, command) + body.ljust(CELL_BODY, b"\0"))

    def receive_cell(self, wanted, circuit):
        """Returns the body of the circuit's next cell, which must have this command. Skips padding, the cells that open
        the link, and the cells of earlier circuits."""
        while True:
            other, command = struct.unpack(">IB", self.read(5))
            length = struct.unpack(">H", self.read(2))[0] if command >= FIRST_VARIABLE_LENGTH else CELL_BODY
            body = self.read(length)
            if (command, other) == (wanted, circuit):
                return body
            if other == circuit and circuit:
                raise CircuitError(f"the relay sent a cell with the command {command} instead of {wanted}")

    def close(self):
        self.connection.close()


class Circuit:
    """A circuit through one relay to another. Without a link to the first relay, the circuit has a link of its own."""

    def __init__(self, first, last, link=None):
        self.own_link = link is None
        self.link = link or Link(first)
        self.circuit = self.link.take_circuit()
        self.layers, self.cells, self.stream = [], 0, 0
        try:
            handshake = Handshake(first)
            self.send_cell(CREATE2, handshake.request())
            self.layers.append(handshake.finish(self.receive_cell(CREATED2)))
            handshake = Handshake(last)
            place = socket.inet_aton(last.address) + struct.pack(">H", last.port)
            links = bytes([2, 0, len(place)]) + place + bytes([2, 20]) + bytes.fromhex(last.fingerprint)
            self.send(EXTEND2, 0, links + handshake.request(), RELAY_EARLY)
            command, _, reply = self.receive()
            if command != EXTENDED2:
                raise CircuitError(f"the relay answered EXTEND2 with the relay command {command}")
            self.layers.append(handshake.finish(reply))
        except BaseException:
            self.close()
            raise

    def send_cell(self, command, body):
        self.link.send_cell(command, body, self.circuit)

    def receive_cell(self, wanted):
        return self.link.receive_cell(wanted, self.circuit)

    def send(self, command, stream, data, cell=RELAY):
        body = struct.pack(">BHHIH", command, 0, stream, 0, len(data)) + data.ljust(CELL_BODY - 11, b"\0")
        digest = self.layers[-1].forward_digest
        digest.update(body)
        body = body[:5] + digest.digest()[:4] + body[9:]
        for layer in reversed(self.layers):
            body = layer.encrypt(body)
        self.send_cell(cell, body)

    def receive(self):
        """Returns the command, the stream and the data of the next message from the last relay."""
        body = self.receive_cell(RELAY)
        for layer in self.layers:
            body = layer.decrypt(body)
        command, recognized, stream, _, length = struct.unpack(">BHHIH", body[:11])
        digest = self.layers[-1].backward_digest
        digest.update(body[:5] + bytes(4) + body[9:])
        if recognized or digest.digest()[:4] != body[5:9]:
            raise CircuitError("the message is not from the last relay of the circuit")
        self.cells += 1
        return command, stream, body[11 : 11 + length]

    def get(self, path):
        """Sends a directory request to the last relay, and returns the status line and the body of its answer."""
        self.stream += 1
        self.send(BEGIN_DIR, self.stream, b"")
        self.send(DATA, self.stream, f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while True:
            command, stream, data = self.receive()
            if stream != self.stream:
                continue
            if command == DATA:
                answer += data
            elif command == END:
                header, _, body = answer.partition(b"\r\n\r\n")
                return header.partition(b"\r\n")[0].decode(), body.decode()
            elif command != CONNECTED:
                raise CircuitError(f"the HSDir sent the relay command {command}")

    @property
    def is_used_up(self):
        return self.cells > MOST_CELLS

    def close(self):
        """Closes the circuit's own link. On a shared link, ends the circuit only."""
        if self.own_link:
            self.link.close()
        else:
            self.send_cell(DESTROY, bytes(1))
