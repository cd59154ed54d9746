/* Faults in system calls that change files, for utils/faults.py: loaded by LD_PRELOAD, told what to do by a file in memory.
 *
 * Calls that change something below the folder `below` are counted; the one with the number `at` (from 0), or all from
 * there on, fail, are cut short, or end the process. Nothing happens as long as `armed` is 0. All processes that have the
 * file of $FAULTS_STATE mapped count together. What the C library writes by itself (fwrite) is not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, FAIL, SHORT, TORN, KILL }; /* what is done; TORN: half of a write, then the end. shim.py: Action */
enum { SPACE = 1, WRITE = 2, CHANGE = 4 }; /* classes of calls: may need space, writes bytes, any other change */

struct state {
  int64_t armed, action, at, forever, error, classes, count, done, clock_shift_ns;
  char below[PATH_MAX];
  char log[PATH_MAX]; /* file of lines "w DEVICE INODE", "s DEVICE INODE", "a 0 0": written, synced, all synced */
};
static struct state none, *state = &none;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTS_STATE");
  int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
  if (fd < 0) return;
  void *place = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (place != MAP_FAILED) state = place;
}

static int is_below(const char *path) {
  size_t length = strlen(state->below);
  return strncmp(path, state->below, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int fd_is_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return is_below(path);
}

static int path_is_below(int dir, const char *path) {
  char cwd[PATH_MAX];
  if (!path) return 0;
  if (path[0] == '/') return is_below(path);
  if (dir != AT_FDCWD) return fd_is_below(dir);
  return getcwd(cwd, sizeof cwd) && is_below(cwd);
}

/* Counts a call and says what to do about it: COUNT for nothing. KILL does not return. */
static int hit(int class) {
  if (!(class & state->classes)) return COUNT;
  int64_t number = __atomic_fetch_add(&state->count, 1, __ATOMIC_SEQ_CST);
  if (state->action == COUNT || number < state->at || (number > state->at && !state->forever)) return COUNT;
  int action = (int)state->action;
  if ((action == SHORT || action == TORN) && !(class & WRITE)) {
    if (action == TORN) state->at = number + 1; /* the next write instead */
    return COUNT;
  }
  __atomic_fetch_add(&state->done, 1, __ATOMIC_SEQ_CST);
  if (action == KILL) syscall(SYS_kill, getpid(), SIGKILL);
  if (action == FAIL) errno = (int)state->error;
  return action;
}

static void note(char what, int fd) {
  struct stat about;
  char line[80];
  if (!state->log[0]) return;
  memset(&about, 0, sizeof about);
  if (what != 'a' && (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))) return;
  int length = snprintf(line, sizeof line, "%c %lu %lu\n", what, (unsigned long)about.st_dev, (unsigned long)about.st_ino);
  int log = (int)syscall(SYS_openat, AT_FDCWD, state->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (log < 0) return;
  syscall(SYS_write, log, line, length);
  syscall(SYS_close, log);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* The number of bytes that a write may have: all of them, the first half, or -1 for an error; TORN ends the process. */
static ssize_t allowed(int fd, size_t count, const void *bytes, off_t place) {
  if (!state->armed || !fd_is_below(fd)) return (ssize_t)count;
  int action = hit(SPACE | WRITE);
  if (action == FAIL) return -1;
  note('w', fd);
  size_t half = count > 1 ? count / 2 : count;
  if (action == TORN) {
    if (place < 0) syscall(SYS_write, fd, bytes, count / 2);
    else syscall(SYS_pwrite64, fd, bytes, count / 2, place);
    syscall(SYS_kill, getpid(), SIGKILL);
  }
  return (ssize_t)(action == SHORT ? half : count);
}

ssize_t write(int fd, const void *bytes, size_t count) {
  REAL(write);
  ssize_t most = allowed(fd, count, bytes, -1);
  return most < 0 ? -1 : real(fd, bytes, (size_t)most);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t place) {
  REAL(pwrite);
  ssize_t most = allowed(fd, count, bytes, place);
  return most < 0 ? -1 : real(fd, bytes, (size_t)most, place);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t place) { return pwrite(fd, bytes, count, place); }

/* Several pieces: the first one alone when the call is to be short, and the same for what is torn. */
static ssize_t pieces(int fd, const struct iovec *piece, int count, off_t place) {
  ssize_t most = allowed(fd, count > 0 ? piece[0].iov_len : 0, count > 0 ? piece[0].iov_base : NULL, place);
  if (most < 0) return -1;
  if (count > 0 && (size_t)most == piece[0].iov_len) return count;
  return 0;
}

ssize_t writev(int fd, const struct iovec *piece, int count) {
  REAL(writev);
  ssize_t whole = pieces(fd, piece, count, -1);
  if (whole < 0) return -1;
  return whole ? real(fd, piece, count) : (ssize_t)syscall(SYS_write, fd, piece[0].iov_base, piece[0].iov_len / 2);
}

ssize_t pwritev(int fd, const struct iovec *piece, int count, off_t place) {
  REAL(pwritev);
  ssize_t whole = pieces(fd, piece, count, place);
  if (whole < 0) return -1;
  return whole ? real(fd, piece, count, place)
               : (ssize_t)syscall(SYS_pwrite64, fd, piece[0].iov_base, piece[0].iov_len / 2, place);
}

ssize_t sendfile(int to, int from, off_t *place, size_t count) {
  REAL(sendfile);
  if (state->armed && fd_is_below(to)) {
    if (hit(SPACE) == FAIL) return -1;
    note('w', to);
  }
  return real(to, from, place, count);
}

ssize_t sendfile64(int to, int from, off64_t *place, size_t count) { return sendfile(to, from, place, count); }

ssize_t copy_file_range(int from, off64_t *from_place, int to, off64_t *to_place, size_t count, unsigned flags) {
  REAL(copy_file_range);
  if (state->armed && fd_is_below(to)) {
    if (hit(SPACE) == FAIL) return -1;
    note('w', to);
  }
  return real(from, from_place, to, to_place, count, flags);
}

static int fails(int class, int below) { return below && hit(class) == FAIL; }

int fsync(int fd) {
  REAL(fsync);
  if (state->armed && fd_is_below(fd)) {
    if (hit(SPACE) == FAIL) return -1;
    note('s', fd);
  }
  return real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  if (state->armed && fd_is_below(fd)) {
    if (hit(SPACE) == FAIL) return -1;
    note('s', fd);
  }
  return real(fd);
}

void sync(void) {
  REAL(sync);
  real();
  if (state->armed) note('a', -1);
}

int ftruncate(int fd, off_t length) {
  REAL(ftruncate);
  return state->armed && fails(SPACE, fd_is_below(fd)) ? -1 : real(fd, length);
}

int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int posix_fallocate(int fd, off_t place, off_t length) {
  REAL(posix_fallocate);
  return state->armed && fails(SPACE, fd_is_below(fd)) ? (int)state->error : real(fd, place, length);
}

static int opening(int dir, const char *path, int flags) {
  if (!state->armed || !(flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))) return 0;
  return fails(SPACE, path_is_below(dir, path));
}

#define OPEN(name)                                                                    \
  int name(const char *path, int flags, ...) {                                        \
    REAL(name);                                                                       \
    va_list more;                                                                     \
    va_start(more, flags);                                                            \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;           \
    va_end(more);                                                                     \
    return opening(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode);             \
  }
#define OPENAT(name)                                                                  \
  int name(int dir, const char *path, int flags, ...) {                               \
    REAL(name);                                                                       \
    va_list more;                                                                     \
    va_start(more, flags);                                                            \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;           \
    va_end(more);                                                                     \
    return opening(dir, path, flags) ? -1 : real(dir, path, flags, mode);             \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  return state->armed && fails(SPACE, path_is_below(AT_FDCWD, path)) ? -1 : real(path, mode);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return state->armed && fails(SPACE, path_is_below(AT_FDCWD, to)) ? -1 : real(from, to);
}

int unlink(const char *path) {
  REAL(unlink);
  return state->armed && fails(CHANGE, path_is_below(AT_FDCWD, path)) ? -1 : real(path);
}

int unlinkat(int dir, const char *path, int flags) {
  REAL(unlinkat);
  return state->armed && fails(CHANGE, path_is_below(dir, path)) ? -1 : real(dir, path, flags);
}

int rmdir(const char *path) {
  REAL(rmdir);
  return state->armed && fails(CHANGE, path_is_below(AT_FDCWD, path)) ? -1 : real(path);
}

static int64_t shift(void) { return state->armed ? state->clock_shift_ns : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int failed = real(clock, now);
  if (!failed && clock == CLOCK_REALTIME && shift()) {
    int64_t ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + shift();
    now->tv_sec = ns / 1000000000;
    now->tv_nsec = ns % 1000000000;
  }
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  REAL(gettimeofday);
  int failed = real(now, zone);
  if (!failed) now->tv_sec += shift() / 1000000000;
  return failed;
}

time_t time(time_t *now) {
  REAL(time);
  time_t found = real(NULL) + shift() / 1000000000;
  if (now) *now = found;
  return found;
}
