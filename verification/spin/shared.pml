/* Several processes change shared memory by transactions, without a lock: src/mempool/shared/protocol.h. Two clients that
 * take a slot or wait in a line of one place, a resizer, a reaper. The first three may be killed after every store of theirs.
 * Spin must not object. (A process that is stopped is one that is not scheduled; Spin looks at that by itself.)
 *
 * Words are {value, sequence}; to write one is one step, as the 16-byte compare-and-swap is. The root is read in one step
 * (the code reads it until it is twice the same, and it never is twice the same otherwise). A transaction of one word leaves
 * it to the next one who begins, if the last one was the same process', and whether it changes the gate or not.
 *
 *   -DNO_CLIENT_1, -DNO_RESIZER   leave one out
 *   -DCRASHES=n                   how many are killed at most
 *   -DTWICE                       client 0 does everything two times
 *   -DKEPT=n                      so many spares are kept in the beginning
 *
 * Flags that break it on purpose, each of which Spin must catch:
 *   -DNO_HELP        nobody finishes what a dead one has begun
 *   -DONE_BUFFER     the next intent is written over the one that the root names
 *   -DEARLY          an intent is marked as applied before it is
 *   -DOVERWRITE      a late helper writes a word that is younger than its copy
 *   -DFORGETS        a helper writes the first word alone
 *   -DNOT_VALIDATED  a helper applies what it has copied, whatever the root says by then (with -DTWICE)
 *   -DFORGETS_LEFT   who has left a word unwritten does not write it before its next transaction
 */

#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef KEPT
#define KEPT 1
#endif
#define PLACE 2                 /* words 0 and 1 are slots; this one is the place in the line */
#define KEEP 3                  /* the targets: so many spares are kept */
#define WORDS 4
/* what a slot is */
#define SPARE 0
#define BARE 1
#define LEASED(c) (10 + (c))
#define PUNCHING(c) (20 + (c))
#define POPULATING(c) (30 + (c))
/* what the place is */
#define EMPTY 0
#define WAITS(c) (10 + (c))
#define SERVED(c, slot) (20 + 2 * (c) + (slot))
#define NOBODY 9

byte value[WORDS], sequence[WORDS];
/* the root */
byte version, owner = 3, buffer, spares, waiting;
/* the intents: two buffers for each process, two entries in each */
byte intent_count[8], intent_word[16], intent_value[16], applied[8];
/* ghosts, which no process of the model looks at: who was killed is known by its lock; where memory is; who uses it */
byte crashes = CRASHES, ended, users[2];
bool dead[4], memory[2];

#define NONE 255                    /* of no transaction */
/* mp_read: what this one has left unwritten it knows */
#define READ(w) (left != NONE && left_word == (w) -> left_value : value[w])

#define CRASH if :: true :: atomic { crashes > 0 && me < 3 -> crashes--; goto crash } fi

#ifdef OVERWRITE
#define IS_PAST(found, number) (found == number)
#else
#define IS_PAST(found, number) (found >= number)
#endif

inline apply(word, new, number)     /* mp_apply */
{
    do
    :: atomic { found = sequence[word]; if :: IS_PAST(found, number) -> found = 0; break :: else fi }
       old = value[word];
       atomic {
           if
           :: sequence[word] == found && value[word] == old ->
                value[word] = new; sequence[word] = number; found = 0; old = 0; break
           :: else -> found = 0; old = 0
           fi
       }
    od
}

