/*
 * In place of libpython's frozen.o and deepfreeze.o, which the linker then leaves out: the
 * frozen modules are ours and no others.
 *
 * CPython 3.11 has two dozen modules of its standard library as static objects, 880 kB of
 * writable data of which it interns every string at start (_PyStaticCode_InternStrings,
 * Python/deepfreeze/deepfreeze.c). Of them a plugin needs none: a tenth of the start less.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern const struct _frozen cnm_modules[];

static const struct _frozen none[] = {{NULL, NULL, 0, 0, NULL}};

/* As Include/internal/pycore_import.h declares them. */
struct _module_alias {
    const char *name;
    const char *orig;
};
static const struct _module_alias no_aliases[] = {{NULL, NULL}};

const struct _frozen *_PyImport_FrozenBootstrap = cnm_modules;
const struct _frozen *_PyImport_FrozenStdlib = none;
const struct _frozen *_PyImport_FrozenTest = none;
const struct _frozen *PyImport_FrozenModules = NULL;
const struct _module_alias *_PyImport_FrozenAliases = no_aliases;

int _Py_Deepfreeze_Init(void)
{
    return 0;
}

void _Py_Deepfreeze_Fini(void)
{
}
