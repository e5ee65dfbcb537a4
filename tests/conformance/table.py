#!/usr/bin/env python3
"""What conformance tests found in some directories of plugins, side by side.

usage: table.py OUTPUT.md OUTPUT.json LABEL=FINDINGS.json...
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PASSED, ABSENT = "✓", "–"
SOURCES = {
    "specification": "CNI specification",
    "library": "reference library",
    "conventions": "conventions",
    "ours": "this project",
}


@dataclass(frozen=True)
class Finding:
    """What one run of one test found; one sentence may have many runs, by their parameters.

    `source` is a key of SOURCES: where the sentence that the test checks is from. `failure`
    is the first line of what was wrong, None where nothing was.
    """

    section: str
    source: str
    sentence: str
    test: str
    plugin: str
    failure: str | None


@dataclass(frozen=True)
class Findings:
    """All of a directory of plugins, tried up to a version of the specification."""

    label: str
    directory: str
    version: str
    findings: tuple[Finding, ...]

    @classmethod
    def read(cls, label: str, file: Path) -> "Findings":
        """What `document` made, under a new label."""
        read = json.loads(file.read_text())
        findings = tuple(Finding(**each) for each in read.pop("findings"))
        return cls(**{**read, "label": label, "findings": findings})

    def of(self, plugin: str | None = None, test: str | None = None) -> list[Finding]:
        """Those of a plugin, of a test, or of both."""
        return [
            each
            for each in self.findings
            if plugin in (None, each.plugin) and test in (None, each.test)
        ]


def document(each: Findings) -> dict[str, Any]:
    """All findings, as JSON has them."""
    return asdict(each)


def markdown(directories: Sequence[Findings]) -> str:
    """The findings of some directories as text with tables."""
    return "\n".join([*_directories(directories), *_totals(directories), *_sections(directories)])


def _directories(directories: Sequence[Findings]) -> Iterator[str]:
    yield from _row("", "directory", "newest version")
    yield "| --- | --- | --- |"
    for each in directories:
        yield from _row(each.label, f"`{each.directory}`", each.version)
    yield ""


def _totals(directories: Sequence[Findings]) -> Iterator[str]:
    """How many runs pass, for each plugin and each source of sentences."""
    yield from _row("plugin", "sentences of", *(each.label for each in directories))
    yield "| --- | --- |" + " --: |" * len(directories)
    for plugin in _unique(each.plugin for one in directories for each in one.findings):
        for source, name in SOURCES.items():
            cells = [
                _passed(found for found in each.of(plugin) if found.source == source)
                for each in directories
            ]
            if set(cells) != {ABSENT}:
                yield from _row(plugin, name, *cells)
    yield ""


def _passed(findings: Iterable[Finding]) -> str:
    outcomes = Counter(each.failure is None for each in findings)
    return f"{outcomes[True]} of {outcomes.total()}" if outcomes else ABSENT


def _sections(directories: Sequence[Findings]) -> Iterator[str]:
    """Every sentence with how each directory does, a table for each section."""
    everything = [each for one in directories for each in one.findings]
    for section in _unique(each.section for each in everything):
        yield f"## {section}\n"
        yield from _row("sentence", "of", *(each.label for each in directories))
        yield "| --- | --- |" + " --- |" * len(directories)
        tests = {each.test: each for each in everything if each.section == section}
        for test, finding in tests.items():
            cells = [_cell(each.of(test=test)) for each in directories]
            yield from _row(finding.sentence, SOURCES[finding.source], *cells)
        yield ""


def _cell(findings: Sequence[Finding]) -> str:
    """Which plugins fail, and where only some of the test's parameters do, how many."""
    if not findings:
        return ABSENT
    runs = Counter(each.plugin for each in findings)
    failures = Counter(each.plugin for each in findings if each.failure is not None)
    if not failures:
        return PASSED
    return ", ".join(
        plugin if count == runs[plugin] else f"{plugin} {count}/{runs[plugin]}"
        for plugin, count in failures.items()
    )


def _row(*cells: str) -> Iterator[str]:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    yield f"| {' | '.join(escaped)} |"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


PREFACE = """# Conformance

What `tests/conformance` finds in our plugins and in the Go plugins, by the same commands:
`make conformance` makes this page and `conformance.json`, which has for each failure what was
wrong. Any directory of plugins can be tried:

```sh
pytest tests/conformance --cni-bin DIR --plugin bridge,loopback --report found
```

writes `found.md` and `found.json`; `--cni-version 1.0.0` leaves out what is newer. Plugins
are run as a runtime runs them, by environment and stdin, in namespaces of their own. ipvlan is
tried where the kernel has it: `make test-vm ARGS="tests/conformance --plugin ipvlan"`.

A cell has ✓ where all is as the sentence says, or else the plugins that fail; `bridge 2/9`
where they fail with two of nine inputs; – where the test does not apply. A sentence is one of
the CNI specification, of how its reference library behaves, of its conventions, or of this
project's own, which nobody else need keep.
"""


def main(markdown_file: str, json_file: str, *labelled: str) -> None:
    directories = []
    for each in labelled:
        label, _, file = each.partition("=")
        directories.append(Findings.read(label, Path(file)))
    Path(markdown_file).write_text(f"{PREFACE}\n{markdown(directories)}")
    text = json.dumps([_failures(each) for each in directories], indent=1, ensure_ascii=False)
    Path(json_file).write_text(f"{text}\n")


def _failures(each: Findings) -> dict[str, Any]:
    """A directory's failed tests, by test and plugin: how many runs failed, and how the first."""
    failed: dict[str, dict[str, Any]] = {}
    for one in each.findings:
        if one.failure is not None:
            runs = each.of(one.plugin, one.test)
            count = sum(run.failure is not None for run in runs)
            told = {"failed": count, "of": len(runs), "first": one.failure}
            failed.setdefault(one.test, {}).setdefault(one.plugin, told)
    return {"label": each.label, "directory": each.directory, "version": each.version} | {
        "failures": failed
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
