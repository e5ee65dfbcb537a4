"""Every problem of a network's file: a conflist, or the configuration of a single plugin."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from cnm_core import json
from cnm_core.cni.invocation import VERSIONS
from cnm_core.config.host_local import host_local_config
from cnm_core.errors import InvalidNetworkConfig, UnsupportedField
from cnm_core.ipam.host_local import range_sets
from cnm_core.schema import located
from cnm_core.schema.base import ConfigModel, problems_of
from cnm_core.schema.located import Document, Malformed, Path
from cnm_core.schema.plugins import ConflistConfig, Plugin, PluginConfig, find

ERROR, WARNING = "error", "warning"
# Keys beside `plugins` that tools leave for themselves: `cnm network create`, nerdctl, podman.
_OF_TOOLS = ("cnm", "nerdctlID", "nerdctlLabels", "args")


@dataclass(frozen=True)
class Problem:
    """What is wrong at a place of a file. `line` and `column` count from 1, in characters.

    An ERROR keeps a network from working; a WARNING is what has no effect. `pointer` is a
    JSON Pointer (RFC 6901).
    """

    line: int
    column: int
    pointer: str
    severity: str
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Need:
    """An executable that a file asks for, and where it does.

    With `or_docker`, an IPAM driver of that name that was written for Docker will do.
    """

    name: str
    path: Path
    or_docker: bool = False


@dataclass(frozen=True)
class Found:
    """A problem before its place in the text is known; with `key`, the key itself is wrong."""

    path: Path
    message: str
    advice: str = ""
    severity: str = ERROR
    key: bool = False


class Conflist:
    """A file's content: its problems, the network's name, and what executables it needs."""

    def __init__(self, content: bytes) -> None:
        self.problems: list[Problem] = []
        self.name = ""
        self.needs: list[Need] = []
        self._document = Document("")
        try:
            self._document = located.parse(content)
        except Malformed as error:
            self.problems.append(Problem(error.line, error.column, "", ERROR, error.message))
            return
        for path, offset in self._document.repeated:
            message = "stands here a second time; this one counts"
            place = self._document.position(offset)
            advice = "remove one of the two"
            self.problems.append(Problem(*place, located.pointer(path), ERROR, message, advice))
        for found in _network(self._document.value, self.needs):
            self.add(found)
        value = self._document.value
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            self.name = value["name"]

    def add(self, found: Found) -> None:
        """Note a problem at its place in the text."""
        line, column = self._document.place(found.path, key=found.key)
        pointer = located.pointer(found.path)
        self.problems.append(
            Problem(line, column, pointer, found.severity, found.message, found.advice)
        )
        self.problems.sort(key=lambda each: (each.line, each.column))


def _network(value: object, needs: list[Need]) -> Iterator[Found]:
    if not isinstance(value, dict):
        yield Found((), f"must be an object, got {json.shorten(value)}")
        return
    plugins = value.get("plugins")
    yield from _versions(value)
    if plugins is None and "type" in value:
        yield from _of_model(ConflistConfig, {"plugins": [{}], **value}, ())
        yield from _whole_plugin(value, (), value, needs, first=True)
        return
    yield from _of_model(ConflistConfig, value, ())
    yield from _unknown_keys(value, {*ConflistConfig.model_fields, *_OF_TOOLS}, ())
    if plugins is None or plugins == []:
        path: Path = ("plugins",)
        yield Found(path, "must list at least one plugin", 'as in "plugins": [{"type": "bridge"}]')
    if not isinstance(plugins, list):
        return
    for index, plugin in enumerate(plugins):
        if isinstance(plugin, dict):
            whole = {"name": "unnamed", **plugin}  # what is wrong with the list's is said there
            yield from _whole_plugin(whole, ("plugins", index), value, needs, first=index == 0)


def _versions(value: dict[str, Any]) -> Iterator[Found]:
    newest = f"the newest is {VERSIONS[-1]}"
    version = value.get("cniVersion")
    if version is None or version == "":
        advice = f'give it, as in "cniVersion": "{VERSIONS[-1]}"'
        yield Found(("cniVersion",), "is missing, which means 0.1.0", advice, WARNING)
    elif isinstance(version, str) and version not in VERSIONS:
        message = f"must be one of {', '.join(VERSIONS)}, got {json.shorten(version)}"
        yield Found(("cniVersion",), message, newest)
    versions = value.get("cniVersions")
    if isinstance(versions, list) and not {str(each) for each in versions} & {*VERSIONS}:
        message = f"must have one of {', '.join(VERSIONS)}, got {json.shorten(versions)}"
        if versions:
            yield Found(("cniVersions",), message, newest)


def _whole_plugin(
    value: dict[str, Any], path: Path, network: dict[str, Any], needs: list[Need], *, first: bool
) -> Iterator[Found]:
    found = list(_plugin(value, path, network, needs, first=first))
    yield from found
    if all(each.severity != ERROR for each in found):
        yield from _together(value, path)


def _plugin(
    value: dict[str, Any], path: Path, network: dict[str, Any], needs: list[Need], *, first: bool
) -> Iterator[Found]:
    kind = value.get("type")
    if not isinstance(kind, str) or not kind:
        yield from _of_model(PluginConfig, value, path)
        return
    if "/" in kind:
        message = f"must be the name of an executable, not a path, got {json.shorten(kind)}"
        yield Found((*path, "type"), message)
        return
    needs.append(Need(kind, (*path, "type")))
    plugin = find(kind)
    if plugin is None:
        yield from _of_model(PluginConfig, value, path)
    else:
        yield from _own_plugin(plugin, value, path, network)
        if plugin.chained and first:
            message = f'"{kind}" works on the interface that a plugin before it made'
            yield Found((*path, "type"), message, "list it after that one")
    ipam = value.get("ipam")
    if isinstance(ipam, dict):
        yield from _ipam(ipam, (*path, "ipam"), needs, inside=plugin is not None)


def _together(plugin: dict[str, Any], path: Path) -> Iterator[Found]:
    """What is wrong with keys that are right each by itself, as the executable says it."""
    from cnm_core.schema import contradictions  # has the drivers with it

    try:
        contradictions.refuse(plugin)
    except (InvalidNetworkConfig, UnsupportedField) as error:
        place, _, message = error.msg.partition(": ")
        yield Found((*path, *_steps(place)), message, error.details)


def _own_plugin(
    plugin: Plugin, value: dict[str, Any], path: Path, network: dict[str, Any]
) -> Iterator[Found]:
    known = {key for model in plugin.models for key in model.model_fields}
    yield from _unknown_keys(value, known | (network.keys() if value is network else set()), path)
    said = set()
    for model in plugin.models:
        for found in _of_model(model, value, path):
            if (found.path, found.message) not in said:  # several models may share a key
                yield found
            said.add((found.path, found.message))


def _ipam(value: dict[str, Any], path: Path, needs: list[Need], *, inside: bool) -> Iterator[Found]:
    """Problems of an `ipam` object; `inside` tells that our own drivers need no executable."""
    kind = value.get("type")
    if kind is None or kind == "":
        if value:
            yield Found(path, "has no type, so that there will be no addresses", "", WARNING)
        return
    if not isinstance(kind, str) or "/" in kind:
        message = f"must be the name of an IPAM driver, got {json.shorten(kind)}"
        yield Found((*path, "type"), message)
        return
    plugin = find(kind)
    if plugin is None or not inside:
        needs.append(Need(kind, (*path, "type"), or_docker=inside))
    if plugin is None:
        return
    if plugin.ipam is None:
        message = f'"{kind}" gives no addresses: it is a network plugin'
        yield Found((*path, "type"), message, "say host-local, static, or an IPAM plugin's name")
        return
    yield from _unknown_keys(value, {"type", *plugin.ipam.model_fields}, path)
    wrong = list(_of_model(plugin.ipam, value, path))
    yield from wrong
    if not wrong and plugin is find("host-local"):
        yield from _ranges(value, path)


def _ranges(value: dict[str, Any], path: Path) -> Iterator[Found]:
    """What is wrong with ranges that are right each by itself, as the driver says it."""
    try:
        range_sets(host_local_config(value, "ipam"))
    except InvalidNetworkConfig as error:
        place, _, message = error.msg.partition(": ")
        yield Found((*path[:-1], *_steps(place)), message, error.details)


def _steps(place: str) -> Path:
    """The steps of a place such as `ipam.ranges[0][1].subnet`."""
    return tuple(int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", place))


def _of_model(model: type[ConfigModel], value: dict[str, Any], path: Path) -> Iterator[Found]:
    try:
        model.model_validate(value)
    except ValidationError as failure:
        for location, message in problems_of(failure):
            yield Found((*path, *location), message)


def _unknown_keys(value: dict[str, Any], known: Any, path: Path) -> Iterator[Found]:
    """Warnings about keys that nobody reads; those with a dot or slash are others' by custom."""
    for key in value:
        if key in known or "/" in key or "." in key:
            continue
        close = get_close_matches(key.lower(), {each.lower(): each for each in known}, 1)
        meant = next((each for each in known if close and each.lower() == close[0]), "")
        advice = f'did you mean "{meant}"?' if meant else "remove it, or mend its spelling"
        yield Found((*path, key), "is unknown and without effect", advice, WARNING, key=True)
