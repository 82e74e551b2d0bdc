"""What the launcher's variables mean. (Meeting and parting are tested with learners.)"""

from __future__ import annotations

import pytest

from dlhpc.engines.torch_processes import Launch, read_launch
from dlhpc.errors import UsageError


def test_without_a_launcher_there_is_one_process() -> None:
    assert read_launch({}) == Launch(0, 1, 0)
    assert read_launch({"WORLD_SIZE": "1", "LOCAL_RANK": "2"}) == Launch(0, 1, 2)


def test_the_launchers_variables() -> None:
    assert read_launch({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Launch(5, 8, 1)


@pytest.mark.parametrize(
    "environ",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "-1", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "0", "RANK": "0", "LOCAL_RANK": "0"},
    ],
)
def test_half_a_launch_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="WORLD_SIZE="):
        read_launch(environ)
