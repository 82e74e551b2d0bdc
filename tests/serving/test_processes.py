"""Nothing of a server may stay behind."""

from __future__ import annotations

import signal
import subprocess
import sys

from dlhpc.serving.processes import command_line, end_processes, marked, wait_for

IGNORES_SIGTERM = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
)


def start(mark: str, program: str = "import sys; print(flush=True); sys.stdin.read()") -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program, mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_processes_are_found_by_their_command_line_and_ended() -> None:
    with start("mark-4711", IGNORES_SIGTERM) as stubborn, start("another-mark") as other:
        assert marked("mark-4711") == [stubborn.pid]
        end_processes("mark-4711", patience_s=0.0)
        assert stubborn.wait(60) == -signal.SIGKILL
        assert marked("mark-4711") == []
        assert other.poll() is None
        other.kill()


def test_those_that_end_by_themselves_are_left_to_it() -> None:
    with start("mark-4712") as process:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        end_processes("mark-4712")
    assert process.returncode == 0


def test_a_process_that_is_no_more_has_no_command_line() -> None:
    with start("gone") as process:
        process.kill()
    assert command_line(process.pid) == ""


def test_waiting_gives_what_came_of_it() -> None:
    looks = iter([False, False, True])
    assert wait_for(lambda: next(looks), 60.0)
    assert not wait_for(lambda: False, 0.0)
