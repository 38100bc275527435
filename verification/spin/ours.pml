/* Our resize: all targets change in one step; what is surplus is taken in batches inside a step and disposed of outside;
 * a grow claims, makes, and then the elements arrive and go to the line or to the shelf. Two resizers, a freer, a caller
 * that wants two at once, and another that wants one and may give up. Spin must not object.
 *
 * Each d_step is one decision (src/mempool/_core/reserve.py); between any two of them, anybody may run. Whom a decision
 * tells is woken after it, in a step of its own. (`true;` before a d_step: Spin does not let a loop jump into one.)
 *
 *   -DTHREE      a third resizer in place of the second caller
 *
 * Flags that break it on purpose, each of which Spin must catch:
 *   -DSTALE      a shrink writes its targets after it has disposed, and a grow makes a new array, as the kernel does
 *   -DNO_SERVE   what a grow makes goes to the shelf past the line
 *   -DNO_WAKE    who is served is not woken
 *   -DNO_ACCEPT  a caller that gives up keeps its place, and what it is handed later is nobody's
 *   -DNO_CLAIM   what a grow is about to make does not count towards the limit
 */

#define INITIAL 2   /* the reserve, all of it spare */
#define OUT     2   /* elements in users' hands when it begins, which the freer brings home */
#define LIMIT   5   /* how many elements may exist */
#define BATCH   2   /* how many a resize moves in one step */

mtype = { idle, waits, served, withdrawn };

/* the books */
byte reserve = INITIAL, keep = INITIAL, places = INITIAL;
byte spare = INITIAL;
byte existing = INITIAL + OUT;      /* made - disposed */
byte disposing, filling;            /* filling: claimed by grows, not yet arrived */
/* the line: who stands where; of whom, how many they want */
byte waiting, line[2];
byte wanted[2];
mtype state[2] = idle;
bool told[2], woken[2], asleep[2];
/* ghosts, which no decision looks at: where the elements really are */
byte users = OUT, hands;

#define HEAD line[0]
#define MIN(a, b) (a < b -> a : b)

inline check()      /* holds whenever the books are shut */
{
    assert(spare <= places);
    assert(existing == spare + users + hands);
    assert(disposing <= hands);
    assert(existing + filling <= LIMIT);
#ifndef NO_SERVE
    assert(waiting == 0 || spare < wanted[HEAD])
#endif
}

inline step_out_head()
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
        told[HEAD] = true;
        step_out_head()
    :: else -> break
    od
}

inline wake()       /* Ledger.spread_news, by whoever took the decision */
{
    if
    :: told[0] || told[1] ->
        d_step {
#ifndef NO_WAKE
            woken[0] = woken[0] || told[0];
            woken[1] = woken[1] || told[1];
#endif
            told[0] = false;
            told[1] = false
        }
    :: else
    fi
}

inline give()       /* Reserve.give: n elements in hands come home; what is left of n is surplus */
{
    true;
    d_step {
        do
        :: n > 0 && (spare < keep || waiting > 0) ->
            spare++; hands--; n--;
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
    :: n > 0 -> d_step { disposing--; existing--; hands--; n--; check() }
    :: else -> break
    od
}

inline fill()       /* LocalEngine._fill */
{
    do
    :: true ->
        d_step {                                        /* Reserve.claim_to_fill */
            claims = (reserve > spare + filling -> reserve - spare - filling : 0);
            claims = MIN(claims, BATCH);
#ifdef NO_CLAIM
            claims = MIN(claims, LIMIT - existing)
#else
            claims = MIN(claims, LIMIT - existing - filling);
            filling = filling + claims;
            check()
#endif
        }
        if :: claims == 0 -> break :: else fi;
        n = 0;
        do                                              /* the source may fail at any element */
        :: n < claims -> n++
        :: n < claims -> failed = true; break
        :: n == claims -> break
        od;
        true;
        d_step {                                        /* Reserve.arrive */
            existing = existing + n;
            hands = hands + n;
#ifndef NO_CLAIM
            filling = filling - claims;
#endif
            claims = 0;
            check()
        }
        give();
        dispose();
        if :: failed -> break :: else fi
    od;
    claims = 0; failed = false
}

inline dispose_surplus()
{
    do
    :: true ->
        d_step {                                        /* Reserve.surplus */
            n = 0;
            do
            :: waiting == 0 && spare > keep && n < BATCH -> spare--; hands++; disposing++; n++
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
    byte n, claims;
    bool grew, failed, making = true;
#ifdef STALE
    if
    :: target <= reserve ->
        do
        :: spare > target -> d_step { if :: spare > target -> spare--; hands++; disposing++; n++ :: else fi }
           dispose()
        :: else -> break
        od;
        true;
        d_step { reserve = target; keep = target; check(); assert(keep <= places) }
    :: else ->
        d_step { places = target; reserve = target; keep = target; grew = true; check() }
    fi;
#else
    d_step {                                            /* Reserve.retarget */
        grew = target > reserve;
        reserve = target;
        keep = target;
        places = (places > target -> places : target);
        check()
    }
#endif
    if :: grew -> fill() :: else fi;
    dispose_surplus()
}

proctype Freer()
{
    byte n, home;
    bool making;
    do
    :: home < OUT ->
        d_step { users--; hands++; n = 1 }
        give();
        dispose();
        home++
    :: else -> break
    od;
    home = 0
}

/* Wants so many, has them for a moment, brings them home. The source has failed this caller already. */
proctype Caller(byte me; byte want; bool gives_up)
{
    byte n;
    bool making;
    d_step {                                            /* Reserve.join */
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
            places = places + want                      /* brings the places that gathering may need */
        fi;
        check()
    }
    do
    :: state[me] == served -> break
    :: state[me] == waits && gives_up ->
        d_step {                                        /* Reserve.withdraw: too late if it has been served meanwhile */
            if
            :: state[me] == waits ->
#ifndef NO_ACCEPT
                if
                :: HEAD == me -> step_out_head()
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
        d_step { users = users - want; hands = hands + want; n = want }
        give();
        dispose()
    :: else
    fi
}

active proctype Monitor()
{
    timeout;                                            /* nothing moves any more */
    assert(disposing == 0 && filling == 0 && hands == 0);
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
