"""Introductions to an onion service (rend-spec-v3, section 3.3) that lead nowhere: the rendezvous point does not know the
cookie. For the service, such an introduction is like any other until its circuit to the rendezvous point is complete."""
import base64
import hashlib
import os
import socket
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from circuit import Circuit, CircuitError

# tor-spec, section "Relay cells".
INTRODUCE1, INTRODUCE_ACK = 34, 40
# The answer of the introduction point's relay that it has passed the introduction on. tor's relay gives the same other
# answer for an unknown point and for one at its limit.
PASSED_ON = 0
PROTOCOL = b"tor-hs-ntor-curve25519-sha3-256-1"
# Clients pad the encrypted part so that all introductions have the same length.
PADDED = 246


def subcredential(identity, blinded_key):
    credential = hashlib.sha3_256(b"credential" + identity).digest()
    return hashlib.sha3_256(b"subcredential" + credential + blinded_key).digest()


def body(point, rendezvous, credential):
    """Returns the body of INTRODUCE1 for an introduction point of the descriptor, with a rendezvous point."""
    auth_key, enc_key = bytes.fromhex(point["auth_key"]), bytes.fromhex(point["enc_key"])
    secret = X25519PrivateKey.generate()
    public = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shared = secret.exchange(X25519PublicKey.from_public_bytes(enc_key))
    secrets = [shared, auth_key, public, enc_key, PROTOCOL, PROTOCOL + b":hs_key_extract"]
    keys = hashlib.shake_256(b"".join([*secrets, PROTOCOL + b":hs_key_expand", credential])).digest(64)

    place = socket.inet_aton(rendezvous.address) + struct.pack(">H", rendezvous.port)
    links = bytes([2, 0, len(place)]) + place + bytes([2, 20]) + bytes.fromhex(rendezvous.fingerprint)
    onion_key = base64.b64decode(rendezvous.onion_key + "==")
    # The cookie, no extensions, and the rendezvous point's ntor key.
    plain = os.urandom(20) + bytes([0, 1]) + struct.pack(">H", len(onion_key)) + onion_key + links
    cipher = Cipher(algorithms.AES(keys[:32]), modes.CTR(bytes(16))).encryptor()
    # No legacy key, the type and the length of the authentication key, and no extensions.
    head = bytes(20) + bytes([2]) + struct.pack(">H", len(auth_key)) + auth_key + bytes(1)
    message = head + public + cipher.update(plain.ljust(PADDED, b"\0"))
    mac = hashlib.sha3_256(struct.pack(">Q", 32) + keys[32:] + message).digest()
    return message + mac


def introduce(link, relay, point, rendezvous, credential):
    """Sends an introduction over a circuit of its own, because a relay takes one introduction from each circuit. Returns
    the relay's answer."""
    circuit = Circuit(link.relay, relay, link)
    circuit.send(INTRODUCE1, 0, body(point, rendezvous, credential))
    command, _, answer = circuit.receive()
    if command != INTRODUCE_ACK:
        raise CircuitError(f"the relay answered INTRODUCE1 with the relay command {command}")
    circuit.close()
    return struct.unpack(">H", answer[:2])[0]
