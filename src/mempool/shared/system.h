/* What the engine asks of the kernel: memory for a slot, or none; and to sleep until a bell rings. No Python in here. */

#ifndef MEMPOOL_SYSTEM_H
#define MEMPOOL_SYSTEM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* Give the pages back. A failure costs memory and nothing else. */
static inline int mp_punch(int fd, char *address, uint64_t offset, uint64_t size) {
    if (madvise(address, size, MADV_REMOVE) == 0)
        return 0;
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
}

/* Have every page there, so that no access of anybody meets a hole, which on a full file system is SIGBUS. Whether they are. */
static inline int mp_populate(int fd, char *address, uint64_t offset, uint64_t size) {
    int failed;
    do
        failed = madvise(address, size, MADV_POPULATE_WRITE) != 0;
    while (failed && (errno == EINTR || errno == EAGAIN));
    if (failed && errno == EINVAL) /* Linux before 5.14 */
        do
            failed = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) != 0;
        while (failed && errno == EINTR);
    if (failed)
        mp_punch(fd, address, offset, size); /* a part of it may be there */
    return !failed;
}

/* Sleep while the bell says what it said, at most so many nanoseconds. */
static inline void mp_sleep(uint32_t *bell, uint32_t said, int64_t nanoseconds) {
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    syscall(SYS_futex, bell, FUTEX_WAIT, said, &time, 0, 0);
}

static inline void mp_ring(uint32_t *bell) {
    __atomic_fetch_add(bell, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, bell, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

/* A page that is 1 here and 0 in every child, however it was forked. NULL: there is none to be had. */
static inline volatile char *mp_make_mark(void) {
    char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 0;
    if (madvise(page, 4096, MADV_WIPEONFORK) != 0) {
        munmap(page, 4096);
        return 0;
    }
    *page = 1;
    return page;
}

static inline void mp_drop_mark(volatile char *page) { munmap((void *)page, 4096); }

#endif
