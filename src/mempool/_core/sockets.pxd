"""The C side of sockets.py: system calls that keep the GIL."""

cdef extern from *:
    """
    #if defined(__linux__)
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    static inline long long mempool_inode(int fd) {
        struct stat is;
        return fstat(fd, &is) != 0 ? -(long long)errno : (long long)is.st_ino;
    }
    static inline long long mempool_accept(int fd, long long inode) {
        int got;
        if (mempool_inode(fd) != inode)
            return -EBADF;
        got = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        return got < 0 ? -(long long)errno : got;
    }
    static inline long long mempool_receive(int fd, char *to, size_t size) {
        ssize_t got = recv(fd, to, size, MSG_DONTWAIT);
        return got < 0 ? -(long long)errno : (long long)got;
    }
    static inline long long mempool_send(int fd, const char *data, size_t size) {
        ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        return sent < 0 ? -(long long)errno : (long long)sent;
    }
    #else
    static inline long long mempool_accept(int fd, long long inode) { return -38; }
    static inline long long mempool_receive(int fd, char *to, size_t size) { return -38; }
    static inline long long mempool_send(int fd, const char *data, size_t size) { return -38; }
    #endif
    """
    long long mempool_accept(int fd, long long inode) noexcept
    long long mempool_receive(int fd, char *to, size_t size) noexcept
    long long mempool_send(int fd, const char *data, size_t size) noexcept
