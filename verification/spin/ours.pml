/* Our resize: all targets change in one step; what is surplus is taken in batches inside a step and disposed of outside;
 * a grow asks for permits, makes, and then the elements go to the line or to the free list. Two resizers, a freer, a caller
 * that wants two at once, and another that wants one and may give up. Spin must not object.
 *
 * Each d_step is one decision (src/mempool/_core/decisions.py); between any two of them, anybody may run. Whom a decision
 * tells is woken after it, in a step of its own. (`true;` before a d_step: Spin does not let a loop jump into one.)
 *
 *   -DTHREE      a third resizer in place of the second caller
 *
 * Flags that break it on purpose, each of which Spin must catch:
 *   -DSTALE      a shrink writes its targets after it has disposed, and a grow makes a new array, as the kernel does
 *   -DNO_SERVE   what a grow makes goes to the free list past the line
 *   -DNO_WAKE    who is served is not woken
 *   -DNO_ACCEPT  a caller that gives up keeps its place, and what it is handed later is nobody's
 *   -DNO_CLAIM   what a grow is about to make does not count towards the limit
 */

#define INITIAL 2   /* the reserve, all of it spare */
#define OUT     2   /* elements in users' hands when it begins, which the freer returns */
#define LIMIT   5   /* how many elements may exist */
#define BATCH   2   /* how many a resize moves in one step */

mtype = { idle, waits, served, withdrawn };

/* the state */
byte reserve = INITIAL, keep = INITIAL, slots = INITIAL;
byte spare = INITIAL;
byte existing = INITIAL + OUT;      /* made - disposed */
byte disposing, filling;            /* filling: permitted to grows, not yet made */
/* the line: who stands where; of whom, how many they want */
byte waiting, line[2];
byte wanted[2];
mtype state[2] = idle;
bool to_wake[2], woken[2], asleep[2];
/* ghosts, which no decision looks at: where the elements really are */
byte users = OUT, in_transfers;

#define HEAD line[0]
#define MIN(a, b) (a < b -> a : b)

inline check()      /* holds whenever a decision has been committed */
{
    assert(spare <= slots);
    assert(existing == spare + users + in_transfers);
    assert(disposing <= in_transfers);
    assert(existing + filling <= LIMIT);
#ifndef NO_SERVE
    assert(waiting == 0 || spare < wanted[HEAD])
#endif
}

inline dequeue_head()
{
    waiting--;
    line[0] = line[1];
    line[1] = 0
}

inline serve_line()
{
    do
    :: waiting > 0 && spare >= wanted[HEAD] ->
        spare = spare - wanted[HEAD];
        users = users + wanted[HEAD];
        state[HEAD] = served;
        to_wake[HEAD] = true;
        dequeue_head()
    :: else -> break
    od
}

inline wake()       /* BaseDecisions.wake_pending, by whoever took the decision */
{
    if
    :: to_wake[0] || to_wake[1] ->
        d_step {
#ifndef NO_WAKE
            woken[0] = woken[0] || to_wake[0];
            woken[1] = woken[1] || to_wake[1];
#endif
            to_wake[0] = false;
            to_wake[1] = false
        }
    :: else
    fi
}

inline give()       /* Decisions.take_back: n elements in a transfer are returned; what is left of n is surplus */
{
    true;
    d_step {
        do
        :: n > 0 && (spare < keep || waiting > 0) ->
            spare++; in_transfers--; n--;
#ifdef NO_SERVE
            if :: !making -> serve_line() :: else fi
#else
            serve_line()
#endif
        :: else -> break
        od;
        disposing = disposing + n;
        check()
    }
    wake()
}

inline dispose()    /* Supply.dispose: one by one, outside of all decisions */
{
    do
    :: n > 0 -> d_step { disposing--; existing--; in_transfers--; n--; check() }
    :: else -> break
    od
}

