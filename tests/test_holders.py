"""Who holds a file or a port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dlhpc import holders

pytestmark = pytest.mark.skipif(not holders.PROC.is_dir(), reason="reads Linux's /proc")


def test_the_process_that_has_a_file_open(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert holders.holder_of_file(path) is None
    with path.open():
        holder = holders.holder_of_file(path)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert "python" in holder.command
        assert str(holder).startswith(f"process {os.getpid()} (")
    assert holders.holder_of_file(path) is None


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_the_process_that_listens_on_a_port(family: socket.AddressFamily, address: str) -> None:
    if family == socket.AF_INET6 and not Path("/proc/net/tcp6").exists():
        pytest.skip("this machine has no IPv6")
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        assert holders.holder_of_port(port) is None, "bound, but not listening"
        listener.listen()
        holder = holders.holder_of_port(port)
        assert holder is not None
        assert holder.pid == os.getpid()


def test_without_proc_nobody_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "PROC", tmp_path / "none")
    assert holders.holder_of_port(80) is None
    assert holders.holder_of_file(tmp_path) is None


def test_processes_that_end_meanwhile_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "12" / "fd").mkdir(parents=True)
    (tmp_path / "12" / "fd" / "3").symlink_to("/x/lock")
    (tmp_path / "11").mkdir()
    monkeypatch.setattr(holders, "PROC", tmp_path)
    assert holders.holder_of_file(Path("/x/lock")) == holders.Holder(12, "unknown")
