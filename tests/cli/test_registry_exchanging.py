"""`dlhpc registry push` and `pull`, between folders and with an object store."""

import json

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.stores.memory import bucket


@pytest.fixture
def dlhpc(capsys):
    def run(*arguments, status=0):
        assert main(["registry", *map(str, arguments)]) == status
        return capsys.readouterr()

    return run


@pytest.fixture
def store():
    store = Registry("registry", load_backend)
    store.publish(sample(0), "pets", alias="production")
    store.tag("pets", "stage", "gold")
    return store


def test_push_and_pull(store, dlhpc):
    said = dlhpc("push", "pets@production", "shared", "--name", "animals", "--alias", "candidate").out
    expected = f"pets@production of registry is animals:1, animals@candidate in shared (sha256:{sample(0).digest})\n"
    assert said == expected
    pulled = json.loads(dlhpc("pull", "shared", "animals", "--registry", "third", "--json").out)
    assert (pulled["source"], pulled["target"], pulled["ref"]) == ("shared", "third", "animals:1")
    assert Registry("third", load_backend).tags("animals") == {"stage": "gold"}


def test_every_verb_takes_a_url(store, dlhpc):
    with bucket("cli") as root:
        dlhpc("push", "pets", root)
        assert "pets:1" in dlhpc("list", "--registry", root).out
        assert sample(0).digest in dlhpc("show", "pets", "--registry", root).out
        assert dlhpc("verify", "--registry", root).out.endswith("every byte is as published\n")
        assert dlhpc("gc", "--registry", root).out == "removed 0 B: nothing\n"
        assert "no locks" in dlhpc("gc", "--grace", "1h", "--registry", root, status=2).err


def test_mistakes_are_told(store, dlhpc):
    assert "unknown scheme 'ftp'" in dlhpc("list", "--registry", "ftp://host/x", status=2).err
    assert "expected s3://bucket/prefix" in dlhpc("push", "pets", "s3:/bucket", status=2).err
    assert "give the name" in dlhpc("push", f"sha256:{sample(0).digest}", "shared", status=2).err
    assert "no model is published in nowhere" in dlhpc("pull", "nowhere", "pets", status=4).err
