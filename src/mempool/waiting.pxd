# cython: language_level=3

from mempool._core.fast_path cimport FastPath, Quick
from mempool._core.mutex cimport WITHOUT_GIL
from mempool._core.queueing cimport NOT_COUNTED, Queueing
from mempool._core.transfer cimport Ticket

cdef extern from "Python.h":
    ctypedef struct PyObject
    void Py_INCREF(object)
    int PyIter_Send(object iterator, object value, PyObject **result) except -1

cdef extern from *:
    """
    #ifdef __linux__
    #include <time.h>
    /* What time.monotonic says there, without an object. */
    static inline double mempool_seconds(void) {
        struct timespec now;
        return clock_gettime(CLOCK_MONOTONIC, &now) == 0 ? (double)now.tv_sec + 1e-9 * (double)now.tv_nsec : -1.0;
    }
    #else
    static inline double mempool_seconds(void) { return -1.0; }
    #endif
    """
    double mempool_seconds() noexcept

cdef double seconds_of(now) except? -1

cdef extern from *:
    """
    /* Before CPython 3.12 asyncio._get_running_loop asks the system for the process id each time, so that a forked child
       has no running loop. The loop itself lies in a holder in the thread's dict, beside the id of the process that put it
       there. Here, a holder's type is trusted once it was seen to hold what asyncio says, and libc tells of each fork. */
    #if !defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x030C0000 && (defined(__linux__) || defined(__APPLE__))
    #include <pthread.h>
    #include <unistd.h>
    typedef struct {
        PyObject ob_base;
        PyObject *loop;
        pid_t pid;
    } mempool_holder;
    static PyTypeObject *mempool_holder_type = NULL;
    static PyObject *mempool_holder_name = NULL;
    static pid_t mempool_pid = -1;
    static void mempool_note_pid(void) { mempool_pid = getpid(); }
    static inline mempool_holder *mempool_find_holder(void) {
        PyObject *of_thread = PyThreadState_GetDict();
        PyObject *holder = of_thread == NULL ? NULL : PyDict_GetItemWithError(of_thread, mempool_holder_name);
        if (holder == NULL && PyErr_Occurred())
            PyErr_Clear();
        return (mempool_holder *)holder;
    }
    static inline PyObject *mempool_known_loop(void) {
        mempool_holder *holder = mempool_holder_type == NULL ? NULL : mempool_find_holder();
        PyObject *loop = Py_None;
        if (holder != NULL && Py_IS_TYPE((PyObject *)holder, mempool_holder_type) && holder->pid == mempool_pid)
            loop = holder->loop;
        Py_INCREF(loop);
        return loop;
    }
    static inline int mempool_learn_from(PyObject *loop) {
        mempool_holder *holder;
        if (loop == Py_None || mempool_holder_type != NULL)
            return 0;
        if (mempool_holder_name == NULL) {
            mempool_holder_name = PyUnicode_InternFromString("__asyncio_running_event_loop__");
            if (mempool_holder_name == NULL)
                return -1;
            if (pthread_atfork(NULL, NULL, mempool_note_pid) == 0)
                mempool_note_pid();
        }
        holder = mempool_find_holder();
        if (mempool_pid < 0 || holder == NULL || Py_TYPE(holder)->tp_basicsize < (Py_ssize_t)sizeof(mempool_holder))
            return 0;
        if (holder->loop == loop && holder->pid == mempool_pid) {
            Py_INCREF(Py_TYPE(holder));
            mempool_holder_type = Py_TYPE(holder);
        }
        return 0;
    }
    #else
    static inline PyObject *mempool_known_loop(void) { Py_RETURN_NONE; }
    static inline int mempool_learn_from(PyObject *loop) { (void)loop; return 0; }
    #endif
    """
    object mempool_known_loop()
    int mempool_learn_from(object loop) except -1

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef object this_thread()
cdef object running_loop
cdef object current_task
cdef dict _tasks_of_loops
cdef object loop_here()
cdef object task_running_in(loop)

