"""SharedPool: a pool that several processes share, and its engine. Public are pool.py, passing.py, listing.py and errors.py.

pool.py          SharedPool: its options
pool_engine.py   what every pool asks of an engine, done with the words of the file
targets.py       what can be promised
ticket.py        one call's elements and its place in the line
owner.py         what its buffers know of a pool
transaction.py   the seam: read, write, and put it in force
words.py         how the numbers lie in 64 bits
decisions.py     what is decided, on a few words
membership.py    what is decided of clients: who comes, leaves, and has died
offers.py        what is decided of elements that one process passes to another
operations.py    what a process does: decisions, and memory in between
protocol.h       how it is put in force in shared memory, without a lock
system.h         memory and sleep
_quick.pyx       `alloc` and `free` with nothing in their way: one decision, no Python frame
_engine.pyx      the protocol, compiled; Linux on x86-64
layout.py        how the file in /dev/shm is laid out, and opened
file.py          how it is made
clients.py       who is dead
killed.py        what they had, for who is told of it
passing.py       tokens: an element that is offered by one process and adopted by another
lookout.py       a thread that looks around for those who wait here
watcher.py       is told by the kernel when another process ends
doors.py         an event loop that is told itself when one of its tasks is served
engine.py        SharedEngine: file, clients, tickets, forks
audit.py         whether the words agree with each other
glance.py        the figures of the pools there are, for who must stay small
listing.py       names, look: the pools of this user, seen from outside without joining
anew.py          a file that nobody uses is made anew
repair.py        what is wrong with a file, and how it is mended
errors.py        PoolCorrupt, ClientGone, PoolInUse

Importing this package needs nothing. `mempool.shared.engine` needs the compiled part, and raises ImportError where it is
missing, with the way to get it.
"""
