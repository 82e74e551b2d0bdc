"""Processes that publish: forked from one that has imported everything, so that they truly run at the same time.

python -m tests.registry.writers together ROOT WRITERS PUBLICATIONS
python -m tests.registry.writers killed-at-each-step ROOT
python -m tests.registry.writers killed-at-random ROOT KILLS SEED
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dlhpc.backends import load_backend
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.store import Registry
from tests.registry.samples import sample

UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
"""Environment in which these processes leave no coverage files: killed ones would leave broken files."""
STEPS = ("open", "os.mkdir", "os.listdir", "os.rename", "os.link", "os.remove")
"""Audit events before which a writer may die: what publishing does to the disk, and the looks it takes before."""


def forked(work: Callable[[], None]) -> int:
    """Run in a child; its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def together(root: Path, writers: int, publications: int) -> None:
    """All begin when the pipe closes, on a registry that does not exist yet."""
    artifacts = [sample(seed) for seed in range(writers * publications)]
    ready, go = os.pipe()

    def publish(own: list[Artifact]) -> None:
        os.close(go)
        os.read(ready, 1)
        registry = Registry(root, load_backend)
        for artifact in own:
            registry.publish(artifact, "pets", alias="production")

    children = [forked(partial(publish, artifacts[writer::writers])) for writer in range(writers)]
    os.close(go)
    results = [os.waitpid(child, 0)[1] for child in children]
    print(sum(result == 0 for result in results), "of", writers, "writers succeeded")


def killed_at_each_step(root: Path) -> None:
    """On registry k, which holds a version, a writer dies at its k-th step; until one gets through to the end."""
    for step in itertools.count(1):
        registry = Registry(root / str(step), load_backend)
        registry.publish(sample(0), "pets", alias="production")
        status = os.waitpid(forked(partial(publish_and_die, registry, step)), 0)[1]
        if not os.WIFSIGNALED(status):
            print(step - 1, "kills, then status", os.waitstatus_to_exitcode(status))
            return


def publish_and_die(registry: Registry, step: int) -> None:
    """Publish, but die before the given step."""
    artifact, left = sample(1), [step]

    def die(event: str, arguments: object) -> None:
        if event in STEPS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    registry.publish(artifact, "pets", alias="production")


def killed_at_random(root: Path, kills: int, seed: int) -> None:
    """A writer publishes one version after another until it is killed; then the next goes on."""
    draw = random.Random(seed)
    artifacts = [sample(number) for number in range(40)]

    def publish(first: int) -> None:
        registry = Registry(root, load_backend)
        for artifact in itertools.cycle(artifacts[first:] + artifacts[:first]):
            registry.publish(artifact, f"pets-{draw.randrange(10**6)}", alias="production")

    killed = 0
    for _ in range(kills):
        child = forked(partial(publish, draw.randrange(len(artifacts))))
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(killed, "killed")


def main() -> None:
    action, root, *numbers = sys.argv[1:]
    actions = {"together": together, "killed-at-each-step": killed_at_each_step, "killed-at-random": killed_at_random}
    actions[action](Path(root), *map(int, numbers))


if __name__ == "__main__":
    main()
