"""A deployment and a private key in, `manifest.json` and its signature out; and their check.

The signature is Ed25519 over the bytes of `manifest.json`, raw, so that `openssl pkeyutl -verify
-rawin` reads it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.deployment.archives import read_limited, sha256

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_FORMAT, _VERSION = "torusformer-manifest", 1
_KEY_LIMIT, _MANIFEST_LIMIT = 2**16, 2**16  # bytes


def sign(folder: Path, names: tuple[str, ...], key: Ed25519PrivateKey) -> None:
    """Write what the folder's files are, and that the key's holder says so."""
    checksums = {name: sha256((folder / name).read_bytes()) for name in names}
    about = {"format": _FORMAT, "format_version": _VERSION, "sha256": checksums}
    data = (json.dumps(about, indent=2) + "\n").encode()
    (folder / MANIFEST).write_bytes(data)
    (folder / SIGNATURE).write_bytes(key.sign(data))


def signed_checksums(folder: Path, trust: Path) -> Mapping[str, str]:
    """Checksum by name of the files that the holder of a trusted key has signed."""
    key, path = _public_key(trust), folder / MANIFEST
    data = read_limited(path, _MANIFEST_LIMIT)
    try:
        key.verify(read_limited(folder / SIGNATURE, 64), data)
    except InvalidSignature:
        raise ArtifactError(
            f"{path}: was not signed with the key of {trust}; get the deployment from whom you "
            f"trust, or give the key that it was signed with"
        ) from None
    try:
        about: dict[str, Any] = json.loads(data)
        if (about["format"], about["format_version"]) != (_FORMAT, _VERSION):
            raise ArtifactError(
                f"{path}: is {about['format']} version {about['format_version']}, this release "
                f"reads {_FORMAT} version {_VERSION}; compile the program again"
            )
        return {str(name): str(digest) for name, digest in about["sha256"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: is no manifest of ours; compile the program again") from error
    except ValueError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path}: is not JSON; compile the program again") from error


def check_signed(checksums: Mapping[str, str], file: Path, data: bytes) -> None:
    """ArtifactError unless these are the bytes that were signed under this name."""
    if checksums.get(file.name) != sha256(data):
        raise ArtifactError(
            f"{file}: is not the one that {MANIFEST} was signed for; get the deployment from whom "
            f"you trust"
        )


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Of a PEM file that `openssl genpkey -algorithm ed25519` wrote, without a password."""
    try:
        key = load_pem_private_key(_key_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(_key_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _KEY_LIMIT:
            raise InputError(f"{path}: has {size} bytes, no key has; give a PEM file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a PEM file with an Ed25519 key"
        ) from error


def _no_key(path: Path, kind: str) -> InputError:
    return InputError(
        f"{path}: holds no {kind} Ed25519 key in PEM without a password; see docs/security.md on "
        f"how to make one"
    )
