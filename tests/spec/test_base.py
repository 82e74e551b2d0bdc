"""What all specs share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dlhpc.spec.base import canonical_json
from dlhpc.spec.run import RunSpec
from dlhpc.spec.training import TrainingSpec


def test_a_spec_never_changes():
    with pytest.raises(ValidationError, match="frozen"):
        RunSpec().seed = 3


@pytest.mark.parametrize("values", [{"sed": 1}, {"training": {"x": 1}}, {"seed": -1}, {"seed": 2**40}, {"seed": 1.0}])
def test_a_spec_is_closed_and_strict_in_python_too(values):
    with pytest.raises(ValidationError):
        RunSpec.model_validate(values)


def test_nan_is_refused():
    with pytest.raises(ValidationError):
        TrainingSpec(learning_rate=float("nan"))


def test_equal_specs_and_only_they_have_equal_digests():
    assert RunSpec().digest == RunSpec(training=TrainingSpec(batch_size=64)).digest
    assert RunSpec().digest != RunSpec(seed=1).digest
    assert len(RunSpec().digest) == 64


def test_the_canonical_form_comes_back_equal():
    run = RunSpec(seed=3)
    assert RunSpec.model_validate(run.canonical()) == run


def test_canonical_json_is_one_byte_string_for_one_value():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == canonical_json({"a": [1.5, "é"], "b": 1})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
