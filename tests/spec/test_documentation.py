"""docs/configuration.md tells every key, default and rule as the code has them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from dlhpc.spec.load import load_run

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_up_to_date(reference):
    text = PAGE.read_text()
    assert reference.page(text) == text, "run: python tests/spec/reference.py"


def test_its_examples_load(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "flax_config.yaml").write_text(blocks[0])
    for index, block in enumerate(blocks):
        path = tmp_path / f"{index}.yaml"
        path.write_text(block)
        assert load_run(path, environ={}).model.num_classes == 1000
    assert load_run(tmp_path / "1.yaml", environ={}).training.learning_rate == 1e-4
