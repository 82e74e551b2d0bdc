"""How a run is spread over processes."""

from __future__ import annotations

from typing import Literal

from dlhpc.spec.base import NonNegativeInt, Spec


class DistributedSpec(Spec):
    """Data parallelism; the launcher (`deepspeed`, or one process) says how many processes there are."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage (Rajbhandari et al. 2020, arXiv:1910.02054): what is partitioned over the processes:
    0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters. PyTorch only."""

    persistence_threshold: NonNegativeInt = 100_000
    """ZeRO stage 3 keeps parameters of fewer elements than this whole in every process, which saves messages."""