inline begin()                      /* mp_begin, mp_finish */
{
    do
    :: atomic {
           my_version = version; my_owner = owner; my_buffer = buffer; my_spares = spares; my_waiting = waiting; n = 0;
           if :: left != my_version -> left = NONE; left_word = 0; left_value = 0 :: else fi;
           if :: my_owner == me && finished == my_version -> break :: else fi
       }
       atomic {
           if
           :: applied[my_owner * 2 + my_buffer] == my_version -> break
           :: else
#ifdef NO_HELP
              -> break
#endif
           fi
       }
       atomic {
           copied = intent_count[my_owner * 2 + my_buffer];
           w0 = intent_word[my_owner * 4 + my_buffer * 2]; v0 = intent_value[my_owner * 4 + my_buffer * 2]
       }
       if
       :: copied > 1 -> atomic {
              w1 = intent_word[my_owner * 4 + my_buffer * 2 + 1]; v1 = intent_value[my_owner * 4 + my_buffer * 2 + 1] }
       :: else
       fi;
       atomic {
           if
#ifdef NOT_VALIDATED
           :: true
#else
           :: version != my_version -> copied = 0       /* claim A: copied too late */
           :: version == my_version
#endif
           fi
       }
       if
       :: copied > 0 ->
            apply(w0, v0, my_version); CRASH;
#ifndef FORGETS
            if :: copied > 1 -> apply(w1, v1, my_version); CRASH :: else fi;
#endif
            copied = 0; w0 = 0; v0 = 0; w1 = 0; v1 = 0; break
       :: else -> w0 = 0; v0 = 0; w1 = 0; v1 = 0
       fi
    od
}

#define WRITE(word, new) atomic { entry_word[n] = word; entry_value[n] = new; n++ }
/* what all will see once this transaction is applied; everything before it is */
#define SEEN(w) (n > 0 && entry_word[0] == w -> entry_value[0] : (n > 1 && entry_word[1] == w -> entry_value[1] : READ(w)))
#ifdef ONE_BUFFER
#define FREE_BUFFER 0
#else
#define FREE_BUFFER (my_owner == me -> 1 - my_buffer : 0)
#endif
#define IS_CURRENT (version == my_version)

inline commit()                     /* mp_commit; ok: it is in force; 2: its word is left */
{
#ifndef FORGETS_LEFT
    if                              /* mp_write_left */
    :: left != NONE && entry_word[0] != left_word && (n < 2 || entry_word[1] != left_word) ->
         apply(left_word, left_value, left); CRASH;
         atomic { left = NONE; left_word = 0; left_value = 0 }
    :: else
    fi;
#endif
    mine = FREE_BUFFER;
    atomic {
        intent_count[me * 2 + mine] = n;
        intent_word[me * 4 + mine * 2] = entry_word[0]; intent_value[me * 4 + mine * 2] = entry_value[0]
    }
    if
    :: n > 1 -> atomic {
           intent_word[me * 4 + mine * 2 + 1] = entry_word[1]; intent_value[me * 4 + mine * 2 + 1] = entry_value[1] }
    :: else
    fi;
#ifdef EARLY
    applied[me * 2 + mine] = my_version + 1;
#endif
    atomic {
        if
        :: IS_CURRENT ->
             version = my_version + 1; owner = me; buffer = mine; spares = my_spares; waiting = my_waiting;
             ok = (my_owner == me && n == 1 -> 2 : 1);
             assert(spares == (SEEN(0) == SPARE) + (SEEN(1) == SPARE));
             assert(!(waiting && spares));
             assert(waiting == (SEEN(PLACE) >= WAITS(0) && SEEN(PLACE) < SERVED(0, 0)));
             assert(SEEN(0) != SPARE || memory[0]); assert(SEEN(1) != SPARE || memory[1])
        :: else -> ok = 0
        fi;
        my_spares = 0; my_waiting = 0; my_owner = 0; my_buffer = 0
    }
    CRASH;
    if
    :: ok == 2 ->                   /* mp_commit  */
         atomic { left = my_version + 1; left_word = entry_word[0]; left_value = entry_value[0]; finished = my_version + 1 }
    :: ok == 1 ->
         atomic { left = NONE; left_word = 0; left_value = 0 };
         apply(entry_word[0], entry_value[0], my_version + 1); CRASH;
         if :: n > 1 -> apply(entry_word[1], entry_value[1], my_version + 1); CRASH :: else fi;
         atomic { applied[me * 2 + mine] = my_version + 1; finished = my_version + 1 };
         CRASH
    :: else
    fi;
    atomic { entry_word[0] = 0; entry_word[1] = 0; entry_value[0] = 0; entry_value[1] = 0; n = 0; my_version = 0; mine = 0 }
}

