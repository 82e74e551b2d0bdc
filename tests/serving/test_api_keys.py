"""API keys: only the right text is recognised, files are private and whole, and changes are noticed."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.errors import ConfigError, ConflictError, NotFoundError
from dlhpc.serving import api_keys
from dlhpc.serving.api_keys import KeyFile, Keys, add_key, is_valid, new_key, read_keys, remove_key
from dlhpc.spec.api_key import ApiKey, ApiKeys

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT, KEY = new_key("one", ["predict"], NOW)
OTHER_TEXT, OTHER = new_key("two", ["predict"], NOW)
KEYS = Keys(ApiKeys(keys=(KEY, OTHER)))


def test_a_key_is_found_by_its_text_alone() -> None:
    assert KEYS.find(TEXT.encode()) is KEY
    assert KEYS.find(OTHER_TEXT.encode()) is OTHER
    assert Keys(ApiKeys(keys=(OTHER,))).find(TEXT.encode()) is None


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=2))
def test_a_key_that_was_changed_anywhere_is_not_found(place: int, new: bytes) -> None:
    changed = TEXT.encode()[:place] + new + TEXT.encode()[place + 1 :]
    assert (KEYS.find(changed) is KEY) == (changed == TEXT.encode())


def test_the_secret_of_one_does_not_open_another() -> None:
    mixed = "_".join([*TEXT.split("_", 2)[:2], OTHER_TEXT.split("_", 2)[2]])
    assert KEYS.find(mixed.encode()) is None


@given(st.binary(max_size=80))
def test_anything_else_is_no_key(text: bytes) -> None:
    assert KEYS.find(text) is None


def test_what_is_kept_does_not_hold_the_secret_and_is_salted() -> None:
    secret = TEXT.split("_", 2)[2]
    assert len(secret) == 43  # 256 bits
    assert secret not in KEY.model_dump_json()
    assert (KEY.salt, KEY.hash) != (OTHER.salt, OTHER.hash)


def test_the_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(len(a))
        return a == b

    monkeypatch.setattr(api_keys.hmac, "compare_digest", compare)
    unknown = TEXT.replace(KEY.id, "0" * 12)
    for text in (TEXT, unknown):
        KEYS.find(text.encode())
    assert compared == [32, 32]  # an unknown id is hashed too, so that it takes as long


def test_a_key_expires() -> None:
    _, key = new_key("x", ["predict"], NOW, expires=NOW + timedelta(days=1))
    assert is_valid(key, NOW)
    assert not is_valid(key, NOW + timedelta(days=1))
    assert is_valid(KEY, NOW + timedelta(days=10_000))


def test_a_file_of_keys_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    add_key(path, KEY)
    add_key(path, OTHER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path).keys == (KEY, OTHER)
    remove_key(path, "one")
    assert read_keys(path).keys == (OTHER,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_name_is_taken_once_and_removed_only_when_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, KEY)
    with pytest.raises(ConflictError, match="'one'"):
        add_key(path, KEY)
    with pytest.raises(NotFoundError, match="there are: one"):
        remove_key(path, "two")
    with pytest.raises(NotFoundError, match="dlhpc key add"):
        remove_key(tmp_path / "none.json", "one")
    assert not (tmp_path / "none.json").exists()


def test_keys_that_are_added_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = [new_key(f"k{number}", ["predict"], NOW)[1] for number in range(12)]
    threads = [threading.Thread(target=add_key, args=(path, key)) for key in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(key.name for key in read_keys(path).keys) == Counter(key.name for key in made)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "EOF"), ("[]", "object"), ('{"keys": [{"id": "x"}]}', r"keys\.0\.id"), ('{"keyz": []}', "keyz")],
)
def test_what_is_no_file_of_keys_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)


def test_a_date_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone"):
        ApiKey.model_validate({**KEY.model_dump(), "expires": "2026-01-01T00:00:00"})


def test_a_changed_file_counts_after_a_second_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, KEY)
    file = KeyFile(path, 0.0)
    add_key(path, OTHER)
    remove_key(path, "one")
    assert file.keys(0.9).find(TEXT.encode()) is not None
    assert file.keys(1.0).find(TEXT.encode()) is None
    assert file.keys(1.0).find(OTHER_TEXT.encode()) is not None


@pytest.mark.parametrize("fault", ["gone", "broken"])
def test_a_file_that_became_unreadable_changes_nothing_and_is_told_once(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    add_key(path, KEY)
    file = KeyFile(path, 0.0)
    if fault == "gone":
        os.remove(path)
    else:
        path.write_text("{")
    with caplog.at_level(logging.ERROR):
        for now in (1.0, 2.0, 3.0):
            assert file.keys(now).find(TEXT.encode()) is not None
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    path.unlink(missing_ok=True)
    add_key(path, OTHER)
    assert file.keys(4.0).find(TEXT.encode()) is None
