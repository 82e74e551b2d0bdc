"""What an exported folder says of its model, to people and to model hubs: README.md and config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from dlhpc.registry.manifest import Manifest
from dlhpc.spec.load import file_form
from dlhpc.spec.write import to_yaml

_HUB_LICENCES: Final = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
}
"""SPDX identifiers that hubs know, in their spelling; others are called `other` there, with their name."""


def config(manifest: Manifest) -> bytes:
    """config.json: the run as a file writes it, classes, preprocessing, and what made it. The manifest says more."""
    said = {
        "library_name": "dlhpc",
        "dlhpc_version": manifest.environment.get("deep-learning-hpc-demo"),
        "architecture": manifest.run.model.architecture,
        "id2label": {str(number): name for number, name in enumerate(manifest.classes)},
        "preprocessing": {"mean": manifest.preprocessing.mean, "std": manifest.preprocessing.std},
        "inputs": manifest.inputs.canonical(),
        "outputs": manifest.outputs.canonical(),
        "run": file_form(manifest.run),
    }
    return (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()


def readme(manifest: Manifest, digest: str, card: str | None, folder: str) -> str:
    """README.md: metadata that hubs read, then the version's own model card or a title, the results, and how to use it.

    `folder` is what the exported folder is called. Metadata at the top of the version's card gives way; model_card.md
    keeps it.
    """
    name = manifest.run.resolved_name
    about = f"# {name}\n\n{_summary(manifest)}\n" if card is None else f"{_body(card).strip()}\n"
    parts = (_front_matter(manifest, name), ["", about], _results(manifest), _use(manifest, name, digest, folder))
    return "\n".join(line for part in parts for line in part)


def _front_matter(manifest: Manifest, name: str) -> Iterator[str]:
    said: dict[str, Any] = {
        **_licence(manifest.licence),
        "library_name": "dlhpc",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", manifest.run.model.architecture, manifest.run.backend],
    }
    if manifest.metrics:
        said["metrics"] = sorted(manifest.metrics)
        source = manifest.run.data.source
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"type": source, "name": source, "split": "validation"},
            "metrics": [{"type": metric, "value": value} for metric, value in sorted(manifest.metrics.items())],
        }
        said["model-index"] = [{"name": name, "results": [result]}]
    yield "---"
    yield from to_yaml(said, lambda _: None)
    yield "---"


def _licence(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {}
    known = licence.lower()
    return {"license": known} if known in _HUB_LICENCES else {"license": "other", "license_name": licence}


def _body(card: str) -> str:
    """A card without metadata at its top."""
    lines = card.splitlines()
    if lines[:1] == ["---"] and "---" in lines[1:]:
        return "\n".join(lines[lines.index("---", 1) + 1 :])
    return card


def _summary(manifest: Manifest) -> str:
    run, shape = manifest.run, " x ".join(map(str, manifest.inputs.shape[1:]))
    trained = "" if manifest.data_fingerprint is None else f", trained on `{run.data.source}` in {run.backend}"
    return f"An image classifier: `{run.model_name}`, {len(manifest.classes)} classes, images of {shape}{trained}."


def _results(manifest: Manifest) -> Iterator[str]:
    if manifest.metrics:
        yield from ["## Results", "", "On the validation part of its data:", "", "| metric | value |", "|---|---|"]
        yield from (f"| {name} | {value:.6g} |" for name, value in sorted(manifest.metrics.items()))
        yield ""


def _use(manifest: Manifest, name: str, digest: str, folder: str) -> Iterator[str]:
    shape = ", ".join(map(str, manifest.inputs.shape[1:]))
    yield f"""## How to use

Beside this folder, with `pip install 'deep-learning-hpc-demo[{manifest.run.backend}]'`:

```python
import dlhpc
import numpy as np

registry = dlhpc.Registry("registry")
registry.import_folder("{folder}", name="{name}")  # every file is verified
artifact = registry.get("{name}")
images = np.zeros((1, {shape}), np.uint8)  # (N, height, width, channels), 0..255
probabilities = artifact.predictor()(images)  # (N, {len(manifest.classes)})
print(artifact.classes[probabilities[0].argmax()])
```

`model.safetensors` holds plain named arrays, `config.json` what they belong to, `manifest.json` everything that makes
this version what it is. `sha256sum -c SHA256SUMS` checks the files. The version:

    sha256:{digest}
"""
