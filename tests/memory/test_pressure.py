"""What a pool of buffers promises, when there is no memory left: the kernel's own figures against what the pool says."""

from __future__ import annotations

import json
import sys

import pytest
from children import run

from mempool.sources import levels

if not sys.platform.startswith("linux"):
    pytest.skip("limits and figures are Linux's", allow_module_level=True)

#: Of an element in these tests.
SIZE = 1 << 20
ELEMENTS = 8

#: Figures of /proc/self/smaps, summed over the pages of some buffers, each of whole pages.
FIGURES = """
    import json

    def sum_of(field, buffers):
        '''Bytes. Neighbours share a mapping in the kernel's list, so each mapping counts once.'''
        seen, total = set(), 0
        for buffer in buffers:
            found = levels.smaps(buffer.address)
            if found["Range"] not in seen:
                seen.add(found["Range"])
                total += int(found[field].split()[0]) * 1024
        return total
"""


def levels_to_be_had() -> list[str]:
    """Those that this machine gives for so many elements."""
    from mempool.cli.machine import ask

    return [level for level in levels.LEVELS if ask(level, ELEMENTS * SIZE, level=level).held]


def test_elements_of_every_level_work_when_the_address_space_is_full() -> None:
    """A fresh array fails then; what the pool holds is handed out, written whole, read back, and waited for."""
    pytest.importorskip("numpy")
    said = run(f"""
        import json, numpy
        from mempool import Buffers, Pool
        pools = {{}}
        for level in {levels_to_be_had()!r}:
            pools[level] = Pool(Buffers({SIZE}, level=level), {ELEMENTS}, keep={ELEMENTS})
        limit_address_space(64 << 20)
        # Uncompiled, each call makes small objects, and lists those of the collector: these have room, no array has.
        room = mmap.mmap(-1, 512 << 10) if mempool.IMPLEMENTATION == "pure" else None
        kept = fill()
        if room is not None:
            room.close()
        while True:
            try:
                kept.append(numpy.empty({SIZE}, "uint8"))
            except MemoryError:
                break
        figures = {{}}
        for level, pool in pools.items():
            out = []
            for number in range({ELEMENTS}):
                buffer = pool.alloc(timeout=0)
                with buffer[:] as view:
                    numpy.frombuffer(view, "uint8")[:] = number + 1
                out.append(buffer)
            try:
                pool.alloc(timeout=0)
                more = "another"
            except mempool.PoolTimeout:
                more = "none"
            whole = [set(bytes(buffer[:: 4096])) == {{number + 1}} for number, buffer in enumerate(out)]
            for buffer in out:
                pool.free(buffer)
            figures[level] = [whole, more, pool.guarantee().level, pool.guarantee().held]
        print(json.dumps(figures))
    """)
    figures = json.loads(said)
    assert {"virtual", "backed", "resident"} <= figures.keys()
    for level, found in figures.items():
        # Huge pages are no part of what the limit counts once they are mapped; none of these could map more.
        assert found == [[True] * ELEMENTS, "none", level, True], level


def test_what_a_pool_claims_to_be_resident_is_resident() -> None:
    """By the kernel's count, before anybody has written; and of address space alone nothing is."""
    said = run(
        FIGURES
        + f"""
    from mempool import Buffers, Pool
    found = {{}}
    for level in {levels_to_be_had()!r}:
        pool = Pool(Buffers({SIZE}, level=level), {ELEMENTS})
        promised = pool.guarantee().promised * {SIZE}
        out = [pool.alloc_reserved() for _ in range({ELEMENTS})]
        field = "Rss" if level != "huge" else "Private_Hugetlb"
        found[level] = [promised, sum_of(field, out), sum_of("Locked", out)]
        for buffer in out:
            pool.free(buffer)
        pool.close()
    print(json.dumps(found))
    """
    )
    figures = json.loads(said)
    for level, (promised, resident, locked) in figures.items():
        assert promised == ELEMENTS * SIZE
        if level == "virtual":
            assert resident < SIZE
        else:
            assert resident >= promised, level
        if level == "locked":
            assert locked >= promised


@pytest.mark.parametrize("level", ["backed", "resident"])
def test_using_warm_elements_faults_in_no_page(level: str) -> None:
    """Two thousand times taken, written whole and given back: the kernel is not asked for one page of them."""
    said = run(f"""
        import json
        from mempool import Buffers, Pool
        pool = Pool(Buffers({SIZE}, level="{level}"), {ELEMENTS})

        def use(times):
            for _ in range(times):
                out = [pool.alloc(), pool.alloc()]
                for buffer in out:
                    ctypes.memset(buffer.address, 7, {SIZE})
                for buffer in out:
                    pool.free(buffer)

        pool.resize(keep={ELEMENTS} + 2)
        use(20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        use(500)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        pages = 2 * {SIZE} // mmap.PAGESIZE
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        fresh = mmap.mmap(-1, 2 * {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(fresh)), 7, 2 * {SIZE})
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, pages)
    """)
    warm, *fresh = map(int, said.split())
    assert warm < 500  # less than one a turn: the interpreter's own; those of the elements would be a quarter of a million
    assert fresh[0] > 64 or levels.transparent_huge_pages() == "always"  # so a fault is seen when there is one


def test_a_reserve_is_there_after_memory_ran_out_and_came_back() -> None:
    """A grow that falls short says so, and a refill makes it good."""
    said = run(f"""
        from mempool import Buffers, Pool
        pool = Pool(Buffers({SIZE}), 4)
        limit_address_space(32 << 20)
        kept = fill()
        short = pool.resize(reserve=64)
        print(short.held, short.promised, short.unfunded)
        print(pool.refill().held)
        del kept
        lift_limits()
        print(pool.refill().held, pool.stats().spare)
    """)
    first, still, then = said.splitlines()
    held, promised, unfunded = first.split()
    assert (held, promised) == ("False", "64")
    assert 0 < int(unfunded) <= 60
    assert still == "False"
    assert then == "True 64"
