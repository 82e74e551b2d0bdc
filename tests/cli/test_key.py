"""`dlhpc key`: keys are shown once, listed without their secrets, and removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlhpc.cli.main import main
from dlhpc.serving.api_keys import Keys, read_keys


def test_a_key_is_printed_once_and_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "add", "ci"]) == 0
    told = capsys.readouterr()
    (text,) = told.out.split()
    kept = Keys(read_keys(Path("keys.json"))).find(text.encode())
    assert kept is not None
    assert (kept.name, kept.scopes, kept.priority, kept.rate, kept.expires) == (
        "ci",
        ("predict",),
        "normal",
        None,
        None,
    )
    assert text not in told.err
    assert main(["key", "list"]) == 0
    assert text.split("_", 2)[2] not in capsys.readouterr().out


def test_every_option_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--scope metrics --scope admin --low --per-second 5 --burst 7 --days 3 --file other.json --json"
    assert main(["key", "add", "ops", *options.split()]) == 0
    told = json.loads(capsys.readouterr().out)
    (kept,) = read_keys(Path("other.json")).keys
    assert told.pop("key").startswith(f"dlhpc_{kept.id}_")
    assert told == kept.model_dump(mode="json", exclude={"salt", "hash"})
    assert (kept.scopes, kept.priority) == (("metrics", "admin"), "low")
    assert kept.rate is not None
    assert (kept.rate.per_second, kept.rate.burst) == (5.0, 7)
    assert kept.expires is not None
    assert (kept.expires - kept.created).days == 3


def test_keys_are_listed_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["key", "add", "one"])
    main(["key", "add", "two", "--scope", "metrics", "--per-second", "5", "--days", "2"])
    capsys.readouterr()
    assert main(["key", "list"]) == 0
    table = capsys.readouterr().out
    assert "one" in table
    assert "5/s, 20 at once" in table
    assert main(["key", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(key["name"], key["scopes"]) for key in listed] == [("one", ["predict"]), ("two", ["metrics"])]
    assert all({"salt", "hash"}.isdisjoint(key) for key in listed)
    assert main(["key", "remove", "one"]) == 0
    assert main(["key", "remove", "two", "--json"]) == 0
    assert '"removed": "two"' in capsys.readouterr().out
    assert read_keys(Path("keys.json")).keys == ()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["add", "Not A Name"], 2, "name: 'Not A Name'"),
        (["add", "x", "--per-second", "0"], 2, "per_second"),
        (["add", "x", "--burst", "3"], 2, "--per-second"),
        (["add", "x", "--scope", "root"], 2, "root"),
        (["add", "x", "--days", "0"], 2, "--days"),
        (["add", "there"], 4, "'there'"),
        (["remove", "absent"], 4, "there are: there"),
        (["list", "--file", "none.json"], 4, "none.json"),
    ],
)
def test_mistakes_are_told(arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["key", "add", "there"])
    before = Path("keys.json").read_bytes()
    capsys.readouterr()
    assert main(["key", *arguments]) == status
    assert told in capsys.readouterr().err
    assert Path("keys.json").read_bytes() == before


def test_a_server_whose_file_of_keys_is_missing_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--set", "auth.keys=none.json"]) == 4
    assert "dlhpc key add NAME --file none.json" in capsys.readouterr().err