inline fill()       /* LocalEngine._fill */
{
    do
    :: true ->
        d_step {                                        /* Decisions.permit_fill */
            permits = (reserve > spare + filling -> reserve - spare - filling : 0);
            permits = MIN(permits, BATCH);
#ifdef NO_CLAIM
            permits = MIN(permits, LIMIT - existing)
#else
            permits = MIN(permits, LIMIT - existing - filling);
            filling = filling + permits;
            check()
#endif
        }
        if :: permits == 0 -> break :: else fi;
        n = 0;
        do                                              /* the source may fail at any element */
        :: n < permits -> n++
        :: n < permits -> failed = true; break
        :: n == permits -> break
        od;
        true;
        d_step {                                        /* Decisions.arrive */
            existing = existing + n;
            in_transfers = in_transfers + n;
#ifndef NO_CLAIM
            filling = filling - permits;
#endif
            permits = 0;
            check()
        }
        give();
        dispose();
        if :: failed -> break :: else fi
    od;
    permits = 0; failed = false
}

inline dispose_surplus()
{
    do
    :: true ->
        d_step {                                        /* Decisions.surplus */
            n = 0;
            do
            :: waiting == 0 && spare > keep && n < BATCH -> spare--; in_transfers++; disposing++; n++
            :: else -> break
            od;
            check()
        }
        if :: n == 0 -> break :: else fi;
        dispose()
    od
}

proctype Resizer(byte target)
{
    byte n, permits;
    bool grew, failed, making = true;
#ifdef STALE
    if
    :: target <= reserve ->
        do
        :: spare > target -> d_step { if :: spare > target -> spare--; in_transfers++; disposing++; n++ :: else fi }
           dispose()
        :: else -> break
        od;
        true;
        d_step { reserve = target; keep = target; check(); assert(keep <= slots) }
    :: else ->
        d_step { slots = target; reserve = target; keep = target; grew = true; check() }
    fi;
#else
    d_step {                                            /* Decisions.retarget */
        grew = target > reserve;
        reserve = target;
        keep = target;
        slots = (slots > target -> slots : target);
        check()
    }
#endif
    if :: grew -> fill() :: else fi;
    dispose_surplus()
}

proctype Freer()
{
    byte n, returned;
    bool making;
    do
    :: returned < OUT ->
        d_step { users--; in_transfers++; n = 1 }
        give();
        dispose();
        returned++
    :: else -> break
    od;
    returned = 0
}

/* Wants so many, has them for a moment, returns them. The source has failed this caller already. */
proctype Caller(byte me; byte want; bool gives_up)
{
    byte n;
    bool making;
    d_step {                                            /* Decisions.join */
        wanted[me] = want;
        if
        :: waiting == 0 && spare >= want ->
            spare = spare - want;
            users = users + want;
            state[me] = served
        :: else ->
            state[me] = waits;
            line[waiting] = me;
            waiting++;
            slots = slots + want                      /* brings the places that gathering may need */
        fi;
        check()
    }
    do
    :: state[me] == served -> break
    :: state[me] == waits && gives_up ->
        d_step {                                        /* Decisions.withdraw: too late if it has been served meanwhile */
            if
            :: state[me] == waits ->
#ifndef NO_ACCEPT
                if
                :: HEAD == me -> dequeue_head()
                :: else -> waiting--; line[1] = 0
                fi;
                serve_line();
#endif
                state[me] = withdrawn
            :: else
            fi;
            check()
        }
        wake();
        if :: state[me] == withdrawn -> break :: else fi
    :: state[me] == waits && !gives_up ->
        asleep[me] = true;
        woken[me];
        d_step { woken[me] = false; asleep[me] = false }
    od;
    if
    :: state[me] == served ->
        d_step { users = users - want; in_transfers = in_transfers + want; n = want }
        give();
        dispose()
    :: else
    fi
}

active proctype Monitor()
{
    timeout;                                            /* nothing moves any more */
    assert(disposing == 0 && filling == 0 && in_transfers == 0);
    assert(!(asleep[0] && state[0] == served) && !(asleep[1] && state[1] == served));
    assert(waiting == 0 || spare < wanted[HEAD]);
#ifndef NO_SERVE
    assert(waiting > 0 || spare <= keep);
#endif
    assert(users == 0)                                  /* whatever was handed to a caller has come back */
}

init {
    atomic {
        run Resizer(1); run Resizer(3);
#ifdef THREE
        run Resizer(2);
#else
        run Caller(1, 1, true);
#endif
        run Freer(); run Caller(0, 2, false)
    }
}
