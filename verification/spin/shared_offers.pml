/* An element is passed on from process to process: src/mempool/shared/offers.py. Whole transactions are single steps here;
 * shared.pml says that they are. Spin must not object.
 *
 * One slot. Client 0 takes it and offers it, two times, to anybody or to client 1, and may recall it. Client 1, and after its end
 * its successor under the same number, have copies of both tokens and adopt with them what they can; so has client 2. Each may be
 * killed at any step, and what a killed one had comes back. In the end nothing is lost.
 *
 *   -DCRASHES=n      how many are killed at most
 *   -DTHIRD          with client 2
 *
 * Flags that break it on purpose, each of which Spin must catch:
 *   -DNO_NUMBER      who adopts does not compare the number of the token
 *   -DNO_RECEIVER    who offers does not look whether the receiver is there, in that epoch
 *   -DSTAYS_LIVE     who leaves, or clears up after the one before it, can be addressed meanwhile
 *   -DBY_NOBODY      what is offered to anybody is nobody's: its offerer's death does not bring it back
 *   -DNO_RECALL_CHECK   who recalls does not look whether it is offered still
 */

#ifndef CRASHES
#define CRASHES 2
#endif
#define SPARE 0
#define LEASED 1
#define OFFERED 2
#define ADDRESSED 3
/* clients */
#define ABSENT 0
#define LIVE 1
#define DEAD 2
#define UNSETTLED 3
#define NOBODY 9
/* processes: 1 is client 0; 2 and 3 are client 1, one after the other; 4 is client 2 */

byte client_state[3], epoch[3];     /* shared: the words of the clients */
byte state, owner, number, offered; /* the word of the slot: who has it, the number of the transaction that wrote it; the count */
byte by;                            /* of an addressed one: its offerer */
byte locked_by[3];                  /* the locks: which process holds it; 0: none */
byte token[2], token_content[2];    /* as they travel: to everybody */
bool killed[5], ended[5];           /* ghosts as well */
byte crashes = CRASHES;
/* ghosts: who uses the memory, what is written there, to which process it is addressed */
byte user, content, addressed_to;

#ifdef STAYS_LIVE
#define IN_BETWEEN LIVE
#else
#define IN_BETWEEN UNSETTLED
#endif
#ifdef NO_NUMBER
#define IS_STILL(n) true
#else
#define IS_STILL(n) (number == n)
#endif
#ifdef BY_NOBODY
#define OFFERS_AS(c) NOBODY
#else
#define OFFERS_AS(c) c
#endif

#define CRASH if :: true :: atomic { crashes > 0 -> crashes--; goto crash } fi
#define DIES(c) crash: atomic { killed[me] = 1; if :: locked_by[c] == me -> locked_by[c] = 0 :: else fi; if :: user == me -> user = 0 :: else fi } end: skip

/* all that a client has is a spare again (operations.clear) */
inline clear(c)
{
    if
    :: state != SPARE && owner == c ->
         assert(user == 0);
         offered = offered - (state == OFFERED || state == ADDRESSED);
         state = SPARE; owner = NOBODY; number++
    :: else
    fi
}

inline attach(c, me)
{
    atomic { locked_by[c] == 0 -> locked_by[c] = me }
    CRASH;
    if
    :: atomic { client_state[c] == ABSENT -> client_state[c] = LIVE; epoch[c] = me }
    :: atomic { client_state[c] != ABSENT -> client_state[c] = IN_BETWEEN; epoch[c] = me }
       CRASH;
       atomic { assert(state != ADDRESSED || owner != c || addressed_to != me); clear(c) }
       CRASH;
       atomic { client_state[c] = LIVE }
    fi;
    CRASH
}

inline detach(c, me)
{
    CRASH;
    atomic { client_state[c] = IN_BETWEEN }
    CRASH;
    atomic { clear(c) }
    CRASH;
    atomic { client_state[c] = ABSENT; locked_by[c] = 0; ended[me] = 1 }
    goto end
}

