/* Preloaded into a server (Linux): makes its flushes slow, or counts its system calls and kills it at one of them.
 *
 * SHIM_SLOW_MS  how many milliseconds longer each fsync and fdatasync takes
 * SHIM_STATE    a file of 4,096 bytes: the count, then the call at which the process was killed
 * SHIM_KILL_AT  the number of this call, from 1; the process is killed before it
 * SHIM_HALF     1: if this call writes, it first writes half of its data
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct state {
    atomic_long count;
    char call[56];
    char target[1024];
};

static struct state *state;
static long kill_at, slow_ms;
static int half;

__attribute__((constructor)) static void prepare(void)
{
    const char *file = getenv("SHIM_STATE"), *at = getenv("SHIM_KILL_AT"), *slow = getenv("SHIM_SLOW_MS");
    const char *halves = getenv("SHIM_HALF");
    kill_at = at ? atol(at) : 0;
    slow_ms = slow ? atol(slow) : 0;
    half = halves && *halves == '1';
    int handle = file ? open(file, O_RDWR) : -1;
    if (handle < 0)
        return;
    void *mapped = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    close(handle);
    state = mapped == MAP_FAILED ? NULL : mapped;
}

static void die(const char *call, int handle, const char *path)
{
    char link[32];
    ssize_t length = 0;
    snprintf(state->call, sizeof state->call, "%s", call);
    if (path)
        snprintf(state->target, sizeof state->target, "%s", path);
    else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
        length = readlink(link, state->target, sizeof state->target - 1);
        state->target[length > 0 ? length : 0] = 0;
    }
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Whether the process must be killed at this call. */
static int is_last(void)
{
    return state && atomic_fetch_add(&state->count, 1) + 1 == kill_at;
}

static void delay(void)
{
    struct timespec span = {slow_ms / 1000, slow_ms % 1000 * 1000000};
    if (slow_ms)
        nanosleep(&span, NULL);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A call on a descriptor. */
#define PASS(name, handle, ...) \
    REAL(name); \
    if (is_last()) \
        die(#name, handle, NULL); \
    return real(__VA_ARGS__)

/* A call on a path. */
#define PASS_PATH(name, path, ...) \
    REAL(name); \
    if (is_last()) \
        die(#name, -1, path); \
    return real(__VA_ARGS__)

/* A call that writes `size` bytes. */
#define PASS_WRITE(name, handle, size, written, ...) \
    REAL(name); \
    if (is_last()) { \
        if (half && size > 1) \
            (void)!written; \
        die(half && size > 1 ? "half of " #name : #name, handle, NULL); \
    } \
    return real(__VA_ARGS__)

ssize_t write(int h, const void *d, size_t n) { PASS_WRITE(write, h, n, real(h, d, n / 2), h, d, n); }
ssize_t pwrite(int h, const void *d, size_t n, off_t o) { PASS_WRITE(pwrite, h, n, real(h, d, n / 2, o), h, d, n, o); }
ssize_t pwrite64(int h, const void *d, size_t n, off64_t o)
{
    PASS_WRITE(pwrite64, h, n, real(h, d, n / 2, o), h, d, n, o);
}
ssize_t writev(int h, const struct iovec *v, int n) { PASS(writev, h, h, v, n); }
ssize_t send(int h, const void *d, size_t n, int f) { PASS_WRITE(send, h, n, real(h, d, n / 2, f), h, d, n, f); }
ssize_t sendto(int h, const void *d, size_t n, int f, const struct sockaddr *a, socklen_t l)
{
    PASS_WRITE(sendto, h, n, real(h, d, n / 2, f, a, l), h, d, n, f, a, l);
}
ssize_t sendmsg(int h, const struct msghdr *m, int f) { PASS(sendmsg, h, h, m, f); }
ssize_t recv(int h, void *d, size_t n, int f) { PASS(recv, h, h, d, n, f); }
ssize_t recvfrom(int h, void *d, size_t n, int f, struct sockaddr *a, socklen_t *l)
{
    PASS(recvfrom, h, h, d, n, f, a, l);
}
ssize_t recvmsg(int h, struct msghdr *m, int f) { PASS(recvmsg, h, h, m, f); }
int connect(int h, const struct sockaddr *a, socklen_t l) { PASS(connect, h, h, a, l); }
int fsync(int h) { delay(); PASS(fsync, h, h); }
int fdatasync(int h) { delay(); PASS(fdatasync, h, h); }
int ftruncate(int h, off_t n) { PASS(ftruncate, h, h, n); }
int ftruncate64(int h, off64_t n) { PASS(ftruncate64, h, h, n); }
int posix_fallocate(int h, off_t o, off_t n) { PASS(posix_fallocate, h, h, o, n); }
int posix_fallocate64(int h, off64_t o, off64_t n) { PASS(posix_fallocate64, h, h, o, n); }
int link(const char *a, const char *b) { PASS_PATH(link, b, a, b); }
int linkat(int x, const char *a, int y, const char *b, int f) { PASS_PATH(linkat, b, x, a, y, b, f); }
int rename(const char *a, const char *b) { PASS_PATH(rename, b, a, b); }
int renameat(int x, const char *a, int y, const char *b) { PASS_PATH(renameat, b, x, a, y, b); }
int unlink(const char *p) { PASS_PATH(unlink, p, p); }
int unlinkat(int x, const char *p, int f) { PASS_PATH(unlinkat, p, x, p, f); }
int mkdir(const char *p, mode_t m) { PASS_PATH(mkdir, p, p, m); }
int rmdir(const char *p) { PASS_PATH(rmdir, p, p); }
