import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.cli.output import bytes_text
from dlhpc.registry.blobs import content_path
from dlhpc.registry.manifest import sha256
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import leave


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
    assert said["files"] == ["SHA256SUMS", "golden.safetensors", "manifest.json", "weights.safetensors"]
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


def test_list_limits_to_the_newest(store, dlhpc):
    assert [row["ref"] for row in json.loads(dlhpc("registry", "list", "pets", "--limit", 1, "--json").out)] == [
        "pets:2"
    ]
    rows = json.loads(dlhpc("registry", "list", "--limit", 1, "--json").out)
    assert [row["ref"] for row in rows] == ["animals:1"]


def test_tags_are_set_and_removed(store, dlhpc):
    assert dlhpc("registry", "tag", "pets:1").out == "pets:1: no tags\n"
    said = dlhpc("registry", "tag", "pets:1", "stage=gold", "team/owner=us=me", "--note", "reviewed")
    assert said.out == "pets:1: stage=gold, team/owner=us=me\n"
    said = dlhpc("registry", "tag", "pets:1", "--remove", "stage", "late=yes", "--json")
    assert json.loads(said.out) == {
        "ref": "pets:1",
        "digest": sample(0).digest,
        "tags": {"late": "yes", "team/owner": "us=me"},
    }
    assert store.tags("animals") == {"late": "yes", "team/owner": "us=me"}


def test_notes_are_added_and_told(store, dlhpc):
    assert dlhpc("registry", "note", "pets", "blind [in one eye]").out == "pets: note 1 added\n"
    (note,) = json.loads(dlhpc("registry", "note", "pets", "--json", "deaf").out)
    assert (note["number"], note["text"], note["version"]) == (2, "deaf", sample(1).digest)
    lines = dlhpc("registry", "note", "pets:2").out.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["blind [in one eye]", "deaf"]


def test_history_tells_all(store, dlhpc):
    dlhpc("registry", "tag", "pets:1", "stage=new")
    dlhpc("registry", "tag", "pets:1", "stage=gold", "--note", "reviewed")
    dlhpc("registry", "tag", "pets:1", "--remove", "stage")
    dlhpc("registry", "note", "pets:1", "blind")
    dlhpc("registry", "alias", "pets", "production", "pets:2", "--note", "better")
    text = dlhpc("registry", "history", "pets").out
    for fact in ("published", "alias production", "first [of all]", "tag stage=new", "stage=gold, before new",
                 "reviewed", "tag stage removed, before gold", "note: blind", "at pets:1", "better"):  # fmt: skip
        assert fact in text
    found = json.loads(dlhpc("registry", "history", "pets", "--json").out)
    assert [event["kind"] for event in found] == [
        "published", "alias", "published", "tag", "tag", "untag", "note", "alias",
    ]  # fmt: skip
    kinds = [event["kind"] for event in json.loads(dlhpc("registry", "history", "pets:2", "--json").out)]
    assert kinds == ["published", "alias"]


def test_show_tells_tags_notes_and_lineage(store, dlhpc):
    child = sample(2)
    manifest = child.manifest.model_copy(update={"parents": (sample(0).digest, "cd" * 32)})
    child = replace(child, manifest=manifest, manifest_bytes=manifest.to_bytes())
    store.publish(child, "pets", run="runs/pets-3")
    store.tag("pets", "stage", "gold")
    store.note("pets", "blind")
    text = dlhpc("registry", "show", "pets").out
    for fact in ("stage=gold", "blind", "runs/pets-3", f"parent sha256:{sample(0).digest} (animals:1, pets:1)",
                 f"parent sha256:{'cd' * 32} (not in this registry)", "ab" * 32):  # fmt: skip
        assert fact in text
    shown = json.loads(dlhpc("registry", "show", "pets", "--json").out)
    assert (shown["tags"], [note["text"] for note in shown["notes"]]) == ({"stage": "gold"}, ["blind"])
    assert shown["lineage"]["run_folders"] == ["runs/pets-3"]
    assert [each["refs"] for each in shown["lineage"]["ancestors"]] == [["animals:1", "pets:1"], []]


def test_search_shows_what_fulfils_the_conditions(store, dlhpc):
    store.tag("pets:2", "stage", "gold")
    lines = dlhpc("registry", "search", "accuracy>0.5", "tag.stage=gold").out.splitlines()
    assert lines[1].split()[0] == "pets:2"
    assert lines[1].endswith("stage=gold")
    rows = json.loads(dlhpc("registry", "search", "name~p*", "--json").out)
    assert [(row["ref"], row["tags"]) for row in rows] == [("pets:1", {}), ("pets:2", {"stage": "gold"})]
    assert dlhpc("registry", "search", "accuracy>2", "seed=0").out == "no version fulfils accuracy>2 and seed=0\n"
    said = dlhpc("registry", "search", "accuracy>=", status=2).err
    assert said == "error: search condition, column 11: expected a value after '>='\n  accuracy>=\n            ^\n"


