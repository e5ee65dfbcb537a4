"""The first Python code of every executable: it is the plugin by whose name it was called.

Modules are made here from bundles, in the order in which they need each other (static.py
finds it out by importing them), instead of by the import system: that takes 60
microseconds a module, a fifth of a whole ADD. Whatever is in no bundle is imported as usual.
"""

import sys
from _imp import get_frozen_object
from posix import _exit, write

from _cnm import called_as

Module = type(sys)


def constant(module: str, name: str) -> tuple:
    """The constant that a frozen module assigns."""
    names = {}
    exec(get_frozen_object(module), names)
    return names[name]


def load(bundle: str) -> None:
    """Make the modules of a bundle, each of which finds those before it."""
    for name, is_package, code in constant(f"cnm_bundle.{bundle}", "MODULES"):
        module = sys.modules[name] = Module(name)
        if is_package:
            module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        exec(code, module.__dict__)


def main() -> None:
    """Run the plugin that the program's name asks for."""
    name = called_as.rpartition("/")[2]
    executables = dict(constant("cnm_executables", "EXECUTABLES"))
    if name not in executables:
        known = ", ".join(executables)
        write(
            2,
            f"{name}: is no plugin; call this file by one of {known}\n".encode("utf-8", "replace"),
        )
        _exit(2)
    entry = f"plugins.{executables[name]}"
    load("main")

    def make() -> object:
        load(entry)
        return sys.modules[entry].plugin()

    sys.modules["cnm_core.cni.main"].run(name, make)


main()
