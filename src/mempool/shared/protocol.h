/* How several processes change shared memory together, without a lock, so that each may be killed at any instruction.

   The truth is a root and an array of words. A word is {value, sequence}, 16 bytes, where `sequence` is the number of the
   transaction that wrote it. The root is {version | client | buffer, gate}, 16 bytes as well: it names the last transaction
   and where its intent lies. Numbers only grow, so no word and no root is ever the same twice (no ABA).

   A transaction:
     1. mp_begin   reads the root, and first finishes the transaction that the root names, if that is not done yet.
     2. mp_read, mp_write   collect what shall change, in private.
     3. mp_commit  writes that as an intent into the caller's own entry, into the one of its two buffers that the root does
                   not name; then one compare-and-swap of the root. That swap is the moment at which everything has happened.
     4.            ... then the words are written, one compare-and-swap each, and the intent is marked as applied.
   Who is killed or stopped before the swap has changed nothing. Who is killed or stopped after it has changed everything:
   the next one who begins reads the same intent and writes the words in its place. Doing so twice, late or together
   is harmless, because a word with a sequence of `version` or more is left alone.

   So step 4 may be left to the next one who begins: whoever commits twice in a row, with nobody in between, leaves a single
   word unwritten (mp_commit), reads it in private (mp_read), and need not write it where its own next transaction writes
   the same word. An element that one process takes and gives, again and again, costs one swap each time.

   A reader must check four claims:
     A. Whoever applies an intent read it whole while the root named it. mp_finish copies it, then reads the root again; the
        owner never writes into the buffer that the root names (mp_commit, `spare`). With one buffer, the owner's next and
        uncommitted intent could be applied under this one's number.
     B. No word is written from a stale copy: its sequence is `version` or more by then.
     C. A decision saw one moment: each word that it read has a sequence of at most the version that it began with, and the
        root is still the same at the end (the swap, or mp_is_current where nothing changes).
     D. What the root does not name is applied, or written over by what it names. Before its swap, mp_commit writes the word
        that this client has left, unless that is among the words that the new transaction writes (mp_write_left).

   Nothing here trusts the shared bytes: every index and count is compared with the sizes that the process was given when it
   attached, every loop is bounded, and what is out of range makes the transaction `broken`, which is never committed.
   verification/spin/shared.pml is the model of this file. */

#ifndef MEMPOOL_PROTOCOL_H
#define MEMPOOL_PROTOCOL_H

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__))
#error "mempool.shared needs Linux on x86-64 or AArch64: its transactions are 16-byte compare-and-swaps"
#endif

#include <stdint.h>

#define MP_ENTRIES 24            /* words that one transaction may change */
#define MP_NOWHERE UINT64_MAX    /* no word */
#define MP_ATTEMPTS (1u << 22)   /* a root that moves so often under one call is not moved by this library */
#define MP_PATIENCE 4            /* commits lost in a row, after which the others are asked to hold back */
#define MP_COURTESY 64           /* for how many transactions they do */
#define MP_VERSION_MAX ((UINT64_C(1) << 52) - 1) /* at a million transactions a second: 142 years */

#ifndef MP_EXPLORED /* verification/ordering has types and accesses of its own, of which an explorer tries every order */
typedef struct { _Alignas(16) uint64_t value; uint64_t sequence; } mp_word;
typedef struct { uint64_t applied, count; struct { uint64_t word, value; } entry[MP_ENTRIES]; } mp_intent;
typedef struct { uint32_t rings, door; } mp_bell; /* of a place: a futex, and how whoever waits there is woken; see system.h */
typedef struct {                 /* one per client; written by it alone */
    uint64_t pid, started, pid_namespace;
    uint32_t bell, listens;      /* bell: a futex that is rung for all of its tickets together, if it listens */
    uint64_t nanoseconds[4];     /* that its callers waited: in all, the longest */
    _Alignas(64) mp_intent intent[2];
    uint64_t counts[52];         /* what it has done, and those before it under this number: for figures, and for no decision */
} mp_client;
_Static_assert(sizeof(mp_word) == 16 && sizeof(mp_intent) == 400 && sizeof(mp_client) == 1280, "the layout of the file");
#endif

