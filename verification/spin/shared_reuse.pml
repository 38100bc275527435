/* A client's number is used again by another process while slow reapers are still at work on the dead one. Whole transactions
 * are single steps here; shared.pml says that they are. Spin must not object.
 *
 * One slot of memory. An incarnation takes it, uses it, and returns it, and is killed at any step. Two reapers, who prove it
 * dead by its lock, and may then be slow. What is half way to the system becomes the reaper's own before it is punched.
 *
 * Flags that break it on purpose, each of which Spin must catch:
 *   -DNO_EPOCH     a reaper does not look whether it is still the same incarnation
 *   -DLATE_PUNCH   a reaper punches a slot before it is its own
 */

#define ABSENT 0
#define LIVE 1
#define DEAD 2
/* what the slot is */
#define SPARE 0
#define LEASED 1                /* by the client, whichever incarnation that is */
#define PUNCHING 2              /* by the client */
#define BARE 3
#define REAPERS(r) (4 + (r))    /* to be punched by this reaper */

byte state, epoch, slot;        /* shared: the client's word and the slot's */
byte locked_by;                 /* the lock: which incarnation holds it; 0: none does */
bool killed[4];
byte user;                      /* ghost: which incarnation uses the slot */
bool memory = true;             /* ghost: whether its memory is there */

#ifdef NO_EPOCH
#define IS_BEING_REAPED(e) true
#else
#define IS_BEING_REAPED(e) (state == DEAD && epoch == e)
#endif

proctype client(byte me) provided (!killed[me])
{
    atomic { locked_by == 0 -> locked_by = me }
    /* attach: what a dead one left is this one's, and is returned first */
    atomic { state = LIVE; epoch = me }
    if
    :: atomic { slot == LEASED -> assert(user == 0); slot = SPARE }
    :: atomic { slot == PUNCHING -> slot = PUNCHING } atomic { assert(user == 0); memory = false } atomic { slot = BARE }
    :: atomic { slot != LEASED && slot != PUNCHING }
    fi;
    if
    :: atomic { slot == SPARE -> assert(user == 0 && memory); slot = LEASED; user = me }
    :: atomic { slot == BARE -> assert(user == 0); slot = PUNCHING }    /* populating it: reaped in the same way */
       atomic { memory = true }
       atomic { slot == PUNCHING -> assert(memory); slot = LEASED; user = me }
    :: atomic { slot >= REAPERS(0) -> goto end }
    fi;
    assert(user == me && memory && slot == LEASED);
    if
    :: atomic { user = 0; slot = SPARE }
    :: atomic { user = 0; slot = PUNCHING } atomic { assert(user == 0); memory = false } atomic { slot = BARE }
    fi;
end:
    skip
}

proctype killer(byte who)
{
    if
    :: atomic {
           !killed[who] -> killed[who] = true;
           if :: locked_by == who -> locked_by = 0 :: else fi;
           if :: user == who -> user = 0 :: else fi
       }
    :: true
    fi
}

proctype reaper(byte me)
{
    byte e, rounds;
    bool mine;
    do
    :: rounds < 2 ->
         rounds++;
         if
         :: atomic { state == LIVE && locked_by == 0 -> e = epoch }     /* proven dead */
            atomic { if :: state == LIVE && epoch == e -> state = DEAD :: else fi }
            atomic { if :: IS_BEING_REAPED(e) && slot == LEASED -> assert(user == 0); slot = SPARE :: else fi }
#ifdef LATE_PUNCH
            if
            :: atomic { IS_BEING_REAPED(e) && slot == PUNCHING }
               atomic { assert(user == 0); memory = false }
               atomic { if :: IS_BEING_REAPED(e) && slot == PUNCHING -> slot = BARE :: else fi }
            :: else
            fi;
#else
            atomic { if :: IS_BEING_REAPED(e) && slot == PUNCHING -> slot = REAPERS(me); mine = true :: else fi }
            if
            :: mine -> atomic { assert(user == 0 && slot == REAPERS(me)); memory = false }
               atomic { slot = BARE; mine = false }
            :: else
            fi;
#endif
            atomic { if :: state == DEAD && epoch == e && slot != LEASED && slot != PUNCHING -> state = ABSENT :: else fi }
         :: true
         fi
    :: break
    od
}

init { atomic { run client(1); run killer(1); run client(2); run killer(2); run reaper(0); run reaper(1) } }
