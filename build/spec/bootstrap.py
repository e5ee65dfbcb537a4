"""The first Python code of every executable: it is the plugin by whose name it was called.

Modules are made from bundles, in the order in which they need each other (static.py finds
it out by importing them): in one constant they share their strings. Whatever is in no
bundle is imported when it is asked for.
"""

import sys
from _frozen_importlib import built_in, frozen
from _imp import get_frozen_object


def constant(module: str, name: str) -> tuple:
    """The constant that a frozen module assigns."""
    names = {}
    exec(get_frozen_object(module), names)
    return names[name]


def load(bundle: str) -> None:
    """Make the modules of a bundle, each of which finds those before it."""
    for name, is_package, code in constant(f"cnm_bundle.{bundle}", "MODULES"):
        if code is None:
            built_in(name)
        else:
            frozen(name, is_package, code)


def main() -> None:
    """Run the plugin that the program's name asks for."""
    load("main")
    name = sys.modules["_cnm"].called_as.rpartition("/")[2]
    executables = dict(constant("cnm_executables", "EXECUTABLES"))
    if name not in executables:
        posix, known = sys.modules["posix"], ", ".join(executables)
        text = f"{name}: is no plugin; call this file by one of {known}\n"
        posix.write(2, text.encode("utf-8", "replace"))
        posix._exit(2)
    entry = f"plugins.{executables[name]}"

    def make() -> object:
        load(entry)
        return sys.modules[entry].plugin()

    sys.modules["cnm_core.cni.main"].run(name, make)


main()
