import errno
import os

import pytest

from dlhpc.errors import DlhpcError, IntegrityError, UsageError
from dlhpc.registry.manifest import sha256
from dlhpc.registry.record_kinds import RECORD_FORMAT, AliasRecord, VersionRecord
from dlhpc.registry.records import append, numbers, read_record, record_path, sealed
from dlhpc.spec.base import canonical_json


def record(number=1, **changes):
    fields = {
        "name": "a",
        "number": number,
        "at": "2026-01-01",
        "by": "me@here",
        "manifest": "ab" * 32,
        "sequence": number,
    }
    return VersionRecord(**{**fields, **changes})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "deep" / "versions"
    for number in (1, 2, 3):
        assert append(folder, record(number))
    return folder


def test_records_come_back_equal(folder):
    assert list(numbers(folder)) == [1, 2, 3]
    assert [read_record(folder, number, VersionRecord)[0] for number in (1, 2, 3)] == [record(n) for n in (1, 2, 3)]
    assert read_record(folder, 2, VersionRecord)[1] == record_path(folder, 2).read_bytes() == sealed(record(2))


def test_a_number_is_given_once(folder):
    assert not append(folder, record(2, manifest="cd" * 32))
    assert read_record(folder, 2, VersionRecord)[0] == record(2)
    assert sorted(os.listdir(folder)) == ["1.json", "2.json", "3.json"]


def test_no_folder_no_records(tmp_path):
    assert list(numbers(tmp_path / "none")) == []


def test_a_gap_is_named(folder):
    record_path(folder, 2).unlink()
    with pytest.raises(IntegrityError, match=r"2\.json: missing, although 3\.json exists"):
        numbers(folder)


@pytest.mark.parametrize("name", ["0.json", "01.json", "4.json~", "4.txt", "x", "4", "-1.json", "1000000000000.json"])
def test_a_file_that_is_no_record_is_named(folder, name):
    (folder / name).write_text("")
    with pytest.raises(IntegrityError, match="unexpected file"):
        numbers(folder)


def test_hidden_leftovers_are_passed_over(folder):
    (folder / ".4.123.abcd.tmp").write_text("half a rec")
    assert list(numbers(folder)) == [1, 2, 3]


def test_every_flipped_byte_is_noticed(folder):
    path = record_path(folder, 1)
    content = path.read_bytes()
    for position in range(len(content)):
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
            with pytest.raises(IntegrityError, match=r"1\.json: damaged"):
                read_record(folder, 1, VersionRecord)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"1", b'{"sha256":1}', b"\xff\xfe", b"\0" * 200])
def test_what_is_no_record_is_refused(folder, content):
    record_path(folder, 1).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"1\.json: damaged"):
        read_record(folder, 1, VersionRecord)


def test_swapped_files_are_noticed(folder):
    record_path(folder, 1).write_bytes(record_path(folder, 2).read_bytes())
    with pytest.raises(IntegrityError, match=r"1\.json: holds record 2: files were swapped"):
        read_record(folder, 1, VersionRecord)


def test_another_kind_of_record_is_refused(folder):
    with pytest.raises(IntegrityError, match=r"1\.json: no AliasRecord"):
        read_record(folder, 1, AliasRecord)


def test_a_newer_format_asks_for_an_upgrade(folder):
    fields = {**record(4).canonical(), "format": RECORD_FORMAT + 1}
    content = canonical_json({**fields, "sha256": sha256(canonical_json(fields))}) + b"\n"
    record_path(folder, 4).write_bytes(content)
    with pytest.raises(UsageError, match=f"format {RECORD_FORMAT + 1}; this dlhpc reads up to"):
        read_record(folder, 4, VersionRecord)


def test_a_file_system_without_hard_links_is_refused(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(DlhpcError, match="no hard links, which publishing needs"):
        append(folder, record(4))
    assert list(numbers(folder)) == [1, 2, 3]
    assert len(os.listdir(folder)) == 3


def test_other_failures_to_write_are_passed_on(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        append(folder, record(4))
    assert len(os.listdir(folder)) == 3