cdef extern from *:
    """
    /* The end of an iterator that returns something, as CPython's own generators say it. */
    static inline int mempool_stop_anew(PyObject *value) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
        if (stop == NULL)
            return -1;
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
        return 0;
    }
    #if defined(Py_GIL_DISABLED) || PY_VERSION_HEX < 0x030C0000
    static inline int mempool_stop(PyObject *value) { return mempool_stop_anew(value); }
    #else
    /* From CPython 3.12 on `await` goes by tp_iternext and not by am_send, so what it returns comes in a StopIteration, of which
       it takes the value at once. To make one costs a quarter of an uncontended `async with`. So these are used again: of a
       subclass, because the end of each life must be told. One that somebody has caught, which has a traceback, is not.
       `test_what_await_returns_is_kept_by_nothing` */
    #define MEMPOOL_STOPS_MAX 4
    static PyTypeObject mempool_stop_type = { PyVarObject_HEAD_INIT(NULL, 0) };
    static PyObject *mempool_stops[MEMPOOL_STOPS_MAX];
    static int mempool_stops_count = 0, mempool_stops_are_ready = 0;
    static inline void mempool_end_stop(PyObject *self) {
        PyStopIterationObject *stop = (PyStopIterationObject *)self;
        PyObject *value;
        int is_as_new = stop->dict == NULL && stop->notes == NULL && stop->traceback == NULL && stop->context == NULL
            && stop->cause == NULL && !stop->suppress_context && PyTuple_CheckExact(stop->args)
            && PyTuple_GET_SIZE(stop->args) == 0;
        if (!is_as_new || mempool_stops_count >= MEMPOOL_STOPS_MAX) {
            ((PyTypeObject *)PyExc_StopIteration)->tp_dealloc(self);
            return;
        }
        PyObject_GC_UnTrack(self);
        value = stop->value;
        stop->value = NULL;
        mempool_stops[mempool_stops_count++] = self;
        Py_XDECREF(value);  /* which may run anything */
    }
    /* Whoever awaits takes the value. For who drives an awaitable by hand, and looks, the arguments are made then. */
    static inline int mempool_have_args(PyObject *self) {
        PyStopIterationObject *stop = (PyStopIterationObject *)self;
        if (stop->value != NULL && PyTuple_GET_SIZE(stop->args) == 0) {
            PyObject *args = PyTuple_Pack(1, stop->value);
            if (args == NULL)
                return -1;
            Py_SETREF(stop->args, args);
        }
        return 0;
    }
    static PyObject *mempool_attribute_of_stop(PyObject *self, PyObject *name) {
        int fails = PyUnicode_CompareWithASCIIString(name, "args") == 0 && mempool_have_args(self) < 0;
        return fails ? NULL : PyObject_GenericGetAttr(self, name);
    }
    static PyObject *mempool_repr_of_stop(PyObject *self) {
        return mempool_have_args(self) < 0 ? NULL : ((PyTypeObject *)PyExc_StopIteration)->tp_repr(self);
    }
    static PyObject *mempool_str_of_stop(PyObject *self) {
        return mempool_have_args(self) < 0 ? NULL : ((PyTypeObject *)PyExc_StopIteration)->tp_str(self);
    }
    static inline int mempool_make_stops(void) {
        mempool_stop_type.tp_name = "StopIteration";
        mempool_stop_type.tp_doc = "Signal the end from iterator.__next__().";
        mempool_stop_type.tp_base = (PyTypeObject *)PyExc_StopIteration;
        mempool_stop_type.tp_basicsize = sizeof(PyStopIterationObject);
        mempool_stop_type.tp_flags = Py_TPFLAGS_DEFAULT;
        mempool_stop_type.tp_dealloc = mempool_end_stop;
        mempool_stop_type.tp_getattro = mempool_attribute_of_stop;
        mempool_stop_type.tp_repr = mempool_repr_of_stop;
        mempool_stop_type.tp_str = mempool_str_of_stop;
        mempool_stops_are_ready = PyType_Ready(&mempool_stop_type) == 0;
        return mempool_stops_are_ready ? 0 : -1;
    }
    static inline int mempool_stop(PyObject *value) {
        PyObject *stop;
        if (mempool_stops_count > 0) {
            stop = mempool_stops[--mempool_stops_count];
            _Py_NewReference(stop);
            PyObject_GC_Track(stop);
        } else {
            PyObject *nothing;
            if (!mempool_stops_are_ready && mempool_make_stops() < 0)
                return -1;
            nothing = PyTuple_New(0);
            stop = nothing == NULL ? NULL : mempool_stop_type.tp_new(&mempool_stop_type, nothing, NULL);
            Py_XDECREF(nothing);
            if (stop == NULL)
                return -1;
        }
        Py_INCREF(value);
        Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
        PyErr_SetRaisedException(stop);
        return 0;
    }
    #endif
    /* The reference that a call into C gave us. */
    static inline PyObject *mempool_own(PyObject *result) { return result; }
    static inline void mempool_set_slots(PyObject *type, PyObject *(*next)(PyObject *),
                                         int (*send)(PyObject *, PyObject *, PyObject **)) {
        ((PyTypeObject *)type)->tp_iternext = next;
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)(void (*)(void))send;
        ((PyTypeObject *)type)->tp_as_async->am_await = PyObject_SelfIter;
        PyType_Modified((PyTypeObject *)type);
    }
    """
    int stop "mempool_stop"(object value) except -1
    object own "mempool_own"(PyObject *result)
    void set_slots "mempool_set_slots"(object type, PyObject *(*next)(PyObject *) except? NULL,
                                       int (*send)(PyObject *, PyObject *, PyObject **) except? -1) noexcept

