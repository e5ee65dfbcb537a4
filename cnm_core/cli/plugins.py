"""Plugin executables: where they are, and the chain of them that a network is, run as libcni does.

Results are kept where libcni keeps them and in its format (libcni/api.go, cachedInfo), so
that what was added here can be deleted by any runtime, and the other way round.
"""

import base64
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from cnm_core.cli.conflists import Conflist, parse
from cnm_core.cli.main import NOT_FOUND, Failure
from cnm_core.cni import delegate
from cnm_core.errors import Error
from cnm_core.model import EndpointKey
from cnm_core.store import files

DEFAULT_PATH = "/opt/cni/bin"
CACHE = Path("/var/lib/cni/results")
_KIND = "cniCacheV1"
# What plugins get of our own environment: where to log, and which trace they are part of.
_HANDED_DOWN = ("PATH", "CNM_LOG", "CNM_TRACE", "TRACEPARENT")


def _directories(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(":") if part)


path_option = click.option(
    "--cni-path",
    "path",
    envvar="CNI_PATH",
    default=DEFAULT_PATH,
    show_default=True,
    show_envvar=True,
    callback=_directories,
    metavar="DIR[:DIR]…",
    help="Where plugin executables are.",
)


def find_executable(name: str, path: tuple[str, ...]) -> str | None:
    """The executable of a plugin, None where no directory has it."""
    if "/" in name:
        return None
    candidates = (f"{directory}/{name}" for directory in path)
    return next((each for each in candidates if os.path.isfile(each)), None)


def environment(command: str, path: tuple[str, ...]) -> dict[str, str]:
    """The environment of a call that is about no endpoint."""
    own = {name: os.environ[name] for name in _HANDED_DOWN if name in os.environ}
    return {"PATH": os.defpath, **own, "CNI_COMMAND": command, "CNI_PATH": ":".join(path)}


@dataclass(frozen=True)
class Attachment:
    """What a runtime says with each call about one endpoint.

    `args` are the pairs of CNI_ARGS; `capabilities` what runtimeConfig is made of.
    """

    key: EndpointKey
    netns: str
    args: tuple[tuple[str, str], ...] = ()
    capabilities: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cached:
    """An attachment as the runtime that made it wrote it down."""

    network: Conflist
    attachment: Attachment
    result: dict[str, Any]


def add(network: Conflist, attachment: Attachment, path: tuple[str, ...]) -> dict[str, Any]:
    """Run ADD of each plugin in turn; the last one's result, which is cached.

    What a failure leaves behind is deleted by every plugin before it is passed on.
    """
    result: dict[str, Any] | None = None
    try:
        for plugin in network.plugins:
            output = _run("ADD", network, plugin, attachment, result, path)
            result = json.loads(output)
    except (Error, Failure, ValueError, RecursionError) as error:
        _undo(network, attachment, path)
        if isinstance(error, (ValueError, RecursionError)):
            raise Failure(f"a plugin of network {network.name} answered ADD with no JSON") from None
        raise
    assert result is not None
    _save(network, attachment, result)
    return result


def delete(network: Conflist, attachment: Attachment, path: tuple[str, ...]) -> None:
    """Run DEL of each plugin, the last one first, with the cached result; forget that."""
    cached = load(network.name, attachment.key)
    previous = None
    if cached is not None:
        network, attachment, previous = cached.network, cached.attachment, cached.result
    for plugin in reversed(network.plugins):
        _run("DEL", network, plugin, attachment, previous, path)
    files.remove(str(_file(network.name, attachment.key)))


def cached_of(network: str) -> list[Cached]:
    """The cached attachments of a network, by whichever runtime; damaged ones are left out."""
    try:
        paths = sorted(CACHE.glob(f"{network}-*"))
    except OSError:
        return []
    found = (_read(path) for path in paths)
    return [each for each in found if each is not None and each.network.name == network]


def load(network: str, key: EndpointKey) -> Cached | None:
    """The cached attachment of an endpoint."""
    return _read(_file(network, key))


def error_of(output: bytes, otherwise: str) -> Failure:
    """The failure in the error object that a plugin printed."""
    try:
        document = json.loads(output)
        return Failure(str(document["msg"]), advice=str(document.get("details") or ""))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Failure(otherwise, advice=output[:400].decode("utf-8", "replace").strip())


def _run(
    command: str,
    network: Conflist,
    plugin: dict[str, Any],
    attachment: Attachment,
    previous: dict[str, Any] | None,
    path: tuple[str, ...],
) -> bytes:
    """The output of one plugin. Raises Failure with its error."""
    executable = find_executable(plugin["type"], path)
    if executable is None:
        raise Failure(
            f'failed to find plugin "{plugin["type"]}" in {":".join(path)}',
            advice="say where it is with --cni-path",
            code=NOT_FOUND,
        )
    config = {**plugin, "name": network.name, "cniVersion": network.version}
    capabilities = plugin.get("capabilities") or {}
    runtime = {
        name: value
        for name, value in attachment.capabilities.items()
        if capabilities.get(name) is True
    }
    if runtime:
        config["runtimeConfig"] = runtime
    if previous is not None:
        config["prevResult"] = previous
    variables = environment(command, path) | {
        "CNI_CONTAINERID": attachment.key.container_id,
        "CNI_NETNS": attachment.netns,
        "CNI_IFNAME": attachment.key.ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in attachment.args),
    }
    code, output = delegate.run(executable, variables, json.dumps(config).encode())
    if code:
        raise error_of(output, f"{executable} failed at {command} with status {code}")
    return output


def _undo(network: Conflist, attachment: Attachment, path: tuple[str, ...]) -> None:
    for plugin in reversed(network.plugins):
        try:
            _run("DEL", network, plugin, attachment, None, path)
        except (Error, Failure):
            pass  # what failed first says more


def _file(network: str, key: EndpointKey) -> Path:
    return CACHE / f"{network}-{key.container_id}-{key.ifname}"


def _save(network: Conflist, attachment: Attachment, result: dict[str, Any]) -> None:
    document = {
        "kind": _KIND,
        "containerId": attachment.key.container_id,
        "config": base64.b64encode(json.dumps(network.document).encode()).decode(),
        "ifName": attachment.key.ifname,
        "networkName": network.name,
        "netns": attachment.netns,
        "cniArgs": list(attachment.args),
        "capabilityArgs": attachment.capabilities,
        "result": result,
    }
    kept = {key: value for key, value in document.items() if value not in ([], {}, "")}
    files.make_directories(str(CACHE))
    files.replace(str(_file(network.name, attachment.key)), json.dumps(kept))


def _read(path: Path) -> Cached | None:
    """A cached attachment; None where there is none, or one that makes no sense."""
    if not path.is_file():
        return None  # a FIFO above all, which would be waited for
    try:
        document = json.loads(path.read_bytes())
        if document["kind"] != _KIND:
            return None
        config = json.loads(base64.b64decode(document["config"]))
        result = document.get("result") or {}
        return Cached(
            parse(path, {"name": document["networkName"], **config}),
            Attachment(
                EndpointKey(str(document["containerId"]), str(document["ifName"])),
                str(document.get("netns") or _sandbox_in(result)),
                tuple((str(key), str(value)) for key, value in document.get("cniArgs") or ()),
                dict(document.get("capabilityArgs") or {}),
            ),
            dict(result),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return None


def _sandbox_in(result: dict[str, Any]) -> str:
    """The sandbox's path as a result has it; libcni before 1.3 wrote it nowhere else."""
    interfaces = result.get("interfaces") or ()
    return next((str(each["sandbox"]) for each in interfaces if each.get("sandbox")), "")
