"""`dlhpc doctor`: look at the machine, and say how to mend what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict

import click

from dlhpc.cli.locations import HELP, LOCATION
from dlhpc.doctor.finding import Finding
from dlhpc.spec.registry import RegistrySpec
from dlhpc.spec.serving import ServingSpec

SIGNS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@click.option(
    "--registry",
    type=LOCATION,
    default=RegistrySpec().path,
    show_default=True,
    help=HELP,
)
@click.option("--deep", is_flag=True, help="Also import every framework and verify every file of the registry.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list on stdout.")
def command(registry: str, deep: bool, as_json: bool) -> int:
    """Check this machine, and say how to mend what is wrong.

    Looks at Python and its headers, compilers, packages, accelerators, memory, shared memory, disk space, ports,
    stale locks of compiled extensions, and the registry. Changes nothing.

    \b
    Examples:
      dlhpc doctor
      dlhpc doctor --deep
      dlhpc doctor --json | jq '.[] | select(.status != "ok")'

    Exit status: 0 when nothing failed (warnings allowed), 1 otherwise.
    """
    findings = []
    for finding in check_all(registry, deep):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    click.echo(f"{len(findings)} checks, {failed} failed, {warned} warned", err=True)
    return 1 if failed else 0


def check_all(registry: str, deep: bool) -> Iterator[Finding]:
    """Every finding, as it is found."""
    # Not at the top: `dlhpc doctor --help` needs none of it.
    from dlhpc.doctor import machine, services, software

    yield from software.check_python()
    yield from software.check_tools()
    yield from software.check_packages()
    yield from machine.check_processors()
    yield from machine.check_memory()
    yield from machine.check_shared_memory()
    yield from machine.check_room()
    yield from machine.check_accelerators()
    serving = ServingSpec()
    yield from services.check_ports({serving.port: "predictions", serving.metrics_port: "metrics"})
    yield from services.check_extension_locks(os.environ)
    yield from services.check_registry(registry, deep)
    if deep:
        yield from software.check_imports()


def _show(finding: Finding) -> None:
    sign, colour = SIGNS[finding.status]
    click.echo(f"{click.style(sign, fg=colour)} {finding.subject}: {finding.found}")
    if finding.mend:
        click.echo(f"       -> {finding.mend}")
