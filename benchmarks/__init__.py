"""mempool measured beside everything else there is: `python -m benchmarks [GROUP ...] [--json FILE] [--quick]`.

measure.py       how: interleaved rounds, ratios taken round by round
peers.py         beside what: the same pair of calls, as each peer writes it
uncontended.py   one thread, elements at hand
asynchronous.py  one event loop, elements at hand
contended.py     16 threads, 4 elements
resize.py        the cost of a resize, and what other threads see of it
memory.py        a warm buffer beside fresh memory
report.py        the table

Nothing is asserted: a target that is missed is printed as missed.
"""
