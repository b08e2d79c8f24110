#!/usr/bin/env python3
"""Processes onion service keys and descriptors with stem, and certificate requests with cryptography.

Reads one JSON request per line and writes one JSON response per line. Bytes are encoded in hexadecimal.
"""
import base64
import datetime
import hashlib
import json
import sys

import stem.descriptor.hidden_service as hidden_service
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from stem.client.datatype import CertType
from stem.descriptor.certificate import Ed25519CertificateV1, Ed25519Extension, ExtensionType
from stem.descriptor.hidden_service import HiddenServiceDescriptorV3, InnerLayer, IntroductionPointV3

BASEPOINT = (
    b"(15112221349535400772501151409588531511454012693041857206046113283949847762202, "
    b"46316835694926478169428394003475163141307993866256225615783033603165251855960)"
)
FIELD = 2**255 - 19


def main():
    commands = {"key": key, "decode": decode, "create": create, "certificate_request": certificate_request}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("command")](**request)), flush=True)


def key(public_key, period_number, period_length):
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    blinded = hidden_service._blinded_pubkey(public, blinding_nonce(bytes.fromhex(public_key), period_number, period_length))
    return {
        "address": HiddenServiceDescriptorV3.address_from_identity_key(public),
        "blinded_key": blinded.hex(),
        "subcredential": HiddenServiceDescriptorV3._subcredential(public, blinded).hex(),
    }


# stem expects its callers to derive the blinding nonce from the period (rend-spec-v3, appendix
# A.2).
def blinding_nonce(public_key, period_number, period_length):
    period = period_number.to_bytes(8, "big") + period_length.to_bytes(8, "big")
    return hashlib.sha3_256(b"Derive temporary signing key\0" + public_key + BASEPOINT + b"key-blind" + period).digest()


def decode(address, text):
    descriptor = HiddenServiceDescriptorV3.from_str(text, validate=True)
    inner = descriptor.decrypt(address)
    return {
        "blinded_key": descriptor.signing_cert.signing_key().hex(),
        "revision_counter": descriptor.revision_counter,
        "lifetime_minutes": descriptor.lifetime,
        "expires": unix(descriptor.signing_cert.expiration),
        "auth_clients": len(inner.outer.clients),
        "create2_formats": [int(f) for f in inner.formats],
        "intro_auth_required": inner.intro_auth,
        "single_onion_service": inner.is_single_service,
        "points": [decode_point(p) for p in inner.introduction_points],
    }


def decode_point(p):
    return {
        "link_specifiers": (bytes([len(p.link_specifiers)]) + b"".join(link.pack() for link in p.link_specifiers)).hex(),
        "onion_key": base64.b64decode(p.onion_key_raw).hex(),
        "auth_key": p.auth_key_cert.key.hex(),
        "enc_key": base64.b64decode(p.enc_key_raw).hex(),
        "enc_key_ed25519": p.enc_key_cert.key.hex(),
    }


def create(seed, period_number, period_length, revision_counter, header, points, stem_certifies):
    identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    signing_key = Ed25519PrivateKey.generate()
    nonce = blinding_nonce(public_bytes(identity), period_number, period_length)
    make = stem_point if stem_certifies else certified_point
    descriptor = HiddenServiceDescriptorV3.create(
        identity_key=identity,
        signing_key=signing_key,
        blinding_nonce=nonce,
        revision_counter=revision_counter,
        inner_layer=InnerLayer.create(attr=header, introduction_points=[make(p, signing_key) for p in points]),
    )
    return {"text": str(descriptor)}


def certificate_request(der):
    request = x509.load_der_x509_csr(bytes.fromhex(der))

    def nonce(oid):
        return request.attributes.get_attribute_for_oid(x509.ObjectIdentifier(oid)).value.hex()

    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        "public_key": raw(request.public_key()).hex(),
        "is_signature_valid": request.is_signature_valid,
        "ca_nonce": nonce("2.23.140.41"),
        "applicant_nonce": nonce("2.23.140.42"),
        "names": names.get_values_for_type(x509.DNSName),
        "subject": request.subject.rfc4514_string(),
    }


def stem_point(p, signing_key):
    return IntroductionPointV3.create_for_link_specifiers(
        link_specifiers(p),
        onion_key=bytes.fromhex(p["onion_key"]),
        enc_key=bytes.fromhex(p["enc_key"]),
        signing_key=signing_key,
    )


# IntroductionPointV3.create_for_link_specifiers puts the authentication key into `enc-key-cert`.
# The correct key is the ed25519 equivalent of the encryption key.
def certified_point(p, signing_key):
    enc_key = bytes.fromhex(p["enc_key"])
    return IntroductionPointV3(
        link_specifiers(p),
        base64.b64encode(bytes.fromhex(p["onion_key"])).decode(),
        certificate(CertType.HS_V3_INTRO_AUTH, bytes.fromhex(p["auth_key"]), signing_key),
        base64.b64encode(enc_key).decode(),
        certificate(CertType.HS_V3_NTOR_ENC, ed25519_equivalent(enc_key), signing_key),
        None,
        None,
    )


def link_specifiers(p):
    return IntroductionPointV3._parse_link_specifiers(base64.b64encode(bytes.fromhex(p["link_specifiers"])))


def certificate(kind, certified, signing_key):
    expiration = datetime.datetime.utcnow() + datetime.timedelta(hours=54)
    extensions = [Ed25519Extension(ExtensionType.HAS_SIGNING_KEY, None, public_bytes(signing_key))]
    return Ed25519CertificateV1(kind, expiration, 1, certified, extensions, signing_key=signing_key)


# Computes y = (u - 1) / (u + 1) with the sign 0 (proposal 228, appendix A).
def ed25519_equivalent(x25519):
    u = int.from_bytes(x25519, "little") % 2**255
    return ((u - 1) * pow(u + 1, -1, FIELD) % FIELD).to_bytes(32, "little")


def public_bytes(private_key):
    return raw(private_key.public_key())


def raw(public_key):
    return public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def unix(naive):
    return int(naive.replace(tzinfo=datetime.timezone.utc).timestamp())


if __name__ == "__main__":
    main()
