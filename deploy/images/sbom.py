#!/usr/bin/env python3
"""Prints the list of an image's content (SBOM) in the format SPDX 2.3, as JSON.

The Debian packages come from the entries that rootfs.sh has copied into the image, and the crates from the output of
`cargo tree --prefix none --format '{p}|{l}'` and from Cargo.lock. The same image always gets the same list.
"""
import argparse
import json
import re
import tomllib
from pathlib import Path
from urllib.parse import quote

UNKNOWN = "NOASSERTION"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="the image's name, without a tag")
    parser.add_argument("--version", required=True, help="the version of the image's program")
    parser.add_argument("--digest", required=True, help="the image's digest, sha256:…")
    parser.add_argument("--created", required=True, help="the time of the image, as 1970-01-01T00:00:00Z")
    parser.add_argument("--root", required=True, type=Path, help="the folder with the image's files")
    parser.add_argument("--sums", required=True, type=Path, help="lines of a Debian package and its file's SHA-256")
    parser.add_argument("--crates", type=Path, help="the output of cargo tree")
    parser.add_argument("--lock", type=Path, help="the file Cargo.lock")
    return parser.parse_args()


def package(kind: str, name: str, version: str, **more) -> dict:
    """Returns the description of a package. SPDX identifiers consist of letters, digits, dots and hyphens."""
    identifier = re.sub(r"[^A-Za-z0-9.-]", "-", f"SPDXRef-{kind}-{name}-{version}")
    return {
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    } | more


def package_url(text: str) -> list[dict]:
    return [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": text}]


def sha256(value: str) -> list[dict]:
    return [{"algorithm": "SHA256", "checksumValue": value}]


def debian_packages(root: Path, sums: Path) -> list[dict]:
    """Returns the Debian packages from which the image has files."""
    system = (line.split("=", 1) for line in (root / "usr/lib/os-release").read_text().splitlines() if "=" in line)
    system = {key: value.strip('"') for key, value in system}
    checksums = dict(line.split() for line in sums.read_text().splitlines())
    found = []
    for entry in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        # A line that begins with a space continues the field before it.
        lines = (line.split(":", 1) for line in entry.read_text().splitlines() if line and not line[0].isspace())
        fields = {key: value.strip() for key, value in lines}
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        # The field Source names the source package, and its version if that differs: `glibc (2.36-9)`.
        source, _, source_version = fields.get("Source", name).partition(" ")
        url = f"pkg:deb/{system['ID']}/{quote(name, safe='')}@{quote(version, safe='')}"
        url += f"?arch={architecture}&distro={system['ID']}-{system['VERSION_ID']}"
        found.append(package(
            "deb", name, version,
            supplier="Organization: Debian",
            sourceInfo=f"built from the Debian source package {source} {source_version.strip('()') or version}",
            checksums=sha256(checksums[name]),
            externalRefs=package_url(url),
        ))
    return found


def crates(tree: Path, lock: Path) -> list[dict]:
    """Returns the crates from which the program is built, the program itself first."""
    locked = tomllib.loads(lock.read_text())["package"]
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in locked}
    found: dict[str, dict] = {}
    for line in tree.read_text().splitlines():
        # For example: `serde_derive v1.0.2 (proc-macro)|MIT OR Apache-2.0 (*)`
        crate, _, licence = line.removesuffix(" (*)").partition("|")
        name, version = crate.split()[:2]
        version = version.removeprefix("v")
        checksum = checksums[name, version]
        described = package("cargo", name, version, externalRefs=package_url(f"pkg:cargo/{name}@{version}"))
        if licence:
            # Older crates separate alternatives with a slash.
            described["licenseDeclared"] = re.sub(r"\s*/\s*", " OR ", licence)
        if checksum:
            described["checksums"] = sha256(checksum)
        found[described["SPDXID"]] = described
    return list(found.values())


def document(options: argparse.Namespace) -> dict:
    title = options.image.rsplit("/", 1)[-1]
    image = package(
        "image", title, options.version,
        primaryPackagePurpose="CONTAINER",
        checksums=sha256(options.digest.removeprefix("sha256:")),
        externalRefs=package_url(f"pkg:oci/{title}@{quote(options.digest, safe='')}"),
    )
    debian = debian_packages(options.root, options.sums)
    program, *libraries = crates(options.crates, options.lock) if options.crates else [None]

    def relation(one: dict, kind: str, other: dict) -> dict:
        return {"spdxElementId": one["SPDXID"], "relationshipType": kind, "relatedSpdxElement": other["SPDXID"]}

    relations = [relation({"SPDXID": "SPDXRef-DOCUMENT"}, "DESCRIBES", image)]
    relations += [relation(image, "CONTAINS", other) for other in debian]
    if program:
        relations.append(relation(image, "CONTAINS", program))
        relations += [relation(program, "DEPENDS_ON", other) for other in libraries]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{title}-{options.version}",
        "documentNamespace": f"https://onionbalance.dev/spdx/{title}/{options.digest.replace(':', '-')}",
        "creationInfo": {"created": options.created, "creators": ["Tool: onionbalance-operator-sbom"]},
        "packages": [image, *debian, *([program] if program else []), *libraries],
        "relationships": relations,
    }


if __name__ == "__main__":
    print(json.dumps(document(arguments()), indent=1))
