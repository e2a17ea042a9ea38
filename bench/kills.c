/* Counts what a process does to files below a folder, and kills it at the N-th, or holds it at each: preloaded by bench/kills.py.

   KILLS names a file of 8192 bytes, shared by all processes: armed, count, at, log, leader, signal, holding, busy, waits, goes
   (32-bit integers), then the folder. Where a signal is given, it is sent once in place of SIGKILL. Where it holds, one process at a time waits before its event until the bench, which looks at the
   folder meanwhile, has set goes to the event's number. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct shared { volatile int armed, count, at, log, leader, signal, holding, busy, waits, goes; char folder[8152]; };
static struct shared *here;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("KILLS");
    int fd = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDWR) : -1;
    if (fd < 0) return;
    void *found = mmap(0, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) here = found;
}

void leave_alone(void) { here = 0; } /* this process is not counted from now on */

static void event(const char *what, const char *path) {
    if (!here || !here->armed || !path) return;
    char full[4096];
    if (path[0] != '/') {
        if (!getcwd(full, 2000)) return;
        strcat(full, "/");
        strncat(full, path, 2000);
    } else {
        strncpy(full, path, 4095);
        full[4095] = 0;
    }
    if (strncmp(full, here->folder, strlen(here->folder))) return;
    int kept = errno;
    if (here->holding)
        while (__sync_lock_test_and_set(&here->busy, 1)) usleep(50);
    int n = __sync_add_and_fetch(&here->count, 1);
    if (here->log) dprintf(here->log, "%d %s %s\n", n, what, full + strlen(here->folder));
    if (here->at && here->signal) {
        if (n == here->at) kill(here->signal == SIGINT ? -here->leader : here->leader, here->signal); /* Ctrl-C is the group's */
    } else if (here->at && n >= here->at) { /* the command's group, and this process's own: all of its workers, at their next event */
        kill(-here->leader, SIGKILL);
        kill(0, SIGKILL);
    }
    if (here->holding) {
        here->waits = n;
        while (here->armed && here->goes < n) usleep(50);
        __sync_lock_release(&here->busy);
    }
    errno = kept;
}

static void on_fd(const char *what, int fd) {
    if (!here || !here->armed || fd < 3) return;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    event(what, path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPENED(name)                                                                       \
    int name(const char *path, int flags, ...) {                                           \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);   \
        REAL(name);                                                                        \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT)) event("open", path);                    \
        return real(path, flags, mode);                                                    \
    }
OPENED(open)
OPENED(open64)
#define OPENED_AT(name)                                                                    \
    int name(int at, const char *path, int flags, ...) {                                   \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);   \
        REAL(name);                                                                        \
        if (at == AT_FDCWD && flags & (O_WRONLY | O_RDWR | O_CREAT)) event("open", path);  \
        return real(at, path, flags, mode);                                                \
    }
OPENED_AT(openat)
OPENED_AT(openat64)
#define OPENED_FILE(name)                                                                  \
    FILE *name(const char *path, const char *mode) {                                       \
        REAL(name);                                                                        \
        if (strpbrk(mode, "wa+")) event("open", path);                                     \
        return real(path, mode);                                                           \
    }
OPENED_FILE(fopen)
OPENED_FILE(fopen64)
ssize_t write(int fd, const void *b, size_t n) { REAL(write); on_fd("write", fd); return real(fd, b, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); on_fd("write", fd); return real(fd, v, n); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { REAL(pwrite); on_fd("write", fd); return real(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64); on_fd("write", fd); return real(fd, b, n, o); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); on_fd("truncate", fd); return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); on_fd("truncate", fd); return real(fd, n); }
int fsync(int fd) { REAL(fsync); on_fd("fsync", fd); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); on_fd("fsync", fd); return real(fd); }
int rename(const char *a, const char *b) { REAL(rename); event("rename", b); return real(a, b); }
int renameat(int f, const char *a, int t, const char *b) { REAL(renameat); event("rename", b); return real(f, a, t, b); }
int renameat2(int f, const char *a, int t, const char *b, unsigned int flags) {
    REAL(renameat2);
    event("exchange", b);
    return real(f, a, t, b, flags);
}
int unlink(const char *a) { REAL(unlink); event("unlink", a); return real(a); }
int unlinkat(int f, const char *a, int flags) {
    REAL(unlinkat);
    if (f == AT_FDCWD) event("unlink", a); else on_fd("unlink", f);
    return real(f, a, flags);
}
int rmdir(const char *a) { REAL(rmdir); event("rmdir", a); return real(a); }
int mkdir(const char *a, mode_t m) { REAL(mkdir); event("mkdir", a); return real(a, m); }
int link(const char *a, const char *b) { REAL(link); event("link", b); return real(a, b); }
int linkat(int f, const char *a, int t, const char *b, int flags) {
    REAL(linkat);
    event("link", b);
    return real(f, a, t, b, flags);
}
int symlink(const char *a, const char *b) { REAL(symlink); event("symlink", b); return real(a, b); }
ssize_t sendfile(int to, int from, off_t *o, size_t n) { REAL(sendfile); on_fd("write", to); return real(to, from, o, n); }
ssize_t sendfile64(int to, int from, off64_t *o, size_t n) { REAL(sendfile64); on_fd("write", to); return real(to, from, o, n); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
    REAL(copy_file_range);
    on_fd("write", to);
    return real(from, a, to, b, n, flags);
}
int chmod(const char *a, mode_t m) { REAL(chmod); event("chmod", a); return real(a, m); }
