"""The twin of a SharedPool, for comparison: the same books in shared memory and the same duties, in C, behind a lock.

What it shares with the engine of SharedPool: a slot's word with its state, its owner and a number that no other lease has; a
gate with the spares and who waits; targets that are looked at; indices that are compared before they are used; a handle that
is a buffer and is dead after free. What differs: a transaction holds a lock, which names its holder, so that another process
can take it away from one that has died; and writes a journal first, which that process then carries out.

A good lock: it is taken by one instruction, tried again for a while, and only then slept on. It is compiled when it is asked
for, by the C compiler that Python was made for or by another one; where there is none, there is no twin.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

SOURCE = r"""
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

enum { SPARE = 2, LEASED = 3, NO_SLOT = 0xFFFFFF, GATE = -1, ENTRIES = 24, SPINS = 200 };
#define WAITED_FOR ((uint64_t)1 << 63)

typedef struct { uint64_t value, lease; } word;
typedef struct {
    uint64_t gate;  /* first spare:24 | spares:24 | waiting:15 | closed:1 */
    uint64_t reserve, keep, limit, made, slots, size;
    _Alignas(64) uint64_t lock;  /* 0, or the process that holds it, and whether others sleep */
    uint32_t released;
    _Alignas(64) uint64_t count;
    struct { int64_t slot; uint64_t value; } entry[ENTRIES];
    _Alignas(64) word slot[];
} books;

static uint64_t first_of(uint64_t gate) { return gate & 0xFFFFFF; }
static uint64_t spares_of(uint64_t gate) { return gate >> 24 & 0xFFFFFF; }
static uint64_t make_slot(uint64_t state, uint64_t client, uint64_t next) { return state | client << 4 | next << 36; }
static long futex(uint32_t *at, int what, uint32_t value, struct timespec *time) {
    return syscall(SYS_futex, at, what, value, time, 0, 0);
}

/* Carry the journal out. Its count is its commit: whoever takes the lock from the dead does it once more. */
static inline void carry_out(books *b) {
    for (uint64_t i = 0; i < b->count && i < ENTRIES; i++) {
        if (b->entry[i].slot == GATE) {
            __atomic_store_n(&b->gate, b->entry[i].value, __ATOMIC_RELEASE);
        } else {
            __atomic_store_n(&b->slot[b->entry[i].slot].value, b->entry[i].value, __ATOMIC_RELEASE);
            b->slot[b->entry[i].slot].lease++;
        }
    }
    __atomic_store_n(&b->count, 0, __ATOMIC_RELEASE);
}

