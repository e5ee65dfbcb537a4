/*
 * The runtime of every executable: CPython, its modules frozen into the file, nothing beside it.
 *
 * cnm_modules is the table that build/spec/static.py generates from PyInstaller's analysis.
 * bootstrap.py picks the plugin by the name that the executable was called by.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

extern char __data_start, _edata;
extern PyObject *cnm_tls_new(PyObject *self, PyObject *args);
extern PyObject *cnm_tls_pump(PyObject *self, PyObject *args);
extern PyObject *cnm_x25519(PyObject *self, PyObject *args);

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static PyObject *cnm_setns(PyObject *self, PyObject *args)
{
    int fd, nstype;

    (void)self;
    if (!PyArg_ParseTuple(args, "ii", &fd, &nstype))
        return NULL;
    if (setns(fd, nstype))
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef cnm_methods[] = {
    {"setns", cnm_setns, METH_VARARGS, "setns(2), which posix has from Python 3.12 on."},
    {"tls_new", cnm_tls_new, METH_VARARGS, "A TLS connection, to be pumped."},
    {"tls_pump", cnm_tls_pump, METH_VARARGS, "Take bytes off the wire and put others on it."},
    {"x25519", cnm_x25519, METH_VARARGS, "The secret of a private and a public key."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef cnm_module = {
    PyModuleDef_HEAD_INIT, "_cnm", "What the interpreter lacks.", 0, cnm_methods,
    NULL, NULL, NULL, NULL,
};

static const char *called_as = "";

static PyObject *cnm_init(void)
{
    PyObject *module = PyModule_Create(&cnm_module);

    if (module && PyModule_AddObject(module, "called_as", PyUnicode_DecodeFSDefault(called_as)))
        return NULL;
    return module;
}

/*
 * CPython's start touches nearly every page of its writable data. One call maps them all,
 * where each would be a fault of its own: half a millisecond of five. It is a hint (Linux
 * 5.14), so that failing is fine.
 */
static void populate_data(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)&__data_start & ~(page - 1);

    madvise((void *)first, (uintptr_t)&_edata - first, MADV_POPULATE_WRITE);
}

static void fail_if(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

/*
 * CPython's core and no more ("Multi-Phase Initialization" of its C API): built-in and
 * frozen modules import, and text is UTF-8. What the second phase would add, a plugin never
 * asks for and would pay a millisecond for: sys.stdout and its codecs, imports from files, sys.argv.
 */
int main(int argc, char **argv)
{
    PyPreConfig before;
    PyConfig config;

    populate_data();
    /* A write that fails is an error to answer, not an end without a word. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (argc > 0)
        called_as = argv[0];
    if (PyImport_AppendInittab("_cnm", cnm_init))
        return 255;

    /*
     * A process of some milliseconds has no garbage worth looking for, its start least of all:
     * PyGC_Disable would come after that.
     */
    _PyRuntime._main_interpreter.gc.enabled = 0;

    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    before.configure_locale = 0;
    fail_if(Py_PreInitialize(&before));

    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.write_bytecode = 0;
    config.optimization_level = 2;
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    config._init_main = 0;
    /* No search path: a module that is not frozen does not exist. */
    config.module_search_paths_set = 1;
    fail_if(PyConfig_SetString(&config, &config.executable, L""));
    fail_if(PyConfig_SetString(&config, &config.base_executable, L""));
    fail_if(PyConfig_SetString(&config, &config.prefix, L""));
    fail_if(PyConfig_SetString(&config, &config.base_prefix, L""));
    fail_if(PyConfig_SetString(&config, &config.exec_prefix, L""));
    fail_if(PyConfig_SetString(&config, &config.base_exec_prefix, L""));
    fail_if(PyConfig_SetString(&config, &config.stdlib_dir, L""));
    fail_if(Py_InitializeFromConfig(&config));

    if (PyImport_ImportModule("cnm_bootstrap") == NULL)
        fputs("cnm: the runtime is damaged: it cannot load its own modules\n", stderr);
    return 255;
}