typedef struct {                 /* private to a process: where the shared parts are, and how big */
    mp_word *root;               /* behind it, in the same cache line: please */
    mp_word *words;
    mp_client *clients;
    mp_bell *bells;              /* for each place in the line */
    uint64_t word_count, client_count, bell_count;
    uint64_t me;                 /* which client this is */
    uint64_t finished;           /* a root whose transaction is known to be applied, but for what this client has left */
    uint64_t left_word;          /* the word of that root, its own, that it left unwritten; or MP_NOWHERE */
    uint64_t lost, polite;       /* commits lost in a row; whether it has just held back */
    uint64_t left_value;         /* apart: two neighbours are written at once, which is slow across two cache lines */
    uint64_t retries, helped;    /* since it was attached: what collisions cost, for the figures */
} mp_store;

typedef struct {
    uint64_t root, count, gate, broken; /* root, gate: as they were when it began. count and broken are apart, as above */
    struct { uint64_t word, value; } entry[MP_ENTRIES];
} mp_transaction;

#ifndef MP_EXPLORED
#ifdef __x86_64__ /* its loads acquire, its stores release, and a compiler keeps the order of volatile accesses. After each
                     atomic access it would read anew all that is private, too: a tenth of the whole. */
#define MP_SHARED(p) (*(volatile __typeof__(*(p)) *)(p))
#define MP_LOAD(p) MP_SHARED(p)
#define MP_GLANCE(p) MP_SHARED(p)
#define MP_STORE(p, v) ((void)(MP_SHARED(p) = (v)))
#define MP_NOTE(p, v) ((void)(MP_SHARED(p) = (v)))
#else
#define MP_LOAD(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define MP_GLANCE(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define MP_STORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define MP_NOTE(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
#endif
#define MP_FENCE_ACQUIRE() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define MP_FENCE_RELEASE() __atomic_thread_fence(__ATOMIC_RELEASE)
#define MP_PLEASE(store) ((uint64_t *)((store)->root + 1))

/* Compare and swap 16 bytes, with acquire and release. It may fail though nothing has changed: all who call try again. */
static inline int mp_swap(mp_word *word, uint64_t value, uint64_t sequence, uint64_t new_value, uint64_t new_sequence) {
#ifdef __x86_64__
    int done; /* by hand, as compilers take such pairs through the stack; a full barrier */
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(done), "+m"(*word), "+a"(value), "+d"(sequence) : "b"(new_value), "c"(new_sequence) : "memory");
    return done;
#elif defined(__ARM_FEATURE_ATOMICS)
    register uint64_t low __asm__("x0") = value, high __asm__("x1") = sequence; /* CASP wants even registers, in pairs */
    register uint64_t new_low __asm__("x2") = new_value, new_high __asm__("x3") = new_sequence;
    __asm__ volatile("caspal %0, %1, %2, %3, %4"
                     : "+r"(low), "+r"(high) : "r"(new_low), "r"(new_high), "Q"(*word) : "memory");
    return low == value && high == sequence;
#else
    uint64_t low, high;
    uint32_t failed = 0;
    do { /* what a load of a pair saw is one moment only if the store succeeds: until then a difference is a failure */
        __asm__ volatile("ldaxp %0, %1, %2" : "=&r"(low), "=&r"(high) : "Q"(*word) : "memory");
        if (low != value || high != sequence)
            return 0;
        __asm__ volatile("stlxp %w0, %2, %3, %1"
                         : "=&r"(failed), "=Q"(*word) : "r"(new_value), "r"(new_sequence) : "memory");
    } while (failed);
    return 1;
#endif
}

static inline void mp_pause(int turns) {
    while (turns-- > 0) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#else
        __asm__ volatile("isb" ::: "memory"); /* `yield` is no pause on most of them */
#endif
    }
}

/* For writing: otherwise the cache line comes twice, first shared and then owned. */
static inline void mp_prefetch(mp_word *word) {
#ifdef __x86_64__
    __asm__ volatile("prefetchw %0" : : "m"(*word));
#else
    __builtin_prefetch(word, 1, 3);
#endif
}
#endif

static inline uint64_t mp_version(uint64_t root) { return root >> 12; }
static inline uint64_t mp_owner(uint64_t root) { return root >> 1 & 0x7FF; }
static inline uint64_t mp_buffer(uint64_t root) { return root & 1; }
static inline uint64_t mp_root(uint64_t version, uint64_t owner, uint64_t buffer) { return version << 12 | owner << 1 | buffer; }