static __attribute__((noinline)) void wait_for(books *b, uint64_t me) {
    for (int turn = 0;;) {
        uint64_t held = __atomic_load_n(&b->lock, __ATOMIC_ACQUIRE);
        if (held == 0) {
            uint64_t mine = me | (turn > SPINS ? WAITED_FOR : 0);
            if (__atomic_compare_exchange_n(&b->lock, &held, mine, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                return;
        } else if (++turn <= SPINS) {
            __builtin_ia32_pause();
        } else {
            uint32_t said = __atomic_load_n(&b->released, __ATOMIC_ACQUIRE);
            struct timespec time = {0, 20000000};
            if (!(held & WAITED_FOR) &&
                !__atomic_compare_exchange_n(&b->lock, &held, held | WAITED_FOR, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                continue;
            held |= WAITED_FOR;
            if (__atomic_load_n(&b->lock, __ATOMIC_ACQUIRE) != held)
                continue;
            if (futex(&b->released, FUTEX_WAIT, said, &time) == 0 || errno != ETIMEDOUT)
                continue;
            if (kill((pid_t)(held & ~WAITED_FOR), 0) != 0 && errno == ESRCH &&
                __atomic_compare_exchange_n(&b->lock, &held, me | WAITED_FOR, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
                carry_out(b);
                return;
            }
        }
    }
}

static inline void begin(books *b, uint64_t me) {
    uint64_t nobody = 0;
    if (!__atomic_compare_exchange_n(&b->lock, &nobody, me, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        wait_for(b, me);
}

static inline int end(books *b, int outcome) {
    if (__atomic_exchange_n(&b->lock, 0, __ATOMIC_SEQ_CST) & WAITED_FOR) {
        __atomic_fetch_add(&b->released, 1, __ATOMIC_SEQ_CST);
        futex(&b->released, FUTEX_WAKE, 1, 0);
    }
    return outcome;
}

static inline void commit(books *b, uint64_t slot, uint64_t value, uint64_t gate) {
    b->entry[0].slot = (int64_t)slot;
    b->entry[0].value = value;
    b->entry[1].slot = GATE;
    b->entry[1].value = gate;
    __atomic_store_n(&b->count, 2, __ATOMIC_RELEASE);
    carry_out(b);
}

static int take(books *b, uint64_t me, uint64_t *slot, uint64_t *lease) {
    begin(b, me);
    uint64_t gate = b->gate, first = first_of(gate), spares = spares_of(gate);
    if (gate >> 48 || spares == 0 || (spares <= b->reserve && b->made < b->limit) || first >= b->slots)
        return end(b, 0);
    uint64_t value = b->slot[first].value, next = value >> 36;
    if ((value & 15) != SPARE || (next == NO_SLOT) != (spares == 1))
        return end(b, 0);
    commit(b, first, make_slot(LEASED, me, NO_SLOT), next | (spares - 1) << 24 | gate >> 48 << 48);
    *slot = first;
    *lease = b->slot[first].lease;
    return end(b, 1);
}

static int give(books *b, uint64_t me, uint64_t slot, uint64_t lease) {
    begin(b, me);
    uint64_t gate = b->gate, spares = spares_of(gate);
    if (slot >= b->slots || b->slot[slot].value != make_slot(LEASED, me, NO_SLOT) || b->slot[slot].lease != lease)
        return end(b, 0);
    if (gate >> 48 || (spares >= b->reserve && (spares >= b->keep || b->made > b->limit)))
        return end(b, 0);
    commit(b, slot, make_slot(SPARE, 0, first_of(gate)), slot | (spares + 1) << 24);
    return end(b, 1);
}

typedef struct { PyObject_HEAD Py_buffer view; books *books; uint64_t me; } twin;
typedef struct { PyObject_HEAD twin *of; uint64_t slot, lease; Py_ssize_t exports; int is_live; } handle;
static PyTypeObject Twin, Handle;
static handle *ended[64];
static int ended_count;

static PyObject *alloc(twin *self, PyObject *unused) {
    handle *made = ended_count ? ended[--ended_count] : PyObject_New(handle, &Handle);
    if (made == NULL)
        return NULL;
    if (Py_REFCNT(made) == 0)
        _Py_NewReference((PyObject *)made);
    made->of = (twin *)Py_NewRef(self);
    made->exports = made->is_live = 0;
    if (!take(self->books, self->me, &made->slot, &made->lease)) {
        Py_DECREF(made);
        Py_RETURN_NONE;
    }
    made->is_live = 1;
    return (PyObject *)made;
}

static PyObject *give_back(twin *self, PyObject *element) {
    handle *held = (handle *)element;
    if (Py_TYPE(element) != &Handle || held->of != self || !held->is_live || held->exports ||
        !give(self->books, self->me, held->slot, held->lease)) {
        PyErr_SetString(PyExc_ValueError, "not out, or viewed");
        return NULL;
    }
    held->is_live = 0;
    Py_RETURN_NONE;
}

static void end_handle(handle *self) {
    if (self->is_live)
        give(self->of->books, self->of->me, self->slot, self->lease);
    Py_DECREF(self->of);
    if (ended_count < 64)
        ended[ended_count++] = self;
    else
        PyObject_Free(self);
}

static int look(handle *self, Py_buffer *view, int flags) {
    if (!self->is_live) {
        PyErr_SetString(PyExc_ValueError, "freed");
        return -1;
    }
    books *b = self->of->books;
    char *data = (char *)&b->slot[b->slots] + self->slot * b->size;
    if (PyBuffer_FillInfo(view, (PyObject *)self, data, (Py_ssize_t)b->size, 0, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}
static void look_no_more(handle *self, Py_buffer *view) { self->exports--; }

static PyObject *new_twin(PyTypeObject *type, PyObject *arguments, PyObject *names) {
    PyObject *memory;
    unsigned long long slots, made, size;
    if (!PyArg_ParseTuple(arguments, "OKKK", &memory, &slots, &made, &size))
        return NULL;
    twin *self = (twin *)type->tp_alloc(type, 0);
    if (self == NULL || PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0)
        return NULL;
    uint64_t begin = ((uint64_t)self->view.buf + 63) & ~(uint64_t)63;
    books *b = self->books = (books *)begin;
    self->me = (uint64_t)getpid();
    if (begin + sizeof(books) + slots * (sizeof(word) + size) > (uint64_t)self->view.buf + (uint64_t)self->view.len) {
        PyErr_SetString(PyExc_ValueError, "too little memory");
        return NULL;
    }
    if (b->slots == 0) {
        for (uint64_t i = 0; i < made; i++)
            b->slot[i].value = make_slot(SPARE, 0, i + 1 < made ? i + 1 : NO_SLOT);
        b->gate = made << 24;
        b->reserve = made / 2;
        b->keep = b->limit = b->made = made;
        b->size = size;
        b->slots = slots;
    }
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"alloc", (PyCFunction)alloc, METH_NOARGS, 0}, {"free", (PyCFunction)give_back, METH_O, 0}, {0}};
static PyBufferProcs looks = {(getbufferproc)look, (releasebufferproc)look_no_more};
static PyTypeObject Handle = {
    PyVarObject_HEAD_INIT(0, 0).tp_name = "Handle", .tp_basicsize = sizeof(handle), .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)end_handle, .tp_as_buffer = &looks};
static PyTypeObject Twin = {
    PyVarObject_HEAD_INIT(0, 0).tp_name = "Twin", .tp_basicsize = sizeof(twin), .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = new_twin, .tp_methods = methods};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "mempool_twin", 0, -1, 0};
PyMODINIT_FUNC PyInit_mempool_twin(void) {
    if (PyType_Ready(&Handle) < 0 || PyType_Ready(&Twin) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddObjectRef(module, "Twin", (PyObject *)&Twin) < 0)
        return NULL;
    return module;
}
"""


class Twin:
    """Where the twin's memory is; `opened` is the twin in the process that calls. Can be sent to a process that begins."""

    def __init__(self, folder: Path, slots: int, made: int, size: int) -> None:
        """folder: where it is compiled, until its user removes it. Raises ImportError where there is no C compiler."""
        self.binary: Path = _compiled(folder)
        self.sizes: tuple[int, int, int] = (slots, made, size)
        self.memory: Any = multiprocessing.get_context("spawn").RawArray("b", 4096 + slots * (16 + size))
        self.opened()  # who comes first lays it out

    def opened(self) -> Any:
        """With `alloc`, which gives None where nothing is to be had, and `free`."""
        loader = importlib.machinery.ExtensionFileLoader("mempool_twin", str(self.binary))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mempool_twin", loader))  # type: ignore[arg-type]
        loader.exec_module(module)
        return module.Twin(self.memory, *self.sizes)


def _compiled(folder: Path) -> Path:
    command = [*shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")]
    found = next((c for c in (command, ["cc"], ["gcc"], ["clang"]) if shutil.which(c[0])), None)
    if found is None:
        raise ImportError("no C compiler", name="a C compiler")
    binary = folder / "mempool_twin.so"
    if not binary.exists():
        source = folder / "mempool_twin.c"
        source.write_text(SOURCE, encoding="utf-8")
        include = sysconfig.get_paths()["include"]
        done = subprocess.run(
            [*found, "-O3", "-w", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(binary)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ImportError(f"the C compiler says: {done.stderr.strip()[-200:]}", name="a C compiler")
    return binary
