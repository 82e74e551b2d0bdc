"""Write requirements.txt and requirements-dev.txt from what is installed and works: `make lock`.

Walks the dependencies of the extras `all` and `dev` through the installed packages, once as Linux and once as macOS
would see them, so that what only Linux needs carries an environment marker. A local label of a version (`+cpu`) is
dropped: the build of torch is the user's choice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "deep-learning-hpc-demo"
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
}
HEADER = """\
# {what}, every version pinned as it was tested.
# Written by `make lock` from the extras `{extra}` of pyproject.toml: change those, not this file.
"""


def reachable(extra: str, platform: str) -> dict[str, str]:
    """Name -> `name==version` of everything that the extra pulls in on a platform, without the project itself."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(PROJECT, extra)]
    while pending:
        name, wanted_extra = pending.pop()
        if (name, wanted_extra) in seen:
            continue
        seen.add((name, wanted_extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            if platform == "linux":
                raise SystemExit(f"{name} is required but not installed: run `make setup` first") from None
            continue
        if name != PROJECT:
            pins[name] = f"{installed.metadata['Name']}=={Version(installed.version).public}"
        pending += requirements(installed.requires or [], wanted_extra, platform)
    return pins


def requirements(texts: list[str], extra: str, platform: str) -> Iterator[tuple[str, str]]:
    """(name, extra) of each requirement that holds on the platform under the extra."""
    environment: dict[str, Any] = {**default_environment(), **PLATFORMS[platform], "extra": extra}
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            yield name, ""
            yield from ((name, inner) for inner in requirement.extras)


def lines(extra: str, leave_out: set[str]) -> list[str]:
    """The pins of an extra, sorted, with markers."""
    everywhere = reachable(extra, "darwin")
    pins = reachable(extra, "linux")
    return [
        pin if name in everywhere else f"{pin}; sys_platform == 'linux'"
        for name, pin in sorted(pins.items())
        if name not in leave_out
    ]


def documents() -> dict[Path, str]:
    """Both files as they should be."""
    runtime = "\n".join(lines("all", set()))
    development = "\n".join(lines("dev", set(reachable("all", "linux"))))
    return {
        ROOT / "requirements.txt": f"{HEADER.format(what='What dlhpc needs to train and serve', extra='all')}"
        f"{runtime}\n# The project itself, so that `dlhpc` and the launch scripts work.\n-e .\n",
        ROOT / "requirements-dev.txt": f"{HEADER.format(what='What tests and checks need besides', extra='dev')}"
        f"{development}\n",
    }


def main() -> int:
    """Write the files; with --check, only say whether they are up to date."""
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} differs from what is installed: run `make lock`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in documents().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
