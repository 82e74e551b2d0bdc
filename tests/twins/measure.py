"""Print the measured differences between the frameworks as the table of docs/parity.md.

python -m tests.twins.measure
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from dlhpc.spec.model import ModelSpec
from tests.twins.networks import (
    DROPPING,
    SPECS,
    difference,
    flax_answer,
    random_batch,
    random_spec,
    torch_answer,
    trained_weights,
)
from tests.twins.runs import STEPS, run_spec
from tests.twins.test_training import cnn_run, greatest_difference, trained


def main() -> None:
    """Measure and print; takes a few minutes."""
    row("what", "float32", "float64")
    row("---", "---", "---")
    for title, specs in (
        ("MLPs", [spec for name, spec in SPECS.items() if not name.startswith("cnn")]),
        ("CNNs", [spec for name, spec in SPECS.items() if name.startswith("cnn")]),
        ("30 random models", [random_spec(number) for number in range(30)]),
    ):
        worst = [_worst(specs, precision) for precision in ("float32", "float64")]
        row(f"{title}: logits", *(f"{outputs:.1e}" for outputs, _ in worst))
        row(f"{title}: gradients", *(f"{gradients:.1e}" for _, gradients in worst))
    for title, run in (
        ("MLP, AdamW", run_spec),
        ("CNN, AdamW", cnn_run),
    ):
        differences = []
        for precision in ("float32", "float64"):
            spec = run(training={"precision": precision})
            flax, torch = (trained(backend, spec, STEPS)[0] for backend in ("flax", "torch"))
            differences.append(f"{greatest_difference(flax, torch):.1e}")
        row(f"{title}: training state after {STEPS} steps", *differences)


def row(*cells: str) -> None:
    """One line of the table."""
    sys.stdout.write("| " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def _worst(specs: Iterable[ModelSpec], precision: str) -> tuple[float, float]:
    """Greatest difference of logits and of gradients, with and without dropout."""
    outputs, gradients = [0.0], [0.0]
    for spec in specs:
        weights, batch = trained_weights(spec), random_batch(spec, seed=99)
        for dropping in (None, DROPPING):
            flax, torch = (answer(spec, weights, batch, precision, dropping) for answer in (flax_answer, torch_answer))
            outputs.append(difference(flax.logits, torch.logits))
            gradients += [
                difference(flax.gradients[name], gradient)
                for name, gradient in torch.gradients.items()
                if gradient.any()
            ]
    return max(outputs), max(gradients)


if __name__ == "__main__":
    main()