cdef object FINISHED
cdef object _plain_loop
cdef object _last_alarm
cdef object asyncio_future
cdef object usual_clock
cdef object usual_now
cdef Py_ssize_t STILL_WAITING
cdef Py_ssize_t HAS_BEEN_SERVED
cdef Py_ssize_t HAS_WITHDRAWN
cdef str DEFAULT
cdef list kinds
cdef dict loaded_modules
cdef object thread_ident
cdef double INFINITE
cdef double HAS_SETTLED
cdef double WORTH_A_LOOK
cdef double LONG_WAIT
cdef double MAY_BE_LATE

cdef class Routine

cdef class AsyncioParker(Routine)

cdef class Wait:
    cdef FastPath pool
    cdef object engine
    cdef Quick quick
    cdef Queueing queueing
    cdef Ticket own
    cdef object ticket
    cdef object place
    cdef AsyncioParker parker
    cdef object owner
    cdef object now
    cdef object errand
    cdef double deadline
    cdef double began
    cdef double made_at
    cdef double warn_at
    cdef double until
    cdef Py_ssize_t outcome
    cdef bint stands
    cdef bint may_collect
    cdef bint offload
    cpdef double step(self) except? -2
    cpdef end(self)
    cdef bint begin(self, pool, Queueing queueing, ticket, place, owner, now, double deadline, double began, bint offload) except? -1
    cdef Py_ssize_t state(self) except? -2
    cdef double poll(self, double time, begin) except? -2
    cdef bint join(self) except? -1
    cdef bint end_errand(self) except? -1

cdef class Routine:
    cdef object inner
    cdef bint has_begun
    cdef bint has_ended
    cdef object _go_on(self, sent)
    cdef object _begin_inside(self, inner)
    cdef object _outcome(self)
    cdef void _cancel(self) except *
    cdef void end(self) except *
    cdef void begin_step(self) except *
    cdef object _step(self, sent)
    cdef object _finish(self)

cdef class Alarm:
    cdef object clock
    cdef object loop
    cdef double due
    cdef dict parked
    cdef void expect(self, AsyncioParker place, double when) except *
    cdef void set(self, double when) except *

cdef class AsyncioParker(Routine):
    cdef object task
    cdef readonly bint may_be_gone
    cdef public object on_gone
    cdef readonly object now
    cdef object clock
    cdef object loop
    cdef readonly object future
    cdef object timer
    cdef Alarm alarm
    cdef double seconds
    cdef double due
    cdef bint is_woken
    cdef bint shares_timers
    cpdef wake(self)
    cpdef _rouse(self)
    cdef bint prepare(self, clock, loop) except? -1
    cdef bint lie_down(self, double seconds, double when) except? -1
    cdef bint get_up(self) except? -1

cdef class Obtaining(Routine):
    cdef FastPath pool
    cdef object ticket
    cdef object timeout
    cdef Queueing queueing
    cdef AsyncioParker place
    cdef Wait wait
    cdef bint is_done_at_once(self) except? -1
    cdef bint check_out(self) except? -1

cdef Alarm alarm_of(clock, loop)

cdef object new_future(loop)

cdef object go_on_inside(inner, sent)

cpdef quicken(kind)

cpdef task_of(loop)

cpdef Obtaining obtain(pool, ticket, timeout)


cdef inline object send_inside(inner, sent):
    cdef PyObject *result = NULL
    if PyIter_Send(inner, sent, &result) == 1:  # PYGEN_NEXT
        return own(result)
    own(result)
    return FINISHED


cdef inline PyObject *handed_out(value):
    """This object, with a reference that is the receiver's."""
    Py_INCREF(value)
    return <PyObject *>value


cdef inline object advanced(Routine self, sent):
    # `finally` and not `except`, which would save and restore the thread's exception at each step, whether one comes or not.
    cdef bint done = False
    self.begin_step()
    try:
        yielded = self._go_on(sent)
        done = True
    finally:
        if not done:
            self.end()
    return yielded


cdef inline PyObject *next_of(PyObject *self) except? NULL:
    """The slot tp_iternext. At the end of what returns None no exception is set, which needs no memory."""
    yielded = advanced(<Routine>self, None)
    if yielded is not FINISHED:
        return handed_out(yielded)
    value = (<Routine>self)._outcome()
    if value is not None:
        try:
            stop(value)
        except BaseException:
            (<Routine>self).end()
            raise
    (<Routine>self).has_ended = True
    return NULL


cdef inline int send_to(PyObject *self, PyObject *sent, PyObject **result) except? -1:
    """The slot am_send: returns a PySendResult. `await` uses it in CPython 3.11, and tasks of asyncio do."""
    yielded = advanced(<Routine>self, <object>sent)
    if yielded is not FINISHED:
        result[0] = handed_out(yielded)
        return 1
    result[0] = handed_out((<Routine>self)._outcome())
    (<Routine>self).has_ended = True
    return 0
