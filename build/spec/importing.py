"""The import system of every executable, in place of CPython's importlib.

The interpreter's C code finds it as _frozen_importlib and calls what has a leading
underscore here (import_find_and_load and PyImport_ImportModuleLevelObject, Python/import.c).
There are only modules that are compiled into the executable or frozen into it, so that this
is all there is to do; importlib's own start and sixty microseconds a module are saved.
"""

import sys

Namespace = type(sys.implementation)
# Each import asks a __spec__ whether its module is still being made.
MADE = Namespace(_initializing=False)


def _install(_, imp):
    """Take the module that makes modules, which comes after this one."""
    global _imp
    _imp = imp
    sys.modules["_imp"] = imp


def _find_and_load(name, import_):
    """Make a module that is not in sys.modules. Raises ModuleNotFoundError."""
    parent = name.rpartition(".")[0]
    if parent:
        import_(parent)
    if name in sys.modules:
        return sys.modules[name]
    if _imp.is_builtin(name):
        return built_in(name)
    if not _imp.is_frozen(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return frozen(name, _imp.is_frozen_package(name), _imp.get_frozen_object(name))


def _handle_fromlist(package, names, import_):
    """Import those of the names that are modules of the package and not there yet."""
    for name in names:
        full = f"{package.__name__}.{name}"
        if not hasattr(package, name) and _imp.is_frozen(full):
            import_(full)
    return package


def built_in(name):
    """Make a module that is compiled into the executable."""
    module = sys.modules[name] = _imp.create_builtin(Namespace(name=name))
    _imp.exec_builtin(module)
    module.__spec__ = MADE
    return module


def frozen(name, is_package, code):
    """Make a module of its code.

    It is a plain namespace: every `from MODULE import NAME` asks the module for a __path__
    (import_name in ceval.c), and a real module without one formats an error first.
    """
    parent, _, child = name.rpartition(".")
    package = name if is_package else parent
    spec = Namespace(_initializing=False, parent=package)
    module = sys.modules[name] = Namespace(__name__=name, __package__=package, __spec__=spec)
    if is_package:
        module.__path__ = []
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    if parent:
        setattr(sys.modules[parent], child, module)
    return module