/* the slot x, which is `from`: to whom waits, or kept, or to be punched (decisions.settle) */
inline give(x, from)
{
    do
    :: begin();
       if
       :: READ(x) != from -> k = 3; if :: IS_CURRENT -> break :: else fi
       :: else ->
            if
            :: my_waiting ->
                 WRITE(x, LEASED(READ(PLACE) - WAITS(0))); WRITE(PLACE, SERVED(READ(PLACE) - WAITS(0), x)); my_waiting = 0; k = 0
            :: !my_waiting && my_spares < READ(KEEP) -> WRITE(x, SPARE); my_spares++; k = 1
            :: !my_waiting && my_spares >= READ(KEEP) -> WRITE(x, PUNCHING(me)); k = 2
            fi;
            commit();
            if :: ok -> break :: else fi
       fi
    od;
    if :: k == 2 -> punch(x); CRASH; lay_bare(x, PUNCHING(me)) :: else fi;
    k = 0
}

inline punch(x) { atomic { assert(users[x] == 0); memory[x] = 0 } }

inline lay_bare(x, from)
{
    do
    :: begin();
       if
       :: READ(x) == from -> WRITE(x, BARE); commit(); if :: ok -> break :: else fi
       :: READ(x) != from -> if :: IS_CURRENT -> break :: else fi
       fi
    od
}

#define LOCALS byte my_version, my_owner, my_buffer, my_spares, my_waiting, n, copied, w0, v0, w1, v1, found, old, \
    entry_word[2], entry_value[2], mine, finished = NONE, left = NONE, left_word, left_value, ok, x = NOBODY, k

proctype client(byte me)
{
    LOCALS;
    bool using;
#ifdef TWICE
    bool again = (me == 0);
once_more:
#endif
    do                                                        /* take a spare, or join the line */
    :: begin();
       if
       :: my_spares > 0 && !my_waiting ->
            x = (READ(0) == SPARE -> 0 : 1);
            if
            :: READ(x) == SPARE -> WRITE(x, LEASED(me)); my_spares--; commit(); if :: ok -> break :: else fi
            :: else
            fi
       :: !my_spares && !my_waiting && READ(PLACE) == EMPTY ->
            WRITE(PLACE, WAITS(me)); my_waiting = 1; commit();
            if :: ok -> x = 8; break :: else fi
       :: else -> x = NOBODY; if :: IS_CURRENT -> goto out :: else fi          /* the line is full */
       fi
    od;
    if
    :: x == 8 ->                                              /* leave, served or not */
         do
         :: begin();
            WRITE(PLACE, EMPTY);
            if
            :: READ(PLACE) == WAITS(me) -> my_waiting = 0; x = NOBODY
            :: READ(PLACE) >= SERVED(me, 0) -> x = READ(PLACE) - SERVED(me, 0)
            :: else
            fi;
            commit();
            if :: ok -> break :: else fi
         od
    :: else
    fi;
    if :: x == NOBODY -> goto out :: else fi;
    atomic { using = 1; users[x]++; assert(users[x] == 1 && memory[x]) }
    CRASH;
    atomic { assert(users[x] == 1 && memory[x]); users[x]--; using = 0 }
    give(x, LEASED(me));
out:
#ifdef TWICE
    if :: again -> again = 0; x = NOBODY; goto once_more :: else fi;
#endif
    ended++;
    goto end;
crash:
    atomic { if :: using -> users[x]-- :: else fi; dead[me] = 1; ended++ }
end:
    skip
}

