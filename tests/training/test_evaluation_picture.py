import warnings

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from dlhpc.training.evaluation import report
from dlhpc.training.evaluation_picture import draw


def answers(num_classes, count=400, seed=0):
    draw_from = np.random.default_rng(seed)
    labels = draw_from.integers(0, num_classes, count)
    logits = draw_from.normal(size=(count, num_classes))
    logits[np.arange(count), labels] += 3.0
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


@pytest.mark.parametrize(
    "names",
    [["no", "yes"], [str(digit) for digit in range(10)], [f"a rather long name {i}" for i in range(30)],
     [f"{i}" for i in range(120)], ["$x^", "$", "a_{b", "\\frac"], ["only", "a few", "of many"]],
    ids=["two", "ten", "thirty", "many", "no-mathematics", "three"],
)  # fmt: skip
def test_a_picture_of_any_number_of_classes(names, tmp_path):
    found = report(*answers(len(names)), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(found, tmp_path / "new" / "picture.png", title="pets:1 costs $5 or $6")
    with Image.open(tmp_path / "new" / "picture.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1200
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_other_answers_give_another_picture(tmp_path):
    for seed in (0, 1):
        draw(report(*answers(3, seed=seed), ["a", "b", "c"]), tmp_path / f"{seed}.png", title="the same")
    pictures = [np.asarray(Image.open(tmp_path / f"{seed}.png")) for seed in (0, 1)]
    assert (pictures[0] != pictures[1]).any()


def test_matplotlibs_global_state_stays_as_it_is(tmp_path):
    import matplotlib.pyplot as plt

    before, open_before = dict(mpl.rcParams), plt.get_fignums()
    draw(report(*answers(2), ["a", "b"]), tmp_path / "p.png", title="t")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_before
