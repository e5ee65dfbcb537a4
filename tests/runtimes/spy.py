"""What a runtime calls: a directory of plugins that write down each call, and run the real one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCRIPT = """#!/bin/sh
call=$(mktemp '{calls}/XXXXXXXX')
cat > "$call"
printf '%s {name} %s %s\\n' "$CNI_COMMAND" "$call" "$CNI_NETNS" >> '{calls}.list'
exec '{real}' < "$call"
"""


@dataclass(frozen=True)
class Call:
    """One call of one plugin."""

    command: str
    plugin: str
    netns: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Spy:
    """Plugins in `directory` that stand before the real ones."""

    directory: Path

    @classmethod
    def on(cls, plugins: Path, directory: Path) -> "Spy":
        """Stand before each of a directory's plugins."""
        spy = cls(directory)
        directory.mkdir()
        spy._calls.mkdir()
        for real in plugins.iterdir():
            script = directory / real.name
            script.write_text(_SCRIPT.format(calls=spy._calls, name=real.name, real=real))
            script.chmod(0o755)
        return spy

    @property
    def _calls(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}-calls")

    def calls(self) -> list[Call]:
        """All calls, in the order of their beginning."""
        lines = (self._calls.with_name(f"{self._calls.name}.list")).read_text().splitlines()
        return [_call(*line.split(" ")) for line in lines]

    def commands(self) -> dict[str, list[str]]:
        """The commands that each plugin got, in their order."""
        found: dict[str, list[str]] = {}
        for call in self.calls():
            found.setdefault(call.plugin, []).append(call.command)
        return found


def _call(command: str, plugin: str, file: str, netns: str) -> Call:
    text = Path(file).read_text()
    return Call(command, plugin, netns, json.loads(text) if text else {})
