"""Keys and envelopes; OpenSSL and OpenSSF's model-signing are the second opinions."""

import hashlib
import subprocess
import sys
from importlib import util

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from model_signing import verifying

from dlhpc.backends import load_backend
from dlhpc.errors import MissingExtraError, NotFoundError, UsageError
from dlhpc.registry import signing
from dlhpc.registry.export import export
from dlhpc.registry.store import Registry
from tests.registry.samples import sample

PAYLOAD = b'{"said":"this"}'


def write(folder, key, name="key"):
    """A private key's two files."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def generated(folder, passphrase=None, name="key"):
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    contents = signing.generate(passphrase)
    private.write_bytes(contents[0])
    private.chmod(0o600)
    public.write_bytes(contents[1])
    return private, public


KINDS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_what_a_key_signed_its_public_half_recognises_and_no_other(tmp_path, make):
    private, public = write(tmp_path, make())
    _, other = write(tmp_path, make(), "other")
    envelope = signing.read_private_key(private).sign(PAYLOAD)
    assert signing.read_public_key(public).signed(envelope)
    assert not signing.read_public_key(other).signed(envelope)


def test_one_changed_bit_of_payload_or_signature_is_noticed(tmp_path):
    private, public = generated(tmp_path)
    key, envelope = signing.read_public_key(public), signing.read_private_key(private).sign(PAYLOAD)
    (made,) = envelope.signatures
    for text, changed in (
        (envelope.payload, lambda text: envelope.model_copy(update={"payload": text})),
        (made.sig, lambda text: envelope.model_copy(update={"signatures": (made.model_copy(update={"sig": text}),)})),
    ):
        for position in range(len(text.rstrip("=")) - 1):  # the last digit may hold bits that are not used
            other = "B" if text[position] == "A" else "A"
            assert not key.signed(changed(text[:position] + other + text[position + 1 :]))


def test_a_key_is_called_by_the_hash_of_its_public_file(tmp_path):
    private, public = generated(tmp_path)
    key = signing.read_public_key(public)
    assert key.id == hashlib.sha256(public.read_bytes()).hexdigest()
    assert signing.read_private_key(private).public.id == key.id
    assert str(key) == f"{public} (key {key.id[:12]})"


def test_openssl_reads_the_keys_and_its_own_are_read(tmp_path):
    private, public = generated(tmp_path, "secret")
    told = subprocess.run(
        ["openssl", "pkey", "-in", private, "-passin", "pass:secret", "-pubout"], capture_output=True, check=True
    )
    assert told.stdout == public.read_bytes()
    made = tmp_path / "openssl.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made], check=True)
    made.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", made, "-pubout", "-out", tmp_path / "openssl.pub"], check=True)
    envelope = signing.read_private_key(made).sign(PAYLOAD)
    assert signing.read_public_key(tmp_path / "openssl.pub").signed(envelope)


def test_a_passphrase_is_given_or_in_the_environment(tmp_path, monkeypatch):
    private, _ = generated(tmp_path, "secret")
    assert signing.is_encrypted(private)
    assert signing.read_private_key(private, "secret").sign(PAYLOAD)
    with pytest.raises(UsageError, match="is encrypted: set DLHPC_KEY_PASSPHRASE"):
        signing.read_private_key(private)
    monkeypatch.setenv("DLHPC_KEY_PASSPHRASE", "secret")
    assert signing.read_private_key(private).sign(PAYLOAD)
    with pytest.raises(UsageError, match=r"key\.pem: its passphrase is another"):
        signing.read_private_key(private, "wrong")
    plain, _ = generated(tmp_path, name="plain")
    assert not signing.is_encrypted(plain)
    assert signing.read_private_key(plain).sign(PAYLOAD)  # the environment's is for keys that want one


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_key(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="no public key in PEM that can be used"):
        signing.read_public_key(path)
    with pytest.raises(UsageError, match="no private key in PEM that can be used"):
        signing.read_private_key(path)


def test_keys_that_cannot_be_used(tmp_path):
    for key in (ec.generate_private_key(ec.SECP256K1()), dsa.generate_private_key(1024)):
        private, public = write(tmp_path, key)
        with pytest.raises(UsageError, match="no public key in PEM that can be used"):
            signing.read_public_key(public)
        with pytest.raises(UsageError, match="no private key in PEM that can be used"):
            signing.read_private_key(private)
    with pytest.raises(UsageError, match="a private key; give the public one"):
        signing.read_public_key(private)
    public.chmod(0o600)
    with pytest.raises(UsageError, match="no private key"):
        signing.read_private_key(public)


def test_files_that_are_not_there_or_not_private(tmp_path):
    with pytest.raises(NotFoundError, match="expected a public key"):
        signing.read_public_key(tmp_path / "none")
    with pytest.raises(NotFoundError, match="expected a private key"):
        signing.read_private_key(tmp_path / "none")
    with pytest.raises(UsageError, match="the public key cannot be read: Is a directory"):
        signing.read_public_key(tmp_path)
    private, _ = generated(tmp_path)
    private.chmod(0o644)
    with pytest.raises(UsageError, match=r"everybody here can read \(mode 644\): chmod 600"):
        signing.read_private_key(private)


@pytest.mark.parametrize("missing", ["securesystemslib", "cryptography"])
def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, missing):
    find = util.find_spec
    monkeypatch.setattr(signing, "find_spec", lambda name: None if name == missing else find(name))
    for act in (
        lambda: signing.generate(None),
        lambda: signing.read_public_key("k"),
        lambda: signing.read_private_key("k"),
    ):
        with pytest.raises(MissingExtraError, match=rf"{missing}.*\[sign\]"):
            act()


def test_model_signing_verifies_an_exported_version(tmp_path):
    """OpenSSF's own library, which knows nothing of dlhpc, by its command and in Python."""
    private, public = generated(tmp_path)
    _, other = generated(tmp_path, name="other")
    registry = Registry(tmp_path / "registry", load_backend)
    registry.publish(sample(), "pets")
    registry.sign("pets", private)
    export(registry, "pets", tmp_path / "out")
    (signature,) = (tmp_path / "out" / "signatures").iterdir()

    def verify(key):
        verifying.Config().use_elliptic_key_verifier(public_key=key).verify(tmp_path / "out", signature)

    command = [sys.executable, "-m", "model_signing", "verify", "key", tmp_path / "out"]
    done = subprocess.run(
        [*command, "--signature", signature, "--public_key", public], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"Verification succeeded\n")
    verify(public)
    with pytest.raises(ValueError, match="Key mismatch"):
        verify(other)
    for name in ("weights.safetensors", "manifest.json"):
        path = tmp_path / "out" / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        with pytest.raises(ValueError, match=f"Hash mismatch for .*{name}"):
            verify(public)
        path.write_bytes(content)
    (tmp_path / "out" / "added").write_text("")
    with pytest.raises(ValueError, match="Extra files found in model 'out': added"):
        verify(public)
