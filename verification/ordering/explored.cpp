/* Every order of memory accesses that C11 allows, of src/mempool/shared/protocol.h as it stands: searched by relacy.
 *
 * The header's shared types and accesses are relacy's here. A word of 16 bytes is one atomic of a pair; a load of its half is a
 * load of the pair, of which one half is used, so two loads of halves may see two moments, as in the real one.
 *
 * Two threads move one from another word to the first, by transactions; one of them three times, so that it needs its first
 * buffer again while the other may still copy from it, and each time from a word that was not written before. Whoever sees a
 * sum that cannot be, or a transaction that is not applied, fails. Each -DWEAK_... leaves out one order that the header asks for; relacy must notice each.
 */

#include <relacy/relacy.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ostream>

struct pair_of {
    uint64_t value, sequence;
    bool operator==(pair_of const &other) const { return value == other.value && sequence == other.sequence; }
    bool operator!=(pair_of const &other) const { return !(*this == other); }
};
static std::ostream &operator<<(std::ostream &out, pair_of const &of) { return out << of.value << '/' << of.sequence; }

#ifdef WEAK_LOAD
#define ACQUIRES rl::mo_relaxed
#else
#define ACQUIRES rl::mo_acquire
#endif
#ifdef WEAK_STORE
#define RELEASES rl::mo_relaxed
#else
#define RELEASES rl::mo_release
#endif
#ifdef WEAK_SWAP
#define SWAPS rl::mo_relaxed
#else
#define SWAPS rl::mo_acq_rel
#endif

#define MP_EXPLORED
typedef rl::atomic<uint64_t> shared_number;
struct half {
    rl::atomic<pair_of> *of;
    bool is_sequence;
};
struct mp_word {
    rl::atomic<pair_of> both;
    half value, sequence;
    mp_word() : value{&both, false}, sequence{&both, true} {}
};
struct mp_intent {
    shared_number applied, count;
    struct { shared_number word, value; } entry[3];
};
struct mp_client { mp_intent intent[2]; };
typedef uint64_t mp_bell; /* no transaction looks at it */

/* Now and then one is stopped for so long that the other one does all it has to do. */
static void dawdle(rl::debug_info_param info) {
    if (rl::rand(40) == 0)
        for (unsigned turns = rl::rand(200); turns > 0; turns--)
            rl::yield(1, info);
}
static uint64_t get(half *from, rl::memory_order order, rl::debug_info_param info) {
    dawdle(info);
    pair_of found = from->of->load(order, info);
    return from->is_sequence ? found.sequence : found.value;
}
static uint64_t get(shared_number *from, rl::memory_order order, rl::debug_info_param info) {
    dawdle(info);
    return from->load(order, info);
}
static void put(shared_number *to, uint64_t value, rl::memory_order order, rl::debug_info_param info) {
    dawdle(info);
    to->store(value, order, info);
}
static bool exchange(mp_word *word, pair_of found, pair_of wanted, rl::debug_info_param info) {
    return word->both.compare_exchange_strong(found, wanted, SWAPS, info);
}

static shared_number *asked;
#define MP_LOAD(p) get(p, ACQUIRES, $)
#define MP_GLANCE(p) get(p, rl::mo_relaxed, $)
#define MP_STORE(p, v) put(p, v, RELEASES, $)
#define MP_NOTE(p, v) put(p, v, rl::mo_relaxed, $)
#ifdef WEAK_ACQUIRE_FENCE
#define MP_FENCE_ACQUIRE()
#else
#define MP_FENCE_ACQUIRE() rl::atomic_thread_fence(rl::mo_acquire, $)
#endif
#ifdef WEAK_RELEASE_FENCE
#define MP_FENCE_RELEASE()
#else
#define MP_FENCE_RELEASE() rl::atomic_thread_fence(rl::mo_release, $)
#endif
#define MP_PLEASE(store) asked
#define mp_swap(word, value, sequence, new_value, new_sequence) \
    exchange(word, pair_of{value, sequence}, pair_of{new_value, new_sequence}, $)
#define mp_pause(turns) rl::yield(1, $)
#define mp_prefetch(word)

#include "protocol.h"

enum { THREADS = 2, WORDS = 5, START = 100 };
static unsigned const TRANSACTIONS[THREADS] = {3, 2};

