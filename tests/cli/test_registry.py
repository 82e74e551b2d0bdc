import json

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.registry.blobs import content_path
from dlhpc.registry.store import Registry
from tests.registry.samples import sample


@pytest.fixture
def store():
    """In the default place: `registry` in the working folder."""
    store = Registry("registry", load_backend)
    store.publish(sample(0), "pets", alias="production", note="first [of all]")
    store.publish(sample(1), "pets")
    store.publish(sample(0), "animals")
    return store


@pytest.fixture
def dlhpc(capsys):
    def run(*arguments, status=0):
        assert main([*map(str, arguments)]) == status
        return capsys.readouterr()

    return run


def test_list_shows_the_newest_of_each_name(store, dlhpc):
    lines = dlhpc("registry", "list").out.splitlines()
    assert lines[0].split() == ["version", "aliases", "model", "accuracy", "size", "digest", "published"]
    assert [line.split()[0] for line in lines[1:]] == ["animals:1", "pets:2"]
    assert sample(1).digest[:12] in lines[2]
    assert "0.5010" in lines[2]


def test_list_shows_every_version_of_a_name(store, dlhpc):
    rows = json.loads(dlhpc("registry", "list", "pets", "--json").out)
    assert [(row["ref"], row["aliases"], row["digest"]) for row in rows] == [
        ("pets:1", ["production"], sample(0).digest),
        ("pets:2", [], sample(1).digest),
    ]
    assert rows[0]["metrics"] == {"accuracy": 0.5, "loss": 1.0}
    assert (rows[0]["model"], rows[0]["backend"], rows[0]["num_classes"]) == ("FlaxMLP", "flax", 3)


def test_show_tells_what_a_version_is(store, dlhpc):
    text = dlhpc("registry", "show", "pets@production").out
    for fact in ("pets@production", sample(0).digest, "animals:1", "pets:1, pets@production", "4 x 4 x 1",
                 "cat, dog, eel", "(x / 255 - 0.25) / 0.75", "accuracy 0.5, loss 1", "weights.saf"):  # fmt: skip
        assert fact in text


def test_show_as_json_holds_the_manifest(store, dlhpc):
    shown = json.loads(dlhpc("registry", "show", "pets:2", "--json").out)
    assert shown["digest"] == sample(1).digest
    assert shown["manifest"] == json.loads(sample(1).manifest_bytes)
    assert [label["ref"] for label in shown["labels"]] == ["pets:2"]


def test_get_writes_the_files(store, dlhpc, tmp_path):
    said = json.loads(dlhpc("registry", "get", "pets:1", "--out", tmp_path / "out", "--json").out)
    assert said["files"] == ["SHA256SUMS", "manifest.json", "weights.safetensors"]
    assert (tmp_path / "out" / "manifest.json").read_bytes() == sample(0).manifest_bytes
    assert "exists and is not an empty folder" in dlhpc("registry", "get", "pets:1", "--out", "out", status=4).err
    assert "manifest.json" in dlhpc("registry", "get", "pets:1", "--out", "other").out


def test_alias_moves_and_tells_its_history(store, dlhpc):
    said = dlhpc("registry", "alias", "pets", "production", "pets:2", "--note", "better")
    assert said.out == "pets@production is pets:2 (before: pets:1)\n"
    assert store.resolve("pets@production") == sample(1).digest
    history = dlhpc("registry", "alias", "pets", "production").out
    assert "first [of all]" in history
    assert "better" in history
    moves = json.loads(dlhpc("registry", "alias", "pets", "production", "--json").out)
    assert [(move["moved_from"], move["moved_to"], move["note"]) for move in moves] == [
        (None, 1, "first [of all]"),
        (1, 2, "better"),
    ]
    assert dlhpc("registry", "alias", "pets", "canary", "pets:1").out == "pets@canary is pets:1\n"
    move = json.loads(dlhpc("registry", "alias", "pets", "canary", "pets:2", "--json").out)
    assert (move["moved_from"], move["moved_to"]) == (1, 2)


def test_a_note_without_a_move_is_refused(store, dlhpc):
    assert "give the REF" in dlhpc("registry", "alias", "pets", "production", "--note", "why", status=2).err


def test_verify_reads_everything_or_one_version(store, dlhpc):
    assert dlhpc("registry", "verify").out.startswith("2 version(s), ")
    assert dlhpc("registry", "verify", "pets:1").out.startswith("1 version(s), ")
    assert json.loads(dlhpc("registry", "verify", "--json").out)["problems"] == []


def test_damage_ends_with_status_3_and_names_each_file(store, dlhpc):
    paths = [content_path(store.blobs, sample(seed).manifest.files["weights.safetensors"].sha256) for seed in (0, 1)]
    for path in paths:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    said = dlhpc("registry", "verify", status=3)
    assert "registry: 2 problems:" in said.err
    assert all(str(path) in said.err for path in paths)
    assert said.out == ""
    found = dlhpc("registry", "verify", "--json", status=3)
    assert len(json.loads(found.out)["problems"]) == 2
    assert str(paths[1]) in dlhpc("registry", "get", "pets", "--out", "out", status=3).err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["show", "pet"], 4, "did you mean 'pets'?"),
        (["show", "../pets"], 2, "no reference"),
        (["list", "Pets"], 2, "no valid name"),
        (["alias", "pets", "x/y", "pets:1"], 2, "no valid alias"),
        (["alias", "pets", "canary"], 4, "To set it: dlhpc registry alias pets canary pets:2"),
        (["list", "--registry", "elsewhere"], 4, "no model is published in elsewhere"),
    ],
)
def test_mistakes_are_explained(store, dlhpc, arguments, status, message):
    said = dlhpc("registry", *arguments, status=status)
    assert message in said.err
    assert said.out == ""
    assert "Traceback" not in said.err


@pytest.mark.parametrize("verb", ["", "list", "show", "get", "alias", "verify"])
def test_help_shows_examples(dlhpc, verb):
    text = dlhpc(*["registry", *verb.split(), "--help"]).out
    assert "Example" in text or "References" in text
