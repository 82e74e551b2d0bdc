"""Stale locks of compiled extensions."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.file_baton import FileBaton

from dlhpc import holders
from dlhpc.doctor.extensions import extensions_folder, stale_locks


def test_the_folder_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.cpp_extension import get_default_build_root

    environ = {"XDG_CACHE_HOME": "/caches"}
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(extensions_folder(environ)) == get_default_build_root()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(extensions_folder({}).resolve()) == get_default_build_root()
    assert extensions_folder({"TORCH_EXTENSIONS_DIR": "/mine"}) == Path("/mine")


@pytest.mark.skipif(not holders.PROC.is_dir(), reason="reads Linux's /proc")
def test_only_a_lock_that_no_process_holds_is_stale(tmp_path: Path) -> None:
    building, killed = tmp_path / "py311_cpu" / "building" / "lock", tmp_path / "py311_cpu" / "killed" / "lock"
    for lock in (building, killed):
        lock.parent.mkdir(parents=True)
    killed.touch()
    baton = FileBaton(str(building))
    assert baton.try_acquire()
    assert stale_locks(tmp_path) == [killed]
    baton.release()


def test_where_holders_cannot_be_seen_no_lock_is_called_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").touch()
    monkeypatch.setattr(holders, "PROC", tmp_path / "none")
    assert stale_locks(tmp_path) == []