template <class suite> struct scene : rl::test_suite<suite, THREADS> {
    mp_word root, words[WORDS];
    mp_client clients[THREADS];
    shared_number courtesy;

    mp_store attach(uint64_t me) {
        mp_store store = mp_store();
        store.root = &root;
        store.words = words;
        store.clients = clients;
        store.word_count = WORDS;
        store.client_count = THREADS;
        store.me = me;
        store.finished = 1;
        store.left_word = MP_NOWHERE;
        return store;
    }

    void before() {
        asked = &courtesy;
        courtesy.store(0, rl::mo_relaxed, $);
        root.both.store(pair_of{0, 0}, rl::mo_relaxed, $);
        for (uint64_t i = 0; i < WORDS; i++)
            words[i].both.store(pair_of{START, 0}, rl::mo_relaxed, $);
        for (mp_client &client : clients)
            for (mp_intent &intent : client.intent) {
                intent.applied.store(0, rl::mo_relaxed, $);
                intent.count.store(0, rl::mo_relaxed, $);
                for (auto &entry : intent.entry) {
                    entry.word.store(0, rl::mo_relaxed, $);
                    entry.value.store(0, rl::mo_relaxed, $);
                }
            }
    }

    /* The gate counts the transactions; each moves one from another word to word 0. */
    void transact(mp_store *store, uint64_t from) {
        for (;;) {
            mp_transaction t;
            RL_ASSERT(mp_begin(store, &t) == 0);
            uint64_t seen[WORDS], sum = 0;
            for (uint64_t i = 0; i < WORDS; i++)
                sum += seen[i] = mp_read(store, &t, i);
            mp_write(store, &t, 0, seen[0] + 1);
            mp_write(store, &t, from, seen[from] - 1);
            if (t.broken) {
                RL_ASSERT(!mp_is_current(store, &t)); /* claim C: overtaken, or it would be corruption */
                mp_pause(1);
                continue;
            }
            int state = mp_commit(store, &t, t.gate + 1);
            RL_ASSERT(state >= 0);
            if (state == 0)
                continue;
            RL_ASSERT(sum == WORDS * START);
            RL_ASSERT(seen[0] == START + mp_version(t.root));
            RL_ASSERT(t.gate == mp_version(t.root));
            return;
        }
    }

};

struct transfers : scene<transfers> {
    void thread(unsigned me) {
        mp_store store = attach(me);
        for (unsigned i = 0; i < TRANSACTIONS[me]; i++)
            transact(&store, me == 0 ? 1 + i : WORDS - 1);
    }

    void after() {
        mp_store store = attach(0);
        mp_transaction t;
        RL_ASSERT(mp_begin(&store, &t) == 0);
        uint64_t done = 0;
        for (unsigned count : TRANSACTIONS)
            done += count;
        RL_ASSERT(mp_version(t.root) == done && t.gate == done);
        RL_ASSERT(mp_read(&store, &t, 0) == START + done && !t.broken);
    }
};

/* Claim A by itself: one makes three transactions, each of which writes word 0 and a word of its own; the other, who has met the
 * first one's root, finishes that, at whatever moment. No word may then be written under a number that is not its transaction's. */
struct copies : scene<copies> {
    void thread(unsigned me) {
        mp_store store = attach(me);
        if (me == 0)
            for (unsigned i = 0; i < 3; i++)
                transact(&store, 1 + i);
        else {
            uint64_t first = mp_root(1, 0, 1), met = 0; /* the root that there is at the beginning names buffer 0 */
            for (int turn = 0; turn < 300 && mp_version(met) == 0; turn++)
                met = MP_LOAD(&root.value);
            if (met != first)
                return;
            dawdle($);
            mp_finish(&store, first);
            for (uint64_t i = 1; i < WORDS; i++) {
                pair_of found = words[i].both.load(rl::mo_relaxed, $);
                RL_ASSERT(found.sequence == 0 || found.sequence == i);
            }
        }
    }

    void after() {}
};

/* Transactions of one word, which whoever makes two in a row leaves unwritten: the other one meets it so, or written over, or written. */
struct leaves : scene<leaves> {
    void add(mp_store *store, uint64_t word) {
        for (;;) {
            mp_transaction t;
            RL_ASSERT(mp_begin(store, &t) == 0);
            uint64_t sum = 0, seen = 0;
            for (uint64_t i = 0; i < WORDS; i++) {
                uint64_t found = mp_read(store, &t, i);
                sum += found;
                seen = i == word ? found : seen;
            }
            mp_write(store, &t, word, seen + 1);
            if (t.broken) {
                RL_ASSERT(!mp_is_current(store, &t));
                mp_pause(1);
                continue;
            }
            int state = mp_commit(store, &t, t.gate + 1);
            RL_ASSERT(state >= 0);
            if (state == 0)
                continue;
            RL_ASSERT(sum == WORDS * START + mp_version(t.root) && t.gate == mp_version(t.root));
            return;
        }
    }

    void thread(unsigned me) {
        static uint64_t const WHICH[THREADS][4] = {{1, 1, 2, 2}, {2, 1, 1, 2}};
        mp_store store = attach(me);
        for (uint64_t word : WHICH[me])
            add(&store, word);
    }

    void after() {
        mp_store store = attach(0);
        mp_transaction t;
        RL_ASSERT(mp_begin(&store, &t) == 0);
        RL_ASSERT(mp_version(t.root) == 8 && mp_read(&store, &t, 1) == START + 4 && mp_read(&store, &t, 2) == START + 4);
        RL_ASSERT(!t.broken);
    }
};

template <class suite> static bool explore(rl::iteration_t executions) {
    rl::test_params parameters;
    parameters.search_type = rl::random_scheduler_type;
    parameters.iteration_count = executions;
    parameters.execution_depth_limit = 20000;
    bool holds = rl::simulate<suite>(parameters);
    printf("%s: %llu executions\n", holds ? "holds" : "FAILS", (unsigned long long)parameters.stop_iteration);
    return holds;
}

int main(int count, char **arguments) {
    rl::iteration_t executions = count > 1 ? (rl::iteration_t)strtoull(arguments[1], 0, 10) : 100000;
    return explore<transfers>(executions) && explore<copies>(executions) && explore<leaves>(executions) ? 0 : 1;
}
