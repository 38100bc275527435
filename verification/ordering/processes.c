/* src/mempool/shared/protocol.h at work in several processes that are killed: what a machine, or its emulator, makes of it.
 *
 * Each process moves one from a word to another, or adds one to a word, by transactions. Whoever reads all words of one moment must
 * find that they add up to what the gate has counted of it, and as many transactions in the gate as in the root. One process after another is killed and replaced;
 * now and then one is stopped. `processes SECONDS`
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"

enum { PROCESSES = 4, WORDS = 8 };
typedef struct {
    _Alignas(4096) mp_word root;
    uint64_t room[510];
    mp_client clients[PROCESSES + 1];
    mp_word words[WORDS];
} shared_part;
static shared_part *shared;

static mp_store attach(uint64_t me) {
    mp_store store = {.root = &shared->root, .words = shared->words, .clients = shared->clients, .word_count = WORDS,
                      .client_count = PROCESSES + 1, .me = me, .finished = 1, .left_word = MP_NOWHERE};
    return store;
}

/* Whether all words of one moment agree. -1: they do not. */
static int look(mp_store *store, mp_transaction *t, uint64_t *seen) {
    if (mp_begin(store, t) < 0)
        return -1;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < WORDS; i++)
        sum += seen[i] = mp_read(store, t, i);
    if (!mp_is_current(store, t))
        return 0;
    return !t->broken && sum == t->gate >> 32 && (uint32_t)t->gate == (uint32_t)mp_version(t->root) ? 1 : -1;
}

static void work(uint64_t me, unsigned seed) {
    mp_store store = attach(me);
    uint64_t seen[WORDS];
    for (;;) {
        mp_transaction t;
        int state = look(&store, &t, seen);
        if (state < 0)
            _exit(3);
        if (state == 0)
            continue;
        uint64_t gate = t.gate + 1;
        uint64_t from = rand_r(&seed) % WORDS, to = (from + 1 + rand_r(&seed) % (WORDS - 1)) % WORDS;
        if (rand_r(&seed) % 3 == 0) {
            mp_write(&store, &t, from, seen[from] - 1);
            mp_write(&store, &t, to, seen[to] + 1);
        } else { /* it may leave that word unwritten, and then meets it again, or another one */
            to %= 2;
            mp_write(&store, &t, to, seen[to] + 1);
            gate += UINT64_C(1) << 32;
        }
        if (mp_commit(&store, &t, gate) < 0)
            _exit(4);
    }
}

static pid_t start(uint64_t me, unsigned seed) {
    pid_t pid = fork();
    if (pid == 0)
        work(me, seed);
    return pid;
}

int main(int count, char **arguments) {
    double seconds = count > 1 ? atof(arguments[1]) : 5;
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    pid_t pids[PROCESSES];
    unsigned seed = 1, killed = 0, stopped = 0;
    for (uint64_t i = 0; i < PROCESSES; i++)
        pids[i] = start(i, ++seed);
    mp_store store = attach(PROCESSES);
    uint64_t seen[WORDS];
    time_t end = time(0) + (time_t)seconds;
    int wrong = 0;
    while (time(0) < end && !wrong) {
        struct timespec nap = {0, 1000000 * (1 + rand_r(&seed) % 4)};
        nanosleep(&nap, 0);
        uint64_t i = rand_r(&seed) % PROCESSES;
        int stops = rand_r(&seed) % 3 == 0, status;
        kill(pids[i], stops ? SIGSTOP : SIGKILL);
        for (int turn = 0; turn < 20; turn++) { /* the others, and this one, go on at once */
            mp_transaction t;
            wrong |= look(&store, &t, seen) < 0;
        }
        if (stops) {
            kill(pids[i], SIGCONT);
            stopped++;
            continue;
        }
        waitpid(pids[i], &status, 0);
        if (!WIFSIGNALED(status))
            wrong = 1;
        killed++;
        pids[i] = start(i, ++seed);
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        kill(pids[i], SIGKILL);
        waitpid(pids[i], &status, 0);
        wrong |= !WIFSIGNALED(status);
    }
    mp_transaction t;
    wrong |= look(&store, &t, seen) != 1;
    printf("%s: %llu transactions, %u killed, %u stopped, %llu finished for others by the last\n", wrong ? "WRONG" : "right",
           (unsigned long long)mp_version(t.root), killed, stopped, (unsigned long long)store.helped);
    return wrong;
}