/* Write one word of transaction `version`, unless that was done. 0: done by whomever. -1: the word is not what it can be. */
static __attribute__((noinline)) int mp_apply(mp_store *store, uint64_t word, uint64_t value, uint64_t version) {
    mp_word *target = &store->words[word];
    for (int turn = 0; turn < 4096; turn++) { /* it fails when another applies the same, or late an older one: each once */
        uint64_t sequence = MP_LOAD(&target->sequence);
        if (sequence >= version)
            return 0;
        if (mp_swap(target, MP_GLANCE(&target->value), sequence, value, version))
            return 0;
    }
    return -1;
}

/* See to it that the transaction which this root names is applied. 1: it is. 0: the root has moved on. -1: broken bytes. */
static __attribute__((noinline)) int mp_finish(mp_store *store, uint64_t root) {
    uint64_t version = mp_version(root), owner = mp_owner(root);
    if (owner >= store->client_count)
        return -1;
    mp_intent *intent = &store->clients[owner].intent[mp_buffer(root)];
    mp_transaction copy;
    if (MP_LOAD(&intent->applied) == version)
        return 1;
    copy.count = MP_GLANCE(&intent->count);
    uint64_t readable = copy.count <= MP_ENTRIES ? copy.count : 0;
    for (uint64_t i = 0; i < readable; i++) {
        copy.entry[i].word = MP_GLANCE(&intent->entry[i].word);
        copy.entry[i].value = MP_GLANCE(&intent->entry[i].value);
    }
    MP_FENCE_ACQUIRE();
    if (MP_GLANCE(&store->root->value) != root)
        return 0; /* claim A: copied too late, so it may be another one's */
    if (copy.count > MP_ENTRIES)
        return -1;
    for (uint64_t i = 0; i < copy.count; i++)
        if (copy.entry[i].word >= store->word_count)
            return -1;
    for (uint64_t i = 0; i < copy.count; i++)
        if (mp_apply(store, copy.entry[i].word, copy.entry[i].value, version) < 0)
            return -1;
    store->helped++;
    return 1;
}

/* Hold back once if another client has asked for it: a hint, on which neither safety nor progress depends. */
static inline int mp_holds_back(mp_store *store, uint64_t root) {
    uint64_t please = MP_GLANCE(MP_PLEASE(store));
    if (__builtin_expect(please == 0, 1) || (please & 0xFFF) == store->me + 1 || store->polite)
        return 0;
    if (mp_version(root) - (please >> 12) >= MP_COURTESY)
        return 0;
    store->polite = 1;
    mp_pause(40);
    return 1;
}

/* Begin. 0, or -1: broken bytes. */
static inline int mp_begin(mp_store *store, mp_transaction *t) {
    mp_word *place = store->root;
    for (uint32_t turn = 0; turn < MP_ATTEMPTS; turn++) {
        mp_prefetch(place);
        uint64_t root = MP_LOAD(&place->value), gate = MP_LOAD(&place->sequence);
        if (MP_LOAD(&place->value) != root || mp_holds_back(store, root))
            continue;
        if (root != store->finished) {
            int state = mp_finish(store, root);
            if (state < 0)
                return -1;
            if (state == 0)
                continue;
            store->finished = root;
            store->left_word = MP_NOWHERE; /* somebody has begun since, and so has written it */
        }
        if (store->polite)
            store->polite = 0;
        t->root = root;
        t->gate = gate;
        t->count = t->broken = 0;
        return 0;
    }
    return -1;
}

static inline int mp_is_current(mp_store *store, mp_transaction *t) {
    MP_FENCE_ACQUIRE();
    return MP_LOAD(&store->root->value) == t->root;
}

/* The sequence of a word: the number of the transaction that wrote it. */
static inline uint64_t mp_sequence(mp_store *store, mp_transaction *t, uint64_t word) {
    if (word >= store->word_count) {
        t->broken = 1;
        return 0;
    }
    return word == store->left_word ? mp_version(t->root) : MP_LOAD(&store->words[word].sequence);
}

