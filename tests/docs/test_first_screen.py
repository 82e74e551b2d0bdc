"""What the README's first screen promises, on a copy of the checkout without an environment."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from tests.workspace import Workspace

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(2400)]


def test_make_demo_sets_up_and_ends_with_the_table_also_the_second_time(checkout: Path, tmp_path: Path) -> None:
    fresh = Workspace(checkout, tmp_path / "clone", epochs=1)
    del fresh.environ["DLHPC_TRAINING__NUM_EPOCHS"]
    interpreter = Path(sysconfig.get_config_var("BINDIR")) / f"python3.{sys.version_info.minor}"
    fresh.environ["PATH"] = "/usr/local/bin:/usr/bin:/bin"
    for attempt in ("first", "second"):
        told = fresh.succeed(f"make demo PYTHON={interpreter} # {attempt}", timeout_s=1500)
        for model in ("FlaxMLP", "TorchDeepSpeedCNN"):
            assert model in told
        assert "p99" in told
