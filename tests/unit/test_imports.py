"""What plugin processes import, and which way rooms depend on each other."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnm_core
from plugins import EXECUTABLES

ROOT = Path(cnm_core.__file__).parent.parent
# The interpreter whose library the executables are linked with.
PYTHON = "/usr/bin/python3.11"

# All that plugin processes import beside our own modules: built-in and written in C.
# A longer list needs a measurement.
ALLOWED = {
    "_cnm",  # the runtime's own, which a plain interpreter lacks
    "_sha2",  # _sha256 of Python 3.12
    "_sha256",  # for networks that are encrypted by ESP
    "_socket",
    "_struct",
    "binascii",
    "errno",
    "fcntl",
    "posix",
    "select",
    "time",
}
# Rooms of the warm tier, which no executable imports.
WARM = {"agent", "cli", "schema"}
# Never imported by an executable, which has _cnm.
INSTEAD_OF_OUR_RUNTIME = {"ctypes", "ssl"}

# Each room may import from those above it in this list, and from itself.
LAYERS = (
    {"errors", "json", "phases", "record"},
    {"inet", "key_agreement", "tls"},
    {"config", "http", "model"},
    {"kernel", "store"},
    {"drivers", "ipam"},
    {"controller"},
    {"cni"},
    {"plugins"},
)
# Of a room above it, all that this room may import.
ONLY: dict[tuple[str, str], set[str]] = {
    ("controller", "drivers"): set(),
    ("cni", "kernel"): {"cnm_core.kernel.netns"},
}


def modules() -> dict[str, Path]:
    """Every module that an executable may have, by its name."""
    paths = [*ROOT.glob("cnm_core/**/*.py"), *ROOT.glob("plugins/*.py")]
    names = {path.relative_to(ROOT).with_suffix(""): path for path in sorted(paths)}
    dotted = {".".join(name.parts).removesuffix(".__init__"): names[name] for name in names}
    return {name: path for name, path in dotted.items() if room_of(name) not in WARM}


def room_of(module: str) -> str:
    """The room of a module: the part of its name below the package."""
    return module.removeprefix("cnm_core.").partition(".")[0]


def imports_of(path: Path, *, for_types: bool) -> Iterator[str]:
    """The modules that a source names in its imports, wherever they stand."""
    for node in _nodes(ast.parse(path.read_bytes()), for_types):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: relative import"
            children = [f"{node.module}.{each.name}" for each in node.names]
            found = [child for child in children if child in modules()]
            yield from found
            if len(found) < len(children):
                yield node.module


def _nodes(node: ast.AST, for_types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            inner: list[ast.AST] = [*child.orelse, *(child.body if for_types else [])]
        else:
            inner = [child]
        for each in inner:
            yield each
            yield from _nodes(each, for_types)


def imported_by(statements: str) -> set[str]:
    """What statements import in a bare interpreter, beside what that does for itself."""
    return _imported(f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statements}") - _imported("")


def _imported(code: str) -> set[str]:
    command = [PYTHON, "-I", "-S", "-B", "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


def foreign(names: set[str]) -> set[str]:
    """Those that are not ours."""
    return {name for name in names if name.partition(".")[0] not in ("cnm_core", "plugins")}


@pytest.mark.parametrize("entry", sorted(set(EXECUTABLES.values())))
def test_executable(entry: str) -> None:
    """An executable imports what is on the list, ours, and nothing of the warm tier."""
    found = imported_by(
        f"import cnm_core.cni.main; import plugins.{entry}; plugins.{entry}.plugin()"
    )
    assert f"plugins.{entry}" in found
    assert foreign(found) <= ALLOWED
    assert not {name for name in found if room_of(name) in WARM}


def test_rare_paths() -> None:
    """The same goes for what is imported where it is needed."""
    found = imported_by("; ".join(f"import {name}" for name in modules()))
    assert found >= modules().keys() - {"cnm_core", "plugins"}
    assert foreign(found) <= ALLOWED
    assert not {name for name in found if room_of(name) in WARM}


def test_list() -> None:
    """The sources name what is on the list: all of it, and nothing else."""
    named = {name for path in modules().values() for name in imports_of(path, for_types=False)}
    assert foreign(named) == ALLOWED | INSTEAD_OF_OUR_RUNTIME


@pytest.mark.parametrize("module", modules())
def test_layers(module: str) -> None:
    """Dependencies point one way, also those that only a type checker sees."""
    room = room_of(module)
    if module == "cnm_core":
        return
    (height,) = (index for index, rooms in enumerate(LAYERS) if room in rooms)
    above = set().union(*LAYERS[:height])
    for name in imports_of(modules()[module], for_types=True):
        if foreign({name}) or name == "cnm_core":
            continue
        target = room_of(name)
        assert target in {*above, room}, f"{module} imports {name}"
        assert name in ONLY.get((room, target), {name}), f"{module} imports {name}"
