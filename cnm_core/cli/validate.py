"""`cnm network validate`: every problem of networks' files, each with its place."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from cnm_core.cli.main import INVALID, Failure
from cnm_core.cli.output import format_option
from cnm_core.cli.plugins import find_executable, path_option
from cnm_core.ipam import docker_plugin
from cnm_core.schema.conflist import ERROR, Conflist, Found, Problem

STDIN = "-"
_COLOURS = {ERROR: "red", "warning": "yellow"}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@path_option
@click.option(
    "--executables/--no-executables",
    default=True,
    help="Whether to look for the plugins' executables too.",
)
@format_option
def validate(files: tuple[str, ...], path: tuple[str, ...], executables: bool, form: str) -> None:
    """Find every problem of networks' FILEs; - is standard input.

    A line for each has file, line, column and JSON Pointer. Errors keep a network from
    working, and the exit code is 5; a warning is about what has no effect.
    """
    found = problems_of(files, path if executables else None)
    if form == "json":
        for name, problem in found:
            click.echo(json.dumps({"file": name, **asdict(problem)}, ensure_ascii=False))
    else:
        for name, problem in found:
            click.echo(line_of(name, problem))
    errors = sum(problem.severity == ERROR for _, problem in found)
    if errors:
        raise Failure(
            f"{errors} error{'s' * (errors > 1)} in {len(files)} file{'s' * (len(files) > 1)}",
            advice="each line above says where",
            code=INVALID,
        )


def problems_of(files: Sequence[str], path: tuple[str, ...] | None) -> list[tuple[str, Problem]]:
    """The problems of some files, each with its file's name, in the order of the text.

    `path` are the directories where executables must be; None has nobody look for them.
    """
    found: list[tuple[str, Problem]] = []
    named: dict[str, str] = {}
    for file in files:
        try:
            content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            found.append((file, Problem(1, 1, "", ERROR, message)))
            continue
        conflist = Conflist(content)
        if path is not None:
            _find_executables(conflist, path)
        if conflist.name and named.setdefault(conflist.name, file) != file:
            first = named[conflist.name]
            message = f'"{conflist.name}" is the name of the network in {first} too'
            conflist.add(Found(("name",), message, "runtimes take the first file only"))
        found += [(file, problem) for problem in conflist.problems]
    return found


def _find_executables(conflist: Conflist, path: tuple[str, ...]) -> None:
    for need in conflist.needs:
        found = find_executable(need.name, path)
        if found is None and need.or_docker and docker_plugin.find(need.name):
            continue
        if found is None:
            message = f'executable "{need.name}" is in no directory of {":".join(path)}'
            conflist.add(Found(need.path, message, "install it, or say --cni-path"))
        elif not os.access(found, os.X_OK):
            message = f"{found} is not executable"
            conflist.add(Found(need.path, message, f"chmod 0755 {found}"))


def line_of(name: str, problem: Problem) -> str:
    """A problem as compilers write theirs, with colour where a person sees it."""
    severity = click.style(problem.severity, fg=_COLOURS[problem.severity], bold=True)
    place = f"{problem.pointer}: " if problem.pointer else ""
    advice = f"; {problem.advice}" if problem.advice else ""
    shown = "stdin" if name == STDIN else name
    text = f"{place}{problem.message}{advice}".replace("\n", "\\n")
    return f"{shown}:{problem.line}:{problem.column}: {severity}: {text}"
