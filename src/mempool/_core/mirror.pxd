"""The C side of Mapping: shared memory that a forked child has not."""

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__linux__)
    #include <errno.h>
    #include <pthread.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #define MEMPOOL_MAPPED_MAX 16
    static struct { char *base; size_t size; int fd; dev_t device; ino_t inode; } mempool_mapped[MEMPOOL_MAPPED_MAX];
    static int mempool_at_fork = 0;
    /* A daemon closes all descriptors that it does not know, and a file of its own has the number then. */
    static int mempool_is_open(int i) {
        struct stat is;
        return mempool_mapped[i].fd >= 0 && fstat(mempool_mapped[i].fd, &is) == 0
            && is.st_dev == mempool_mapped[i].device && is.st_ino == mempool_mapped[i].inode;
    }
    /* In a child of fork, of whatever made it: what it stores is its own, and it holds no lock of its parent's. */
    static void mempool_in_child(void) {
        int i;
        for (i = 0; i < MEMPOOL_MAPPED_MAX; i++) {
            if (mempool_mapped[i].base == NULL)
                continue;
            mmap(mempool_mapped[i].base, mempool_mapped[i].size, PROT_READ | PROT_WRITE,
                 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (mempool_is_open(i))
                close(mempool_mapped[i].fd);
            mempool_mapped[i].base = NULL;
        }
    }
    static inline long long mempool_map(int fd, size_t size) {
        void *base;
        struct stat is;
        int i = 0;
        while (i < MEMPOOL_MAPPED_MAX && mempool_mapped[i].base != NULL)
            i++;
        if (i == MEMPOOL_MAPPED_MAX)
            return -EMFILE;
        if (!mempool_at_fork) {
            int failed = pthread_atfork(NULL, NULL, mempool_in_child);
            if (failed)
                return -failed;
            mempool_at_fork = 1;
        }
        if (fstat(fd, &is) != 0)
            return -errno;
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (base == MAP_FAILED)
            return -errno;
        mempool_mapped[i].base = (char *)base;
        mempool_mapped[i].size = size;
        mempool_mapped[i].fd = fd;
        mempool_mapped[i].device = is.st_dev;
        mempool_mapped[i].inode = is.st_ino;
        return (long long)(intptr_t)base;
    }
    static inline int mempool_mapped_at(long long base) {
        int i;
        for (i = 0; i < MEMPOOL_MAPPED_MAX; i++)
            if (base != 0 && mempool_mapped[i].base == (char *)(intptr_t)base)
                return i;
        return -1;
    }
    /* The caller closes the file now: no child shall close what has its number then. */
    static inline void mempool_let_go(long long base) {
        int i = mempool_mapped_at(base);
        if (i >= 0)
            mempool_mapped[i].fd = -1;
    }
    static inline void mempool_unmap(long long base, size_t size) {
        int i = mempool_mapped_at(base);
        if (i >= 0)
            mempool_mapped[i].base = NULL;
        munmap((void *)(intptr_t)base, size);
    }
    #else
    static inline long long mempool_map(int fd, size_t size) { return -38; }
    static inline int mempool_mapped_at(long long base) { return -1; }
    static inline void mempool_let_go(long long base) {}
    static inline void mempool_unmap(long long base, size_t size) {}
    #endif
    """
    long long mempool_map(int fd, size_t size) noexcept
    int mempool_mapped_at(long long base) noexcept
    void mempool_let_go(long long base) noexcept
    void mempool_unmap(long long base, size_t size) noexcept

cdef class Mapping:
    cdef readonly long long base
    cdef readonly Py_ssize_t size
    cdef object memory
