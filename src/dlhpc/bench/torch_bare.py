"""The loop that a careful person writes by hand in PyTorch: torch.optim.AdamW and nothing else, no DeepSpeed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


def bare_loop(widths: Sequence[int], learning_rate: float) -> Callable[[Sequence[Pair]], float]:
    """A function that trains a GELU MLP of these widths over the pairs and returns the last loss.

    `widths` runs from the flattened input over the hidden layers to the classes; inputs are uint8 (b, ...).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o), nn.GELU()]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)

    def run(pairs: Sequence[Pair]) -> float:
        loss = torch.zeros(())
        for inputs, labels in pairs:
            x = (torch.from_numpy(inputs).to(device).float() / 255 - 0.5) / 0.5
            loss = nn.functional.cross_entropy(model(x), torch.from_numpy(labels).to(device).long())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return loss.item()

    return run