/* what it has and uses is the pool's again */
inline give(me)
{
    atomic { assert(user == me && state == LEASED); user = 0; state = SPARE; owner = NOBODY; number++ }
}

proctype sender(byte me)
{
    byte lease, mine, e, round;
    attach(0, me);
    do
    :: round < 2 ->
         if
         :: atomic {
                state == SPARE ->
                assert(user == 0 && offered == 0);
                state = LEASED; owner = 0; number++; lease = number; user = me; content = number
            }
         :: atomic { state != SPARE -> break }
         fi;
         CRASH;
         mine = 0;
         if
         :: atomic {                                          /* to anybody */
                assert(state == LEASED && owner == 0 && number == lease);
                user = 0; state = OFFERED; owner = OFFERS_AS(0); offered++; number++; mine = number
            }
         :: e = epoch[1];                                     /* to client 1, as it was seen */
            atomic {
                if
#ifdef NO_RECEIVER
                :: true ->
#else
                :: client_state[1] == LIVE && epoch[1] == e ->
#endif
                     user = 0; state = ADDRESSED; owner = 1; by = me; addressed_to = e; offered++; number++; mine = number
                :: else
                fi
            }
         fi;
         CRASH;
         if
         :: mine == 0 -> give(me)
         :: mine != 0 ->
              if
              :: atomic { token[round] = mine; token_content[round] = lease }
              :: true                                         /* it gets lost */
              fi;
              CRASH;
              if
              :: atomic {                                     /* recall */
#ifdef NO_RECALL_CHECK
                     (state == OFFERED || state == ADDRESSED || state == LEASED) ->
                     offered = offered - (state != LEASED);
#else
                     number == mine && (state == OFFERED || (state == ADDRESSED && by == me)) ->
                     offered--;
#endif
                     assert(user == 0);
                     state = LEASED; owner = 0; number++; lease = number; user = me
                 }
                 CRASH;
                 give(me)
              :: true
              fi
         fi;
         round++
    :: else -> break
    od;
    detach(0, me);
    DIES(0)
}

proctype adopter(byte me, c)
{
    byte i, rounds;
    attach(c, me);
    do
    :: rounds < 2 ->
         i = rounds;
         rounds++;
         if
         :: atomic {
                token[i] != 0 && IS_STILL(token[i]) && (state == OFFERED || (state == ADDRESSED && owner == c)) ->
                assert(user == 0 && offered == 1 && content == token_content[i]);
                state = LEASED; owner = c; offered--; number++; user = me
            }
            CRASH;
            give(me)
         :: true
         fi
    :: break
    od;
    detach(c, me);
    DIES(c)
}

#define IS_OVER(p) (killed[p] || ended[p])

proctype reaper()
{
    byte c, e;
    do
    :: IS_OVER(1) && IS_OVER(2) && IS_OVER(3) && IS_OVER(4) &&
       client_state[0] == ABSENT && client_state[1] == ABSENT && client_state[2] == ABSENT -> break
    :: else ->
         if
         :: atomic { client_state[0] != ABSENT && locked_by[0] == 0 -> c = 0; e = epoch[0] }      /* proven dead */
         :: atomic { client_state[1] != ABSENT && locked_by[1] == 0 -> c = 1; e = epoch[1] }
         :: atomic { client_state[2] != ABSENT && locked_by[2] == 0 -> c = 2; e = epoch[2] }
         fi;
         atomic { if :: client_state[c] != ABSENT && epoch[c] == e -> client_state[c] = DEAD :: else fi }
         atomic { if :: client_state[c] == DEAD && epoch[c] == e -> clear(c) :: else fi }
         atomic { if :: client_state[c] == DEAD && epoch[c] == e -> client_state[c] = ABSENT :: else fi; c = 0; e = 0 }
    od;
    assert(state == SPARE && offered == 0 && user == 0)
}

init
{
    atomic {
        owner = NOBODY;
        run sender(1); run adopter(2, 1); run adopter(3, 1);
#ifdef THIRD
        run adopter(4, 2);
#else
        ended[4] = 1;
#endif
        run reaper()
    }
}
