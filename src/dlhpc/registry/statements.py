"""What a signature signs: an in-toto statement that names every file of a version, its manifest among them.

It is a statement of OpenSSF's model-signing, so that an exported version can be checked by that project's own tool,
without dlhpc. The digest of the manifest is the version, and is in it; so is nothing else that could change: no name,
no label, no time. A signature therefore says "the holder of this key vouches for these bytes", under whatever name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dlhpc.registry.manifest import sha256
from dlhpc.spec.base import canonical_json

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

MANIFEST_FILE: Final = "manifest.json"
"""What the manifest is called beside the files that it names."""
SUMS_FILE: Final = "SHA256SUMS"
SIGNATURES_FOLDER: Final = "signatures"
UNSIGNED: Final = (SUMS_FILE, SIGNATURES_FOLDER)
"""What lies beside them in an exported folder: made from them, or about them."""


def statement(version: str, files: Mapping[str, str]) -> bytes:
    """The bytes to sign for a version (the digest of its manifest) whose `files` have these digests."""
    resources = _resources(version, files)
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"sha256:{version}", "digest": {"sha256": _root(resources)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": list(UNSIGNED),
                },
                "resources": resources,
            },
        }
    )


def is_about(payload: bytes, version: str, files: Mapping[str, str]) -> bool:
    """Whether a statement is about this version and names its files, all of them and no others."""
    try:
        said: dict[str, Any] = json.loads(payload)
        return bool(
            said["_type"] == STATEMENT_TYPE
            and said["predicateType"] == PREDICATE_TYPE
            and said["predicate"]["resources"] == _resources(version, files)
        )
    except (ValueError, TypeError, KeyError):
        return False


def _resources(version: str, files: Mapping[str, str]) -> list[dict[str, str]]:
    named = sorted({**files, MANIFEST_FILE: version}.items())
    return [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in named]


def _root(resources: list[dict[str, str]]) -> str:
    return sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources))