static inline __attribute__((always_inline)) uint64_t mp_read(mp_store *store, mp_transaction *t, uint64_t word) {
    for (uint64_t i = 0; i < t->count; i++)
        if (t->entry[i].word == word)
            return t->entry[i].value;
    if (word >= store->word_count) {
        t->broken = 1;
        return 0;
    }
    if (word == store->left_word)
        return store->left_value;
    if (MP_LOAD(&store->words[word].sequence) > mp_version(t->root)) /* claim C: later than this transaction's moment */
        t->broken = 1;
    return MP_LOAD(&store->words[word].value);
}

static inline __attribute__((always_inline)) void mp_write(mp_store *store, mp_transaction *t, uint64_t word, uint64_t value) {
    uint64_t i = 0;
    while (i < t->count && t->entry[i].word != word)
        i++;
    if (i >= MP_ENTRIES || word >= store->word_count) {
        t->broken = 1;
        return;
    }
    t->entry[i].word = word;
    t->entry[i].value = value;
    if (i == t->count)
        t->count++;
}

static __attribute__((noinline)) void mp_was_overtaken(mp_store *store) {
    store->retries++;
    if (++store->lost < MP_PATIENCE)
        mp_pause(30);
    else
        MP_NOTE(MP_PLEASE(store), mp_version(MP_GLANCE(&store->root->value)) << 12 | (store->me + 1));
}

/* Claim D: before this transaction's swap, see to the word of the last one. -1: broken bytes. */
static inline int mp_write_left(mp_store *store, mp_transaction *t) {
    for (uint64_t i = 0; i < t->count; i++)
        if (t->entry[i].word == store->left_word)
            return 0;
    uint64_t word = store->left_word;
    store->left_word = MP_NOWHERE;
    return mp_apply(store, word, store->left_value, mp_version(t->root));
}

/* `mp_commit` of so many words. In locals: behind each write to shared memory a compiler would read them anew. */
static inline __attribute__((always_inline)) int mp_commit_words(mp_store *store, mp_transaction *t, uint64_t gate,
                                                                 uint64_t count) {
    uint64_t before = t->root, gate_before = t->gate, version = mp_version(before) + 1, me = store->me;
    if (t->broken || version > MP_VERSION_MAX)
        return -1;
    if (store->left_word != MP_NOWHERE && mp_write_left(store, t) < 0)
        return -1;
    int follows_own = mp_owner(before) == me;
    uint64_t spare = follows_own ? !mp_buffer(before) : 0; /* claim A */
    mp_intent *intent = &store->clients[me].intent[spare];
    mp_word *place = store->root;
    MP_FENCE_RELEASE();
    MP_NOTE(&intent->count, count);
    for (uint64_t i = 0; i < count; i++) {
        MP_NOTE(&intent->entry[i].word, t->entry[i].word);
        MP_NOTE(&intent->entry[i].value, t->entry[i].value);
    }
    uint64_t root = mp_root(version, me, spare);
    if (!mp_swap(place, before, gate_before, root, gate)) {
        mp_was_overtaken(store);
        return 0;
    }
    /* Here it has happened. Whoever begins next would do the rest, and a single word is left to him. Not where others take
       their turns, who would have to write it; nor if the gate stays as it was: words that are looked at without a
       transaction are changed so (anew.py). */
    if (count == 1 && gate != gate_before && follows_own) {
        store->left_word = t->entry[0].word;
        store->left_value = t->entry[0].value;
    } else {
        store->left_word = MP_NOWHERE;
        for (uint64_t i = 0; i < count; i++)
            if (mp_apply(store, t->entry[i].word, t->entry[i].value, version) < 0)
                return -1;
        MP_STORE(&intent->applied, version);
    }
    store->finished = root;
    if (__builtin_expect(store->lost != 0, 0)) {
        if (store->lost >= MP_PATIENCE)
            MP_NOTE(MP_PLEASE(store), 0);
        store->lost = 0;
    }
    return 1;
}

static __attribute__((noinline)) int mp_commit_many(mp_store *store, mp_transaction *t, uint64_t gate) {
    return mp_commit_words(store, t, gate, t->count);
}

/* Put it in force, with this gate. 1: it has happened. 0: overtaken, nothing has happened; begin again. -1: broken bytes. */
static inline int mp_commit(mp_store *store, mp_transaction *t, uint64_t gate) {
    return t->count == 1 ? mp_commit_words(store, t, gate, 1) : mp_commit_many(store, t, gate);
}

#endif
