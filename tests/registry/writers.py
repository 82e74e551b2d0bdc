"""Processes that publish: forked from one that has imported everything, so that they truly run at the same time.

python -m tests.registry.writers together ROOT WRITERS PUBLICATIONS
python -m tests.registry.writers killed-at-each-step ROOT
python -m tests.registry.writers killed-at-random ROOT KILLS SEED
python -m tests.registry.writers full-at-each-step ROOT
python -m tests.registry.writers swept ROOT WRITERS PUBLICATIONS
python -m tests.registry.writers sweeps-killed-at-each-step ROOT
"""

from __future__ import annotations

import errno
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
from dlhpc.errors import DlhpcError
from dlhpc.registry import blobs, gc
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.leases import lease
from dlhpc.registry.store import Registry
from dlhpc.weights.file import to_bytes
from tests.registry.samples import sample

UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
"""Environment in which these processes leave no coverage files: killed ones would leave broken files."""
STEPS = ("open", "os.mkdir", "os.listdir", "os.rename", "os.link", "os.remove", "os.rmdir")
"""Audit events before which a process may die: what it does to the disk, and the looks it takes before."""


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
    artifact = sample(1)
    die_before(step)
    registry.publish(artifact, "pets", alias="production")


def die_before(step: int) -> None:
    """End this process when it comes to the given step."""
    left = [step]

    def die(event: str, arguments: object) -> None:
        if event in STEPS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)


def full_at_each_step(root: Path) -> None:
    """On registry k, which holds a version, the disk is full from the k-th step of a publication on."""
    for step in itertools.count(1):
        registry = Registry(root / str(step), load_backend)
        registry.publish(sample(0), "pets", alias="production")
        status = os.waitpid(forked(partial(publish_on_a_full_disk, registry, step)), 0)[1]
        if os.waitstatus_to_exitcode(status) != 0:
            print("step", step, "ended with status", os.waitstatus_to_exitcode(status))
            return
        if (root / str(step) / "through").exists():
            print(step - 1, "steps refused")
            return


def publish_on_a_full_disk(registry: Registry, step: int) -> None:
    """Publish; from the given step on nothing can be created, linked, renamed or flushed, as on a disk that is full."""
    artifact, left = sample(1), [step]

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event in {"open", "os.mkdir", "os.rename", "os.link", "fsync"} and str(registry.root) in str(arguments[0]):
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def fsync(descriptor: int) -> None:
        refuse("fsync", (str(registry.root), descriptor))

    sys.addaudithook(refuse)
    os.fsync = fsync
    try:
        registry.publish(artifact, "pets", alias="production")
    except DlhpcError as error:
        if not str(error).startswith(f"{registry.root}: cannot write to the registry: No space left on device"):
            raise
    else:
        left[0] = 10
        (registry.root / "through").touch()


def leave(registry: Registry, artifact: Artifact) -> None:
    """What a publication that was killed before its label leaves."""
    with lease(registry.root, ["blobs", "manifests"]):
        for content in (to_bytes(artifact.weights), *artifact.files.values()):
            blobs.put(registry.blobs, content)
        blobs.put(registry.manifests, artifact.manifest_bytes)


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


def swept(root: Path, writers: int, publications: int) -> None:
    """Writers publish what was left behind, while sweeps without grace remove it before their eyes."""
    artifacts = [sample(seed) for seed in range(writers * publications)]
    registry = Registry(root, load_backend)
    registry.publish(sample(999), "first")

    def publish(own: list[Artifact]) -> None:
        for artifact in own:
            leave(registry, artifact)
            registry.publish(artifact, "pets", alias="production")
            registry.tag(f"sha256:{artifact.digest}", "stage", "new")

    children = {forked(partial(publish, artifacts[writer::writers])) for writer in range(writers)}
    succeeded = sweeps = removed = 0
    while children:
        removed += len(gc.sweep(registry, grace_s=0, now=later).files)
        sweeps += 1
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            children.remove(child)
            succeeded += status == 0
    print(succeeded, "of", writers, "writers succeeded;", sweeps, "sweeps removed", removed)


def later() -> float:
    """So that what was written this very moment is old enough."""
    return time.time() + 60


def sweeps_killed_at_each_step(root: Path) -> None:
    """On registry k, with leftovers, a sweep dies at its k-th step; until one gets through to the end."""
    left = [sample(seed) for seed in (1, 2)]
    for step in itertools.count(1):
        registry = Registry(root / str(step), load_backend)
        registry.publish(sample(0), "pets", alias="production")
        for artifact in left:
            leave(registry, artifact)
        (registry.versions("ghost")).mkdir(parents=True)

        def sweep_and_die(registry: Registry = registry, step: int = step) -> None:
            die_before(step)
            gc.sweep(registry, grace_s=0, now=later)

        status = os.waitpid(forked(sweep_and_die), 0)[1]
        if not os.WIFSIGNALED(status):
            print(step - 1, "kills, then status", os.waitstatus_to_exitcode(status))
            return


def main() -> None:
    action, root, *numbers = sys.argv[1:]
    actions = {
        "together": together,
        "killed-at-each-step": killed_at_each_step,
        "killed-at-random": killed_at_random,
        "full-at-each-step": full_at_each_step,
        "swept": swept,
        "sweeps-killed-at-each-step": sweeps_killed_at_each_step,
    }
    actions[action](Path(root), *map(int, numbers))


if __name__ == "__main__":
    main()
