/* The kernel's mempool_resize, mempool_free and mempool_alloc as they are described: which steps, in which order, and
 * where the lock is let go. Three resizers, a freer, a caller. Spin must object.
 *
 *   (no flag)   the array has a place for each element that is added
 *   -DWAKE      nobody sleeps while the pool holds an element
 */

#define INITIAL 4
#define OUT     4   /* elements in users' hands when it begins, which the freer returns */
#define MEMORY  9   /* how many elements may exist */

mtype = { A, B, C, freer, caller };

bool locked;
byte min_nr = INITIAL;
byte curr_nr = INITIAL;
byte places = INITIAL;             /* how long the array is */
byte existing = INITIAL + OUT;     /* made and not freed */
bool sleeping, woken;

inline lock()   { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

inline add_element(who)
{
    printf("%e: an element goes to place %d of %d\n", who, curr_nr + 1, places);
    assert(curr_nr < places);
    curr_nr++
}

inline resize(who, wanted)
{
    lock();
    if
    :: wanted <= min_nr ->
        printf("%e: shrinks from %d to %d\n", who, min_nr, wanted);
        do
        :: curr_nr > wanted ->
            curr_nr--;
            printf("%e: takes an element, %d are left; drops the lock to free it\n", who, curr_nr);
            unlock();
            existing--;
            lock()
        :: else -> break
        od;
        min_nr = wanted;
        printf("%e: stores min_nr = %d; the array has %d places\n", who, min_nr, places);
        unlock()
    :: else ->
        printf("%e: grows to %d, drops the lock to allocate an array\n", who, wanted);
        unlock();
        lock();
        if
        :: wanted <= min_nr -> unlock()
        :: else ->
            assert(curr_nr <= wanted);
            places = wanted;
            min_nr = wanted;
            printf("%e: installs an array of %d places, stores min_nr = %d\n", who, places, min_nr);
            do
            :: curr_nr < min_nr ->
                unlock();
                if
                :: atomic { existing < MEMORY -> existing++ }
                :: true -> break                      /* no memory: the resize says 0 all the same */
                fi;
                lock();
                if
                :: curr_nr < min_nr ->
                    add_element(who)                  /* and wakes nobody */
                :: else ->
                    unlock();
                    existing--;
                    break
                fi
            :: else -> unlock(); break
            od
        fi
    fi
}

inline free_element(who)
{
    if
    :: curr_nr < min_nr ->
        lock();
        if
        :: curr_nr < min_nr ->
            add_element(who);
            unlock();
            if :: sleeping -> woken = true :: else fi
        :: else -> unlock(); existing--
        fi
    :: else -> existing--
    fi
}

#ifndef WAKE
proctype ResizerA() { resize(A, 3) }
proctype ResizerB() { resize(B, 1) }
proctype ResizerC() { resize(C, 2) }
proctype Freer() { byte home; do :: home < OUT -> free_element(freer); home++ :: else -> break od }
init { atomic { run ResizerA(); run ResizerB(); run ResizerC(); run Freer() } }

#else
proctype ResizerC() { resize(C, 6) }

proctype Caller()
{
    byte taken;
    do
    :: taken < INITIAL + 1 ->   /* empties the pool, and wants one more */
        lock();
        if
        :: curr_nr > 0 -> curr_nr--; taken++; unlock()
        :: else ->
            printf("caller: the source fails and the pool is empty; sleeps\n");
            sleeping = true;
            unlock();
            woken;              /* blocks. The kernel's sleeper looks again after 5 s: that is the defect. */
            sleeping = false; woken = false
        fi
    :: else -> break
    od
}

active proctype Monitor()
{
    timeout;                    /* nothing moves any more */
    if
    :: sleeping && curr_nr > 0 ->
        printf("nothing moves any more: the caller sleeps beside %d elements\n", curr_nr);
        assert(!(sleeping && curr_nr > 0))
    :: else
    fi
}

init { atomic { run ResizerC(); run Caller() } }
#endif
