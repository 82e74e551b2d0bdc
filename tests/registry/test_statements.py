import json

import pytest

from dlhpc.registry.manifest import sha256
from dlhpc.registry.statements import is_about, statement

VERSION, FILES = "1" * 64, {"weights.safetensors": "2" * 64, "a.json": "3" * 64}


def test_a_statement_is_about_its_version_and_no_other():
    said = statement(VERSION, FILES)
    assert is_about(said, VERSION, FILES)
    assert not is_about(said, "4" * 64, FILES)
    assert not is_about(said, VERSION, {**FILES, "weights.safetensors": "4" * 64})
    assert not is_about(said, VERSION, {**FILES, "b.json": "4" * 64})
    assert not is_about(said, VERSION, {"a.json": "3" * 64})


def test_it_names_every_file_and_their_common_digest():
    said = json.loads(statement(VERSION, FILES))
    assert [(each["name"], each["digest"]) for each in said["predicate"]["resources"]] == [
        ("a.json", "3" * 64),
        ("manifest.json", VERSION),
        ("weights.safetensors", "2" * 64),
    ]
    (subject,) = said["subject"]
    assert subject["name"] == f"sha256:{VERSION}"
    assert subject["digest"] == {"sha256": sha256(bytes.fromhex("3" * 64 + VERSION + "2" * 64))}


@pytest.mark.parametrize("change", [{"_type": "x"}, {"predicateType": "x"}, {"predicate": {}}, {"predicate": None}])
def test_another_kind_of_statement_is_about_nothing(change):
    said = {**json.loads(statement(VERSION, FILES)), **change}
    assert not is_about(json.dumps(said).encode(), VERSION, FILES)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"\xff", b"null"])
def test_what_is_no_statement_is_about_nothing(payload):
    assert not is_about(payload, VERSION, FILES)
