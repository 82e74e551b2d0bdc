"""`dlhpc data describe`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dlhpc.cli.main import main


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for label, name in enumerate(["cat", "[bold]dog"]):
        (root / name).mkdir(parents=True)
        for number in range(15):
            colour = (200 * label, 10 * number, 50)
            Image.new("RGB", (20, 10), colour).save(root / name / f"{number}.png")
    (root / "cat" / "broken.png").write_bytes(b"no image")
    return root


def test_json_tells_the_facts(capsys):
    assert main(["data", "describe", "--set", "data.source=digits", "--set", "data.augment.shear=4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["source"] == "digits"
    assert facts["input_shape"] == [8, 8, 1]
    assert facts["sizes"]["test"] == 899
    assert facts["augment"]["shear"] == 4
    assert len(facts["fingerprint"]) == 64
    counts = np.array([[row["train"], row["validation"]] for row in facts["classes"]])
    assert (counts.sum(axis=1) == np.bincount(load_digits().target[:898])).all()
    assert counts.sum(axis=0).tolist() == [facts["sizes"]["train"], facts["sizes"]["validation"]]


def test_a_folder_without_any_setting(pictures, capsys):
    assert main(["data", "describe", "--data", str(pictures), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["source"] == "image_folder"
    assert facts["path"] == str(pictures)
    assert [row["name"] for row in facts["classes"]] == ["[bold]dog", "cat"]
    assert sum(facts["sizes"].values()) == 30
    assert len(facts["skipped"]) == 1
    assert "cat/broken.png: not a PNG" in facts["skipped"][0]


def test_the_table_names_classes_and_damaged_files(pictures, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    arguments = ["data", "describe", "--data", str(pictures), "--contact-sheet", str(sheet)]
    assert main([*arguments, "--set", "data.augment.rotation=20"]) == 0
    out = capsys.readouterr().out
    for text in ("32 x 32 x 3", "[bold]dog", "1 damaged file(s)", "cat/broken.png", "method hash", str(sheet)):
        assert text in out
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_a_configuration_file(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text("model: {name: FlaxMLP, num_classes: 100}\ndata: {source: synthetic, num_examples: 500}\n")
    assert main(["data", "describe", str(config)]) == 0
    captured = capsys.readouterr().out
    assert "28 x 28 x 1" in captured
    assert "... 60 more (--json)" in captured


def test_augmentation_and_halves_are_told(capsys):
    assert main(["data", "describe", "--set", "data.source=digits", "--set", "data.augment.scale=0.2"]) == 0
    captured = capsys.readouterr().out
    assert "method halves, validation 0.1\n" in captured
    assert "augment      scale 0.2\n" in captured


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "gone"], 4, "gone: no such file or folder"),
        (["gone.yaml"], 4, "gone.yaml"),
        (["--set", "data.source=digitz"], 2, "did you mean"),
        (["--data", "."], 1, "no sub-folder"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(arguments, status, message, capsys):
    assert main(["data", "describe", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