proctype resizer(byte me)                                     /* from one spare to two, or to none */
{
    LOCALS;
    do :: begin(); if :: WRITE(KEEP, 2) :: WRITE(KEEP, 0) fi; commit(); if :: ok -> break :: else fi od;
    if
    :: READ(KEEP) == 2 ->
         do
         :: begin();
            if
            :: READ(1) == BARE -> WRITE(1, POPULATING(me)); commit(); if :: ok -> x = 1; break :: else fi
            :: else -> break
            fi
         od;
         if :: x == 1 -> memory[1] = 1; CRASH; give(1, POPULATING(me)) :: else fi
    :: else ->
         do
         :: begin();
            if
            :: my_spares > READ(KEEP) ->
                 x = (READ(0) == SPARE -> 0 : 1);
                 WRITE(x, PUNCHING(me)); my_spares--; commit();
                 if :: ok -> break :: else fi
            :: else -> x = NOBODY; if :: IS_CURRENT -> break :: else fi
            fi
         od;
         if :: x < 2 -> punch(x); CRASH; lay_bare(x, PUNCHING(me)) :: else fi
    fi;
    ended++;
    goto end;
crash:
    atomic { dead[me] = 1; ended++ }
end:
    skip
}

/* half way to or from the system: the reaper's own before it is punched (decisions.reap_slot) */
inline take_over_and_punch(x, from)
{
    do
    :: begin();
       if
       :: READ(x) == from -> WRITE(x, PUNCHING(me)); commit(); if :: ok -> k = 4; break :: else fi
       :: READ(x) != from -> if :: IS_CURRENT -> break :: else fi
       fi
    od;
    if :: k == 4 -> k = 0; punch(x); lay_bare(x, PUNCHING(me)) :: else fi
}

proctype reaper(byte me)                                      /* is not killed itself; what the dead had comes back */
{
    byte c;
    bool reaped[3];
    LOCALS;
    do
    :: ended == 3 && (!dead[0] || reaped[0]) && (!dead[1] || reaped[1]) && (!dead[2] || reaped[2]) -> break
    :: c = 0;
       do :: c < 3 && (!dead[c] || reaped[c]) -> c++ :: else -> break od;
       if
       :: c < 3 ->
            do
            :: begin();
               if
               :: READ(PLACE) == WAITS(c) || (READ(PLACE) >= SERVED(c, 0) && READ(PLACE) < SERVED(c + 1, 0)) ->
                    if :: READ(PLACE) == WAITS(c) -> my_waiting = 0 :: else fi;
                    WRITE(PLACE, EMPTY); commit();
                    if :: ok -> break :: else fi
               :: else -> if :: IS_CURRENT -> break :: else fi
               fi
            od;
            x = 0;
            do
            :: x < 2 ->
                 if
                 :: READ(x) == LEASED(c) -> give(x, LEASED(c))
                 :: READ(x) == PUNCHING(c) -> take_over_and_punch(x, PUNCHING(c))
                 :: READ(x) == POPULATING(c) -> take_over_and_punch(x, POPULATING(c))
                 :: else
                 fi;
                 x++
            :: else -> break
            od;
            reaped[c] = 1
       :: else
       fi
    od;
    begin();                                                  /* all is applied: nothing is lost, and nothing is left */
    assert(spares == (READ(0) == SPARE) + (READ(1) == SPARE));
    assert((READ(0) == SPARE || READ(0) == BARE) && (READ(1) == SPARE || READ(1) == BARE));
    assert(READ(PLACE) == EMPTY && !waiting);
    assert((READ(0) == BARE || memory[0]) && (READ(1) == BARE || memory[1]));
    goto end;
crash:
    skip;
end:
    skip
}

init
{
    atomic {
        value[1] = BARE; value[KEEP] = KEPT; memory[0] = 1; spares = 1;
        run reaper(3); run client(0);
#ifdef NO_CLIENT_1
        ended++;
#else
        run client(1);
#endif
#ifdef NO_RESIZER
        ended++
#else
        run resizer(2)
#endif
    }
}
