import json
import stat
from pathlib import Path

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.registry.signing import is_encrypted
from dlhpc.registry.store import Registry
from tests.registry.samples import sample


@pytest.fixture
def store():
    store = Registry("registry", load_backend)
    store.publish(sample(0), "pets")
    return store


@pytest.fixture
def dlhpc(capsys):
    def run(*arguments, status=0):
        assert main([*map(str, arguments)]) == status
        return capsys.readouterr()

    return run


@pytest.fixture
def release(dlhpc):
    """The id of the key in release.pem and release.pub."""
    return json.loads(dlhpc("registry", "keygen", "release", "--no-passphrase", "--json").out)["key"]


def test_keygen_makes_a_secret_file_and_one_to_hand_out(dlhpc, release):
    assert stat.S_IMODE(Path("release.pem").stat().st_mode) == 0o600
    assert not is_encrypted("release.pem")
    before = Path("release.pem").read_bytes()
    assert "is not overwritten" in dlhpc("registry", "keygen", "release", status=4).err
    assert Path("release.pem").read_bytes() == before


def test_a_passphrase_comes_from_the_environment_or_from_a_person(dlhpc, store, monkeypatch):
    assert "set DLHPC_KEY_PASSPHRASE" in dlhpc("registry", "keygen", "release", status=2).err
    assert not Path("release.pem").exists()
    monkeypatch.setenv("DLHPC_KEY_PASSPHRASE", "secret")
    assert "release.pem: keep it secret" in dlhpc("registry", "keygen", "release").out
    assert is_encrypted("release.pem")
    assert "is signed with key" in dlhpc("registry", "sign", "pets", "--key", "release.pem").out
    monkeypatch.setenv("DLHPC_KEY_PASSPHRASE", "wrong")
    assert "its passphrase is another" in dlhpc("registry", "sign", "pets", "--key", "release.pem", status=2).err
    monkeypatch.delenv("DLHPC_KEY_PASSPHRASE")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.prompt", lambda text, **_: "secret")
    assert json.loads(dlhpc("registry", "sign", "pets", "--key", "release.pem", "--json").out)["number"] == 1


def test_sign_verify_show_history_and_get(dlhpc, store, release):
    command = ("registry", "verify", "pets", "--require-signature", "release.pub")
    assert "it has no signature" in dlhpc(*command, status=3).err
    said = json.loads(dlhpc("registry", "sign", "pets:1", "--key", "release.pem", "--note", "ok", "--json").out)
    assert (said["key"], said["version"], said["note"]) == (release, sample(0).digest, "ok")
    assert "every version is signed" in dlhpc(*command).out
    assert "every version is signed" in dlhpc("registry", "verify", "--require-signature", "release.pub").out
    assert f"key {release[:12]}" in dlhpc("registry", "show", "pets").out
    (shown,) = json.loads(dlhpc("registry", "show", "pets", "--json").out)["signatures"]
    assert shown == said
    assert f"signed with key {release[:12]}" in dlhpc("registry", "history", "pets").out
    dlhpc("registry", "get", "pets", "--out", "out", "--require-signature", "release.pub")
    bundle = json.loads(Path(f"out/signatures/{release[:16]}.sig").read_bytes())
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == release


def test_what_is_not_signed_is_not_used(dlhpc, store, release):
    required = ("--require-signature", "release.pub")
    for command in (
        ("registry", "get", "pets", "--out", "out", *required),
        ("registry", "verify", *required),
        ("evaluate", "pets", *required),
        ("predict", "release.pub", "--model", "pets", *required),
    ):
        assert "is not signed by release.pub" in dlhpc(*command, status=3).err
    assert not Path("out").exists()
    asked = dlhpc("predict", "release.pub", "--url", "http://127.0.0.1:1", *required, status=2)
    assert "leave out --backend and --require-signature" in asked.err
