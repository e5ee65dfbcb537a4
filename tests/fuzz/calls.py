"""Calls of plugins through `cnm_core.cni.main.run`, in this process: input in, answer out."""

import importlib
import json
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import cnm_core.errors
import plugins
from cnm_core.cni import delegate, invocation, main
from cnm_core.errors import Error
from tests.fuzz import sandbox

_DEFECT = Error.code
KNOWN = {each.code for each in vars(cnm_core.errors).values() if isinstance(each, type)} - {_DEFECT}


class Defect(Exception):
    """An answer that no runtime should ever get."""


class _Exit(BaseException):
    """In place of the process's end."""


def serve(name: str, environment: Mapping[bytes, bytes], stdin: bytes) -> dict[str, Any] | None:
    """What the executable answers: its error object, or None for success. Raises Defect."""
    output = b""
    codes = []
    rest = stdin

    def read(_: int, size: int) -> bytes:
        nonlocal rest
        part, rest = rest[:size], rest[size:]
        return part

    def write(fd: int, data: bytes) -> int:
        nonlocal output
        output += data if fd == 1 else b""
        return len(data)

    def leave(code: int) -> NoReturn:
        codes.append(code)
        raise _Exit

    module = importlib.import_module(f"plugins.{plugins.EXECUTABLES[name]}")
    main.environ, main.write, main._exit = dict(environment), write, leave
    invocation.read, invocation.write = read, write
    delegate.run = _delegate
    try:
        main.run(name, module.plugin)
    except _Exit:
        pass
    return _checked(codes[0], output)


def _delegate(path: str, environment: Mapping[str, str], text: bytes) -> tuple[int, bytes]:
    """In place of a program of CNI_PATH: what is run is the configuration's to say."""
    for key, value in environment.items():
        os.fsencode(key), os.fsencode(value)
    return 0, text


def _checked(code: int, output: bytes) -> dict[str, Any] | None:
    document = json.loads(output, parse_constant=_refuse) if output else None
    if document is not None and not isinstance(document, dict):
        raise Defect(f"the answer is no object: {output[:400]!r}")
    if code == 0:
        return None
    if document is None or document.get("code") not in KNOWN or not document.get("msg"):
        raise Defect(f"no error object with a known code and a message: {output[:800]!r}")
    return document


def _refuse(constant: str) -> NoReturn:
    raise Defect(f"{constant} is no JSON")


def environment(command: str, **changes: str) -> dict[bytes, bytes]:
    """The variables of a call about the sandbox."""
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": sandbox.SANDBOX,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    return {key.encode(): value.encode() for key, value in (variables | changes).items()}


def succeed(name: str, command: str, config: object) -> None:
    """Serve a call that must succeed."""
    error = serve(name, environment(command), json.dumps(config).encode())
    if error is not None:
        raise Defect(f"{name} {command} failed: {error}")