def test_diff_shows_what_differs(store, dlhpc):
    text = dlhpc("registry", "diff", "pets:1", "pets:2").out
    for fact in ("settings", "seed", "metrics", "accuracy", "+0.001", "weights", "head/kernel", "5 x 3", "files"):
        assert fact in text
    assert "environment" not in text
    found = json.loads(dlhpc("registry", "diff", "pets:1", "pets:2", "--no-weights", "--json").out)
    assert (found["spec"], found["tensors"]) == ([{"key": "seed", "a": 0, "b": 1}], None)
    assert "weights" not in dlhpc("registry", "diff", "pets:1", "pets:2", "--no-weights").out.replace("weights.saf", "")
    assert "are the same version" in dlhpc("registry", "diff", "pets:1", "animals").out


def test_gc_sweeps_what_was_left(store, dlhpc):
    assert dlhpc("registry", "gc").out == "removed 0 B: nothing\n"
    leave(store, sample(5))
    assert dlhpc("registry", "gc").out == "removed 0 B: nothing\nkept: 3 younger than 1h\n"
    for path in store.root.rglob("*"):
        os.utime(path, (0, 0))
    size = sample(5).manifest.size + len(sample(5).manifest_bytes)
    lines = dlhpc("registry", "gc", "--dry-run", "--grace", "1.5d").out.splitlines()
    assert lines[0] == f"would go: {content_path(store.manifests, sample(5).digest).relative_to(store.root)}"
    assert lines[-1].startswith(f"would remove {bytes_text(size)}: 1 manifest, 2 blobs")
    swept = json.loads(dlhpc("registry", "gc", "--grace", "90m", "--json").out)
    assert (swept["bytes"], swept["dry_run"]) == (size, False)
    assert (swept["removed"]["blob"], swept["removed"]["manifest"]) == (2, 1)
    assert dlhpc("registry", "gc").out == "removed 0 B: nothing\n"
    assert verify(store).problems == []


def test_derive_makes_a_file_and_derived_lists_and_copies_it(store, dlhpc):
    made = json.loads(dlhpc("registry", "derive", "pets", "--format", "int8", "--out", "a.safetensors", "--json").out)
    assert (made["derivation"], made["backend"], made["accuracy"], made["number"]) == ("int8", "flax", None, 1)
    content = Path("a.safetensors").read_bytes()
    assert made["file"] == {"sha256": sha256(content), "size": len(content)}
    lines = dlhpc("registry", "derived", "pets").out.splitlines()
    assert lines[1].split() == ["format", "by", "size", "difference", "accuracy", "made", "sha256"]
    assert made["file"]["sha256"][:12] in lines[2]
    assert "not measured: the data has changed" in lines[2]
    said = dlhpc("registry", "derived", "pets", "--format", "int8", "--out", "b.safetensors").out
    assert said.startswith("int8 by flax, ")
    assert f"b.safetensors: sha256:{made['file']['sha256']}" in said
    assert Path("b.safetensors").read_bytes() == content
    (listed,) = json.loads(dlhpc("registry", "derived", "pets", "--json").out)
    assert {**listed, "out": "a.safetensors"} == made
    assert json.loads(dlhpc("registry", "show", "pets", "--json").out)["derived"] == [listed]
    assert "int8 by flax, " in dlhpc("registry", "show", "pets").out
    assert "derived int8 by flax" in dlhpc("registry", "history", "pets").out
    assert "derived" not in dlhpc("registry", "history", "pets:1").out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["derive", "pets", "--format", "stablehlo", "--backend", "torch"], 2, "torch writes onnx and torch-export"),
        (["derive", "pets", "--format", "onnx", "--tolerance", "2"], 2, "expected a number between 0 and 1"),
        (["derive", "pets", "--format", "int8", "--tolerance", "1e-9"], 1, "nothing was recorded"),
        (["derive", "pets", "--format", "pickle"], 2, "'pickle' is not one of 'onnx'"),
        (["derived", "pets", "--format", "onnx"], 4, "make it: dlhpc registry derive pets --format onnx"),
        (["derived", "pets", "--out", "x"], 2, "say which with --format"),
        (["tag", "pets", "stage"], 2, "'stage' is no tag: expected KEY=VALUE; to remove one: --remove stage"),
        (["tag", "pets", "=gold"], 2, "'' is no valid tag"),
        (["tag", "pets", "a=b", "--remove", "a"], 2, "a: to be set and to be removed"),
        (["tag", "pets", "--remove", "stage"], 4, "has no tag 'stage'"),
        (["tag", "pets", "--note", "why"], 2, "give KEY=VALUE or --remove KEY"),
        (["note", "pets", " "], 2, "an empty note says nothing"),
        (["history", "cats"], 4, "no model 'cats'"),
        (["search", "acuracy>1"], 2, "did you mean 'accuracy'?"),
        (["diff", "pets:1", "pets:9"], 4, "pets has versions 1 to 2, not 9"),
        (["gc", "--grace", "soon"], 2, "--grace 'soon' is no time: expected a number and s, m, h or d"),
        (["gc", "--grace", "-1"], 2, "is no time"),
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


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "list",
        "show",
        "search",
        "diff",
        "get",
        "derive",
        "derived",
        "alias",
        "tag",
        "note",
        "history",
        "verify",
        "gc",
    ],
)
def test_help_shows_examples(dlhpc, verb):
    text = dlhpc(*["registry", *verb.split(), "--help"]).out
    assert "Example" in text or "References" in text
