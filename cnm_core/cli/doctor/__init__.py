"""`cnm doctor`: what is missing on this host, what leaks, and how to mend it."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import click

from cnm_core.cli.conflists import Directory
from cnm_core.cli.doctor import kernel, lacking, log, node, overlays, state
from cnm_core.cli.doctor.finding import ERROR, OK, WARNING, Finding
from cnm_core.cli.main import Failure
from cnm_core.cli.network import directory_option
from cnm_core.cli.output import format_option, warn
from cnm_core.cli.plugins import path_option
from cnm_core.errors import Error

_COLOURS = {OK: "green", WARNING: "yellow", ERROR: "red"}


@click.command()
@path_option
@directory_option
@click.option("--fix", is_flag=True, help="Mend what is safe to mend, and say what was done.")
@format_option
def doctor(path: tuple[str, ...], directory: Directory, fix: bool, form: str) -> None:
    """Look at the kernel, settings, plugins, networks and what endpoints left behind.

    Looking changes nothing: the kernel is tried in a network namespace that is thrown away.
    The exit code is 1 where something is wrong; a warning is about what few networks need.
    """
    if os.geteuid() != 0:
        raise Failure("doctor must run as root", advice="the state of networks is root's alone")
    findings = examine(directory, path)
    if fix:
        steps = {finding.mend: finding for finding in findings if finding.mend}
        for mend, finding in steps.items():  # one step may mend several things
            _mend(mend, finding, form)
        findings = examine(directory, path)
    for finding in findings:
        click.echo(json.dumps(_document(finding)) if form == "json" else _line(finding))
    errors = sum(finding.status == ERROR for finding in findings)
    if errors:
        fixable = sum(finding.status == ERROR and bool(finding.mend) for finding in findings)
        advice = f"cnm doctor --fix mends {fixable} of them" if fixable else "see above"
        raise Failure(f"{errors} thing{'s are' if errors > 1 else ' is'} wrong", advice=advice)


def examine(directory: Directory, path: tuple[str, ...]) -> list[Finding]:
    """Everything, the most basic first."""
    found = state.survey(directory, path)
    return [
        *kernel.findings(),
        *node.settings(found.versions),
        *node.executables(path),
        *node.networks(directory.path, path),
        *overlays.findings(directory.read()[0]),
        *found.findings,
        *lacking.findings(found.recorded),
        *log.findings(directory.read()[0]),
    ]


def _mend(mend: Callable[[], str], finding: Finding, form: str) -> None:
    try:
        done = mend()
    except (Error, OSError, subprocess.SubprocessError) as error:
        warn(f"cannot mend {finding.subject}: {error}")
    else:
        click.echo(json.dumps({"mended": done}) if form == "json" else f"mended: {done}")


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "area": finding.area,
        "subject": finding.subject,
        "status": finding.status,
        "message": finding.message,
        "advice": finding.advice,
        "fixable": finding.mend is not None,
    }


def _line(finding: Finding) -> str:
    status = click.style(f"{finding.status:<8}", fg=_COLOURS[finding.status])
    advice = f"; {finding.advice}" if finding.advice else ""
    text = f"{finding.area:<9} {finding.subject}: {finding.message}{advice}"
    # What damaged files have in them goes to a terminal here.
    return status + "".join(each if each.isprintable() else "?" for each in text)
