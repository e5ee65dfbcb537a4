"""Each target under libFuzzer (atheris), one after another, in the sandbox.

`__main__` starts this in namespaces of its own.
"""

import argparse
import importlib
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import atheris

from tests.fuzz import sandbox

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# What one input may take, in seconds and MiB.
_TIME, _MEMORY = 60, 1024
_CRASHES = 20
# Not what a plugin imports; what targets use of it is traced nevertheless.
_LEFT_OUT = ("agent", "cli", "schema")


@dataclass
class Outcome:
    """What became of a target: inputs that were run, and each way in which one crashed it."""

    executions: int = 0
    seconds: float = 0.0
    crashes: set[str] = field(default_factory=set)


def main() -> None:
    """Arguments are those of `__main__`, all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    _import_all()
    sandbox.enter(options.kept)
    failed = False
    for name in options.names:
        outcome = Outcome()
        _fuzz(name, options.seconds / len(options.names), options.seed, outcome)
        failed |= bool(outcome.crashes) or not outcome.executions
        print(
            f"{name:14}{outcome.executions:12,} inputs in {outcome.seconds:6.0f} s, "
            f"{len(outcome.crashes)} crashes",
            *sorted(outcome.crashes),
            sep="\n    ",
            flush=True,
        )
    sys.exit(failed)


def _import_all() -> None:
    """Import what plugins may, and the targets, so that what is new in them can be told."""
    with atheris.instrument_imports(include=["cnm_core", "plugins"], enable_loader_override=False):
        import cnm_core
        import plugins

        for package in (cnm_core, plugins):
            for path in sorted(Path(package.__path__[0]).rglob("*.py")):
                parts = path.relative_to(ROOT).with_suffix("").parts
                if parts[1] not in _LEFT_OUT and parts[-1] != "__init__":
                    importlib.import_module(".".join(parts))
        importlib.import_module("tests.fuzz.targets")


def _fuzz(name: str, seconds: float, seed: int, outcome: Outcome) -> None:
    """Run a target for so long, anew after each crash."""
    log = Path(f"{name}.log")
    begun = time.monotonic()
    while not outcome.executions or outcome.seconds + 1 < seconds:
        child = os.fork()
        if child == 0:
            _run(name, max(1, int(seconds - outcome.seconds)), seed, log)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text = log.read_text(errors="replace")
        executions = re.search(r"number_of_executed_units: (\d+)", text)
        outcome.executions += int(executions[1]) if executions else 0
        outcome.seconds = time.monotonic() - begun
        if status == 0:
            return
        outcome.crashes.add(_signature(text))
        log.rename(f"{name}.{len(outcome.crashes)}.log")
        if not executions or len(outcome.crashes) == _CRASHES:
            return


def _run(name: str, seconds: int, seed: int, log: Path) -> NoReturn:
    """Be a process that libFuzzer ends. Inputs that reach new code are kept, unless seeded."""
    from tests.fuzz import targets

    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sandbox.renew()
    targets.prepare(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those of a plugin wait for the kernel only
    corpus = [] if seed else [Path("corpus", name)]
    for each in corpus:
        each.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={_TIME}",
        f"-rss_limit_mb={_MEMORY}",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-dict={HERE / 'words.dict'}",
        f"-artifact_prefix={name}-",
        *map(str, [*corpus, HERE / "corpus" / name]),
    ]
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    atheris.Fuzz()
    os._exit(1)


def _signature(log: str) -> str:
    """Where and how it crashed, to tell crashes apart."""
    places = re.findall(r'File "[^"]*?((?:cnm_core|tests)/[^"]*)", line (\d+)', log)
    words = re.findall(
        r"^(?:[\w.]*(?:Error|Exception|Defect|error)\b.*|==\d+== ?ERROR.*)$", log, re.M
    )
    place = ":".join(places[-1]) if places else ""
    return f"{place} {words[0][:400] if words else log[-300:]}"


if __name__ == "__main__":
    main()
