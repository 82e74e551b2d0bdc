"""Keys and signatures: DSSE envelopes by securesystemslib. The only file that knows it, or cryptography.

A key lies in a PEM file, as OpenSSL writes it: ECDSA on P-256 (what `generate` makes), P-384 or P-521, Ed25519, RSA.
No network is asked and no account is needed. The id of a key is the sha256 of its public half as a PEM file.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dlhpc.errors import MissingExtraError, NotFoundError, UsageError
from dlhpc.registry.record_kinds import Envelope, EnvelopeSignature
from dlhpc.registry.statements import BUNDLE_TYPE, PAYLOAD_TYPE

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PASSPHRASE: Final = "DLHPC_KEY_PASSPHRASE"
"""Environment variable with the passphrase of a private key."""


@dataclass(frozen=True)
class PublicKey:
    """A key that checks signatures."""

    path: Path
    id: str
    key: SSlibKey

    def __str__(self) -> str:
        return f"{self.path} (key {self.id[:12]})"

    def signed(self, envelope: Envelope) -> bool:
        """Whether this key made a signature of the envelope."""
        from securesystemslib.dsse import Envelope as Dsse
        from securesystemslib.exceptions import VerificationError

        try:
            Dsse.from_dict(wire(envelope)).verify([self.key], 1)
        except (VerificationError, ValueError, KeyError):
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    public: PublicKey
    signer: CryptoSigner

    def sign(self, payload: bytes) -> Envelope:
        """A statement, signed."""
        from securesystemslib.dsse import Envelope as Dsse

        signature = Dsse(payload, PAYLOAD_TYPE, {}).sign(self.signer)
        sig = base64.b64encode(bytes.fromhex(signature.signature)).decode()
        return Envelope(
            payload=base64.b64encode(payload).decode(),
            payload_type=PAYLOAD_TYPE,
            signatures=(EnvelopeSignature(keyid=signature.keyid, sig=sig),),
        )


def generate(passphrase: str | None) -> tuple[bytes, bytes]:
    """A new pair of keys on P-256 as PEM: the private one, encrypted when there is a passphrase, and the public one."""
    _library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), _pem(key.public_key())


def read_public_key(path: Path | str) -> PublicKey:
    """The public key in a PEM file.

    Raises NotFoundError when there is no such file, UsageError when it holds no key that can be used.
    """
    _library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = Path(path)
    content = _read(path, "public key")
    if b"PRIVATE KEY" in content:
        raise UsageError(f"{path}: a private key; give the public one, and keep this where only its owner reads it")
    try:
        key = load_pem_public_key(content)
        return PublicKey(path, _id(key), _usable(key))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path}: no public key in PEM that can be used (ECDSA on a NIST curve, Ed25519 or RSA): {error}"
        ) from error


def is_encrypted(path: Path | str) -> bool:
    """Whether a private key wants a passphrase. Raises NotFoundError when there is no such file."""
    return b"ENCRYPTED" in _read(Path(path), "private key")


def read_private_key(path: Path | str, passphrase: str | None = None) -> PrivateKey:
    """The private key in a PEM file; its passphrase is that of the environment when none is given.

    Raises NotFoundError when there is no such file, UsageError when it holds no key that can be used, when the
    passphrase is missing or wrong, or when everybody on the machine can read the file.
    """
    _library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    path = Path(path)
    content = _read(path, "private key")
    mode = path.stat().st_mode & 0o777
    if mode & 0o007:
        raise UsageError(f"{path}: a private key that everybody here can read (mode {mode:03o}): chmod 600 {path}")
    passphrase = os.environ.get(PASSPHRASE) if passphrase is None else passphrase
    if is_encrypted(path) and not passphrase:
        raise UsageError(f"{path}: the key is encrypted: set {PASSPHRASE} to its passphrase")
    try:
        key: Any = load_pem_private_key(content, passphrase.encode() if passphrase and is_encrypted(path) else None)
        public = PublicKey(path, _id(key.public_key()), _usable(key.public_key()))
        return PrivateKey(public, CryptoSigner(key, public.key))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "its passphrase is another" if is_encrypted(path) else "no private key in PEM that can be used"
        raise UsageError(f"{path}: {why}: {error}") from error


def wire(envelope: Envelope) -> dict[str, Any]:
    """An envelope as DSSE writes it."""
    return {
        "payload": envelope.payload,
        "payloadType": envelope.payload_type,
        "signatures": [{"keyid": each.keyid, "sig": each.sig} for each in envelope.signatures],
    }


def bundle(envelope: Envelope) -> dict[str, Any]:
    """An envelope as the Sigstore bundle that model-signing's own tool reads."""
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": envelope.signatures[0].keyid}, "tlogEntries": []},
        "dsseEnvelope": wire(envelope),
    }


def _library() -> None:
    for name in ("securesystemslib", "cryptography"):
        if find_spec(name) is None:
            raise MissingExtraError("signing", name, "sign")


def _usable(key: Any) -> SSlibKey:
    from securesystemslib.signer import SSlibKey

    return SSlibKey.from_crypto(key, keyid=_id(key))


def _id(key: Any) -> str:
    return hashlib.sha256(_pem(key)).hexdigest()


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    content: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return content


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path}: no such file, expected a {what} (PEM): dlhpc registry keygen makes one"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: the {what} cannot be read: {error.strerror}") from error
