// Loaded into the engine's process by beside.sh (LD_PRELOAD), so that single parts of it stand still or become slow while
// everything else goes on, without a switch for it in the engine:
//
//   files      every write and flush of a file below KARAT_HOLD_FOLDER takes KARAT_HOLD_WRITE_MS longer; where that is 0 it
//              does not return before it is let go: a disk that is slow, or one that does not answer
//   threads    a thread that is sent SIGUSR2 stands still
//
// Both only while the file KARAT_HOLD_SWITCH exists. Without it, and for all other files, a call costs one look at a table.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 65536
#define LOOK_MS 5

static const char *folder, *hold_switch;
static size_t folder_length;
static long write_ms;
// Files below the folder by descriptor. A byte is written before the descriptor is told to anybody.
static volatile char held[FILES_MAX];

static void sleep_ms(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {}
}

static int is_on(void) { return hold_switch && access(hold_switch, F_OK) == 0; }

static void until_let_go(void) {
    while (is_on()) sleep_ms(LOOK_MS);
}

static void stand_still(int number) {
    (void)number;
    int before = errno;
    until_let_go();
    errno = before;
}

__attribute__((constructor)) static void begin(void) {
    const char *ms = getenv("KARAT_HOLD_WRITE_MS");
    folder = getenv("KARAT_HOLD_FOLDER");
    hold_switch = getenv("KARAT_HOLD_SWITCH");
    folder_length = folder ? strlen(folder) : 0;
    write_ms = ms ? atol(ms) : 0;
    struct sigaction action = {.sa_handler = stand_still, .sa_flags = SA_RESTART};
    if (hold_switch) sigaction(SIGUSR2, &action, NULL);
}

static int note(int descriptor, const char *path) {
    if (descriptor >= 0 && descriptor < FILES_MAX)
        held[descriptor] = folder_length && strncmp(path, folder, folder_length) == 0;
    return descriptor;
}

// A number may have been given to something else by a call that does not come through here: the system is asked.
static int is_below(int descriptor) {
    char link[64] = "/proc/self/fd/", path[4096], digits[16];
    int count = 0;
    for (int rest = descriptor; rest > 0 || count == 0; rest /= 10) digits[count++] = '0' + rest % 10;
    size_t end = strlen(link);
    while (count > 0) link[end++] = digits[--count];
    link[end] = 0;
    ssize_t length = readlink(link, path, sizeof path);
    return length >= (ssize_t)folder_length && memcmp(path, folder, folder_length) == 0;
}

static void wait_for(int descriptor) {
    if (descriptor < 0 || descriptor >= FILES_MAX || !held[descriptor]) return;
    if (!is_on() || !is_below(descriptor)) return;
    int before = errno;
    if (write_ms) sleep_ms(write_ms);
    else until_let_go();
    errno = before;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return note(next(path, flags, mode), path); \
    }
OPENING(open)
OPENING(open64)

#define OPENING_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        NEXT(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return note(next(at, path, flags, mode), path); \
    }
OPENING_AT(openat)
OPENING_AT(openat64)

int close(int descriptor) {
    NEXT(close);
    if (descriptor >= 0 && descriptor < FILES_MAX) held[descriptor] = 0;
    return next(descriptor);
}

#define WAITING(result, name, parameters, ...) \
    result name parameters { \
        NEXT(name); \
        wait_for(descriptor); \
        return next(__VA_ARGS__); \
    }
WAITING(ssize_t, write, (int descriptor, const void *bytes, size_t count), descriptor, bytes, count)
WAITING(ssize_t, writev, (int descriptor, const struct iovec *parts, int count), descriptor, parts, count)
WAITING(ssize_t, pwrite, (int descriptor, const void *bytes, size_t count, off_t at), descriptor, bytes, count, at)
WAITING(ssize_t, pwrite64, (int descriptor, const void *bytes, size_t count, off64_t at), descriptor, bytes, count, at)
WAITING(int, fsync, (int descriptor), descriptor)
WAITING(int, fdatasync, (int descriptor), descriptor)
