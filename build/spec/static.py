"""The last step of the build: PyInstaller's analysis becomes one static executable.

PyInstaller finds the modules; instead of its archive, bootloader and shared libraries
they are frozen into a C table and linked with the distribution's libpython. The result
starts twice as fast as the one-dir form, needs no file beside it, and no libc on the host.
"""

import marshal
import subprocess
import sysconfig
from pathlib import Path

# What the interpreter itself imports before our first line, and has not frozen already.
ENCODINGS = ("encodings", "encodings.aliases", "encodings.utf_8")


def build(modules: dict[str, Path], work: Path, target: Path) -> None:
    """Freeze the modules (name to source) and link the executable `target` in `work`."""
    table = work / "modules.c"
    table.write_text(_table(modules))
    config = Path(sysconfig.get_config_var("LIBPL"))
    library = config / sysconfig.get_config_var("LIBRARY")
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-static", "-no-pie", "-s", "-o", str(target)]
    command += [f"-I{sysconfig.get_path('include')}"]
    command += [str(Path(__file__).parent / "main.c"), str(table), str(library)]
    command += ["-lexpat", "-lz", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    # The linker's warnings are about getaddrinfo and dlopen, which a plugin never calls.
    if done.returncode:
        raise SystemExit(done.stderr)


def standard_modules() -> dict[str, Path]:
    """The modules of the standard library that every start needs."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = {name: library.joinpath(*name.split(".")) for name in ENCODINGS}
    return {
        name: path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for name, path in sources.items()
    }


def _table(modules: dict[str, Path]) -> str:
    arrays, rows = [], []
    for number, (name, path) in enumerate(sorted(modules.items())):
        place = f"{name.replace('.', '/')}.py"
        code = compile(path.read_bytes(), place, "exec", dont_inherit=True, optimize=2)
        data = marshal.dumps(code)
        is_package = int(path.name == "__init__.py")
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
