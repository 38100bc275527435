/* What the engine asks of the kernel: memory for a slot, or none; to sleep until a bell rings, and to wake. No Python in here. */

#ifndef MEMPOOL_SYSTEM_H
#define MEMPOOL_SYSTEM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* A descriptor, and of what: a daemon closes all that it does not know, and the number is soon a stranger's, whose file would
   have a hole, and whose stream would carry four bytes of ours (a connected TCP socket takes them, whatever the address says).
   See test_lost_descriptors.py. */
typedef struct {
    int number;
    dev_t device;
    ino_t inode;
} mp_descriptor;

static inline mp_descriptor mp_know(int number) {
    struct stat found;
    mp_descriptor known = {-1, 0, 0};
    if (number >= 0 && fstat(number, &found) == 0) {
        known.number = number;
        known.device = found.st_dev;
        known.inode = found.st_ino;
    }
    return known;
}

static inline int mp_is_still(const mp_descriptor *known) {
    mp_descriptor now = mp_know(known->number);
    return now.number >= 0 && now.device == known->device && now.inode == known->inode;
}

/* What `madvise` cannot do here, by the file: older kernels, or locked pages (mlockall). Whether it was done. */
static inline int mp_allocate(const mp_descriptor *file, int mode, uint64_t offset, uint64_t size) {
    int failed;
    if (!mp_is_still(file))
        return 0;
    do
        failed = fallocate(file->number, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) != 0;
    while (failed && errno == EINTR);
    return !failed;
}

/* Give the pages back. A failure costs memory and nothing else. */
static inline void mp_punch(const mp_descriptor *file, char *address, uint64_t offset, uint64_t size) {
    if (madvise(address, size, MADV_REMOVE) != 0)
        mp_allocate(file, FALLOC_FL_PUNCH_HOLE, offset, size);
}

/* Have every page there, so that no access of anybody meets a hole, which on a full file system is SIGBUS. Whether they are. */
static inline int mp_populate(const mp_descriptor *file, char *address, uint64_t offset, uint64_t size) {
    int failed;
    do
        failed = madvise(address, size, MADV_POPULATE_WRITE) != 0;
    while (failed && (errno == EINTR || errno == EAGAIN));
    if (failed && errno == EINVAL) /* Linux before 5.14 */
        failed = !mp_allocate(file, 0, offset, size);
    if (failed)
        mp_punch(file, address, offset, size); /* a part of it may be there */
    return !failed;
}

/* Sleep while the bell says what it said, at most so many nanoseconds. */
static inline void mp_sleep(uint32_t *bell, uint32_t said, int64_t nanoseconds) {
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    syscall(SYS_futex, bell, FUTEX_WAIT, said, &time, 0, 0);
}

static inline void mp_ring_by(uint32_t *bell, uint32_t by) {
    __atomic_fetch_add(bell, by, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, bell, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

static inline void mp_ring(uint32_t *bell) { mp_ring_by(bell, 1); }

/* What the bell of a place is rung by where there is news for whoever waits there. A bell that is rung so often by 1 that it
   counts one more of these tells of news that there is none: then the head of the line asks for memory once in vain. */
#define MP_NEWS (1u << 16)

/* How whoever waits at a place is woken. Each is a hint that a hint may be lost of: every waiter looks by himself now and then.
     MP_LISTENS   a thread of its process sleeps on the client's bell, and looks at all places of that process
     MP_SLEEPS    a thread sleeps on the bell of the place itself
     above        an event loop reads from a datagram socket with this number, whose name is made of the file's, the client's
                  and this one; a name in no file system, so nothing is left of it when its process ends, however that ends. */
#define MP_LISTENS 0u
#define MP_SLEEPS 1u
#define MP_FIRST_DOOR 2u

static inline socklen_t mp_door_address(
    struct sockaddr_un *address, const char *file, uint64_t client, uint64_t epoch, uint32_t door) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "mempool-%.32s-%llu-%llu-%u", file,
                          (unsigned long long)client, (unsigned long long)epoch, door);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

/* A socket that is read as this door. -1: none is to be had. */
static inline int mp_open_door(const char *file, uint64_t client, uint64_t epoch, uint32_t door) {
    struct sockaddr_un address;
    socklen_t size = mp_door_address(&address, file, client, epoch, door);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, size) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Tell the loop behind this door of a place. Whether it was told: else it has ended, has much to read, or is in another network
   namespace. Never blocks. */
static inline int mp_knock(const char *file, uint64_t client, uint64_t epoch, uint32_t door, uint32_t place) {
    static mp_descriptor sender = {-1, 0, 0}; /* of this process; it is bound to nothing, so a child may use it, too */
    struct sockaddr_un address;
    socklen_t size = mp_door_address(&address, file, client, epoch, door);
    if (!mp_is_still(&sender)) /* somebody has closed it; or it is the first */
        sender = mp_know(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    return sender.number >= 0
        && sendto(sender.number, &place, sizeof place, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address, size) >= 0;
}

/* The place that was told of next. -1: there is none. */
static inline int64_t mp_answer(int fd) {
    uint32_t place;
    return recv(fd, &place, sizeof place, MSG_DONTWAIT) == sizeof place ? (int64_t)place : -1;
}

/* A page of marks, all of which are 0 here at first, and 0 in every child, however it was forked: what a process has done with
   what it may have inherited. Its pid would not tell: a number comes again, of a process whose grandchild this is.
   NULL: there is none to be had. */
enum { MP_SETTLED, MP_ATTACHING, MP_BEGUN, MP_LOCKED }; /* which byte; see Transaction */

static inline volatile char *mp_make_mark(void) {
    char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 0;
    if (madvise(page, 4096, MADV_WIPEONFORK) != 0) {
        munmap(page, 4096);
        return 0;
    }
    return page;
}

static inline void mp_drop_mark(volatile char *page) { munmap((void *)page, 4096); }

/* The first bytes of a file, for reading and writing. No descriptor is kept: Python's `mmap` keeps a copy (before 3.13 always) and
   closes it at its end. A process that has become a daemon may have a file or a connection under that number by then.
   NULL: errno says why. */
static inline void *mp_map(int file, uint64_t size) {
    void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return memory == MAP_FAILED ? 0 : memory;
}

static inline void mp_unmap(void *memory, uint64_t size) { munmap(memory, size); }

/* Another open file of the same file, whatever has become of its name. -1: errno says why. */
static inline int mp_open_again(int file) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return open(path, O_RDWR | O_CLOEXEC);
}

#endif
