import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dlhpc.registry.clock import tick


def nothing_before():
    return 0


def unasked():
    raise AssertionError("the folder says where to go on")


def test_numbers_follow_one_another(tmp_path):
    assert [tick(tmp_path / "clock", 0, nothing_before) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert tick(tmp_path / "clock", 0, unasked) == 6


def test_a_lost_folder_goes_on_from_the_records(tmp_path):
    assert tick(tmp_path / "clock", 0, lambda: 41) == 42


def test_a_folder_that_lags_behind_is_overtaken(tmp_path):
    tick(tmp_path / "clock", 0, nothing_before)
    assert tick(tmp_path / "clock", 99, unasked) == 100


def test_old_numbers_are_forgotten(tmp_path):
    for _ in range(200):
        tick(tmp_path / "clock", 0, nothing_before)
    assert sorted(map(int, os.listdir(tmp_path / "clock"))) == list(range(137, 201))


def test_other_files_are_passed_over(tmp_path):
    (tmp_path / "clock").mkdir()
    for name in ("notes", "-1", "1e9", "٣", "9" * 30):
        (tmp_path / "clock" / name).write_text("")
    assert tick(tmp_path / "clock", 0, nothing_before) == 1


def test_each_number_is_given_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: tick(tmp_path / "clock", 0, nothing_before), range(400)))
    assert len(set(given)) == 400


def test_one_who_slept_between_look_and_step_tries_again(tmp_path, monkeypatch):
    """It listed the folder when 1 was the newest; meanwhile the others came to 200 and forgot 2."""
    folder = tmp_path / "clock"
    tick(folder, 0, nothing_before)
    real, calls = os.listdir, []

    def slow(path):
        found = real(path)
        if not calls:
            calls.append(path)
            for _ in range(199):
                tick(folder, 0, nothing_before)
        return found

    monkeypatch.setattr(os, "listdir", slow)
    assert tick(folder, 0, nothing_before) == 201


def test_a_full_disk_is_passed_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left"):
        tick(tmp_path / "clock", 0, nothing_before)
