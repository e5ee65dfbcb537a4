"""The last step of the build: PyInstaller's analysis becomes one static executable.

PyInstaller finds the modules; instead of its archive, bootloader and shared libraries
they are frozen into a C table and linked with the distribution's libpython. The result
starts twice as fast as the one-dir form, needs no file beside it, and no libc on the host.
"""

import ast
import marshal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import CodeType

PACKAGES = ("cnm_core", "plugins")
# What the interpreter imports when text is in a form that its own C code does not know.
ENCODINGS = ("codecs", "encodings", "encodings.aliases", "encodings.utf_8")
# Compiled into the runtime by main.c.
OUR_BUILTIN = "_cnm"


def build(
    modules: dict[str, Path],
    bundles: dict[str, tuple[str, ...]],
    executables: dict[str, str],
    work: Path,
    target: Path,
) -> None:
    """Freeze the modules (name to source) and link the executable `target` in `work`.

    `bundles` are the lists of modules that are loaded together, as `orders` gives them:
    those without a source are compiled into the interpreter.
    """
    codes = {name: _compile(f"{name.replace('.', '/')}.py", path) for name, path in modules.items()}
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    for bundle, names in bundles.items():
        members = tuple((name, name in packages, codes.get(name)) for name in names)
        codes[f"cnm_bundle.{bundle}"] = _constant("MODULES", members)
    codes["cnm_executables"] = _constant("EXECUTABLES", tuple(executables.items()))
    table = work / "modules.c"
    table.write_text(_table(codes, packages))
    config = Path(sysconfig.get_config_var("LIBPL"))
    library = config / sysconfig.get_config_var("LIBRARY")
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-static", "-no-pie", "-s", "-o", str(target)]
    command += [f"-I{sysconfig.get_path('include')}"]
    here = Path(__file__).parent
    command += [str(here / "main.c"), str(here / "frozen.c"), str(table), str(library)]
    command += ["-lexpat", "-lz", "-lm"]
    command += [str(here / "tls.c"), str(here / "x25519.c"), "-lssl", "-lcrypto"]
    # Of which libraries it is made: build/sbom.py reads it.
    command += [f"-Wl,-Map,{work / 'linked.map'}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    # The linker's warnings are about getaddrinfo and dlopen, which a plugin never calls.
    if done.returncode:
        raise SystemExit(done.stderr)


def standard_modules() -> dict[str, Path]:
    """The modules of the standard library that the interpreter may ask for."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = {name: library.joinpath(*name.split(".")) for name in ENCODINGS}
    return {
        name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for name, path in sources.items()
    }


def orders(root: Path, executables: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """The modules to load for each entry module, and for every start under "main"."""
    entries = sorted({f"plugins.{module}" for module in executables.values()})
    found = {"main": (OUR_BUILTIN, *_order_of(root, "import cnm_core.cni.main"))}
    for entry in entries:
        needed = _order_of(root, f"import {entry} as entry; entry.plugin()")
        found[entry] = tuple(name for name in needed if name not in found["main"])
    return found


def _order_of(root: Path, statement: str) -> tuple[str, ...]:
    """Our modules that a statement imports, each after those that it needs, built-in ones too.

    A real import in a bare interpreter, whose -X importtime names each module when its
    body has run.
    """
    code = f"import sys; sys.path.insert(0, {str(root)!r}); {statement}"
    command = [sys.executable, "-I", "-S", "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    order: dict[str, None] = {}
    for name in names:
        if name.partition(".")[0] in PACKAGES:
            order |= dict.fromkeys(_built_in(root.joinpath(*name.split("."))))
            order[name] = None
    return tuple(order)


def _built_in(module: Path) -> list[str]:
    """The modules compiled into the interpreter that a module of ours imports at once."""
    source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    body = ast.parse(source.read_bytes()).body
    names = [each.module for each in body if isinstance(each, ast.ImportFrom)]
    return [name for name in names if name in sys.builtin_module_names and name != "sys"]


class _WithoutAnnotations(ast.NodeTransformer):
    """Takes away what only a type checker reads, and a start would evaluate each time."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        arguments = node.args
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            each.annotation = None
        for some in (arguments.vararg, arguments.kwarg):
            if some is not None:
                some.annotation = None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = ast.Constant(None)  # a record's field still needs its name
        return node


def _compile(file: str, path: Path) -> CodeType:
    tree = ast.fix_missing_locations(_WithoutAnnotations().visit(ast.parse(path.read_bytes())))
    return compile(tree, file, "exec", dont_inherit=True, optimize=2)


def _constant(name: str, value: tuple[object, ...]) -> CodeType:
    """The code of a module whose only line assigns a constant, which may hold code.

    Modules in one constant share their strings, so that they load a third faster.
    """
    code = compile(f"{name} = 0", f"{name}.py", "exec", dont_inherit=True)
    return code.replace(co_consts=(value, *code.co_consts[1:]))


def _table(codes: dict[str, CodeType], packages: set[str]) -> str:
    arrays, rows = [], []
    for number, (name, code) in enumerate(sorted(codes.items())):
        data = marshal.dumps(code)
        is_package = int(name in packages)
        arrays.append(f"static const unsigned char m{number}[] = {{{','.join(map(str, data))}}};")
        rows.append(f'    {{"{name}", m{number}, {len(data)}, {is_package}, NULL}},')
    return "\n".join(
        [
            "#include <Python.h>",
            *arrays,
            "const struct _frozen cnm_modules[] = {",
            *rows,
            "    {NULL, NULL, 0, 0, NULL},",
            "};",
            "",
        ]
    )
