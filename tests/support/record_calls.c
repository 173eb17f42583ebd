/* Records the calls that change files: to be preloaded, see tests/support/power_cut.py.

   RECORD_BELOW: a folder without links in its path; what happens elsewhere is not recorded.
   RECORD_LOG: the file that each call appends a record to, in one write: the name of the call, the
   thread, two paths or a text, a number and the count of bytes that follow. Calls that failed are
   left out. A record is written after its call, and of fsync one before and one after it, so that
   nothing counts as flushed that another thread wrote meanwhile. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

typedef char path[2 * PATH_MAX];


static int is_below(const char *name) {
  const char *folder = getenv("RECORD_BELOW");
  size_t length = folder ? strlen(folder) : 0;
  return length && !strncmp(name, folder, length) && (name[length] == '/' || !name[length]);
}

/* Where an open file is now, whatever it was called when it was opened. */
static char *of_fd(int fd, path into) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, into, sizeof(path) - 1);
  into[length < 0 ? 0 : length] = 0;
  return into;
}

static char *of_name(int folder, const char *name, path into) {
  path base = "";
  if (name[0] == '/') return snprintf(into, sizeof(path), "%s", name), into;
  if (folder != AT_FDCWD) of_fd(folder, base);
  else if (!getcwd(base, sizeof base)) base[0] = 0;
  return snprintf(into, sizeof(path), "%.4000s/%.4000s", base, name), into;
}

static void record(const char *call, const char *first, const char *second, off_t number,
                   const char *data, size_t count) {
  if (!is_below(first) && !is_below(second)) return;
  int saved = errno;
  size_t room = strlen(first) + strlen(second) + count + 200;
  char *text = malloc(room);
  long thread = syscall(SYS_gettid);
  int length = snprintf(text, room, "%s%c%ld%c%s%c%s%c%ld%c%zu%c", call, 0, thread, 0, first, 0,
                        second, 0, number, 0, count, 0);
  memcpy(text + length, data, count);
  int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
  int log = syscall(SYS_openat, AT_FDCWD, getenv("RECORD_LOG"), flags, 0644);
  if (log < 0 || syscall(SYS_write, log, text, length + count) != (long)(length + count)) abort();
  close(log);
  free(text);
  errno = saved;
}

/* The file itself says what was written, wherever it came from. */
static void record_data(int fd, off_t begin, ssize_t count) {
  path name;
  if (count <= 0 || !is_below(of_fd(fd, name))) return;
  int saved = errno;
  char link[64], *data = malloc(count);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int again = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
  if (again < 0 || syscall(SYS_pread64, again, data, count, begin) != count) abort();
  close(again);
  errno = saved;
  record("write", name, "", begin, data, count);
  free(data);
}

#define REAL(result, name, ...)                                    \
  static result (*real)(__VA_ARGS__);                              \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int opened(int fd, int flags) {
  path name;
  if (fd >= 0 && flags & (O_CREAT | O_TRUNC))
    record("open", of_fd(fd, name), "", !!(flags & O_TRUNC), "", 0);
  return fd;
}

#define MODE                                  \
  va_list rest;                               \
  va_start(rest, flags);                      \
  unsigned mode = va_arg(rest, unsigned);     \
  va_end(rest)

#define OPEN(symbol)                               \
  int symbol(const char *name, int flags, ...) {   \
    MODE;                                          \
    REAL(int, #symbol, const char *, int, ...);    \
    return opened(real(name, flags, mode), flags); \
  }
#define OPENAT(symbol)                                       \
  int symbol(int folder, const char *name, int flags, ...) { \
    MODE;                                                    \
    REAL(int, #symbol, int, const char *, int, ...);         \
    return opened(real(folder, name, flags, mode), flags);   \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

static ssize_t at_the_end_of(int fd, ssize_t count) {
  if (count > 0) record_data(fd, lseek(fd, 0, SEEK_CUR) - count, count);
  return count;
}
ssize_t write(int fd, const void *data, size_t count) {
  REAL(ssize_t, "write", int, const void *, size_t);
  return at_the_end_of(fd, real(fd, data, count));
}
ssize_t writev(int fd, const struct iovec *data, int count) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  return at_the_end_of(fd, real(fd, data, count));
}

#define PWRITE(symbol)                                                     \
  ssize_t symbol(int fd, const void *data, size_t count, off_t begin) {    \
    REAL(ssize_t, #symbol, int, const void *, size_t, off_t);              \
    ssize_t done = real(fd, data, count, begin);                           \
    record_data(fd, begin, done);                                          \
    return done;                                                           \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define SENDFILE(symbol)                                               \
  ssize_t symbol(int to, int from, off_t *begin, size_t count) {       \
    REAL(ssize_t, #symbol, int, int, off_t *, size_t);                 \
    return at_the_end_of(to, real(to, from, begin, count));            \
  }
SENDFILE(sendfile)
SENDFILE(sendfile64)
ssize_t copy_file_range(int from, off64_t *begin, int to, off64_t *at, size_t count,
                        unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  ssize_t done = real(from, begin, to, at, count, flags);
  if (done > 0 && at) record_data(to, *at - done, done);
  return at ? done : at_the_end_of(to, done);
}

#define FTRUNCATE(symbol)                                              \
  int symbol(int fd, off_t size) {                                     \
    path name;                                                         \
    REAL(int, #symbol, int, off_t);                                    \
    int failed = real(fd, size);                                       \
    if (!failed) record("truncate", of_fd(fd, name), "", size, "", 0); \
    return failed;                                                     \
  }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

#define FSYNC(symbol)                                         \
  int symbol(int fd) {                                        \
    path name;                                                \
    REAL(int, #symbol, int);                                  \
    record("fsync", of_fd(fd, name), "", 0, "", 0);           \
    int failed = real(fd);                                    \
    if (!failed) record("fsynced", name, "", 0, "", 0);       \
    return failed;                                            \
  }
FSYNC(fsync)
FSYNC(fdatasync)

/* Calls with one name, in a folder or from the working folder. */
static int named(const char *call, int failed, int folder, const char *name) {
  path full;
  if (!failed) record(call, of_name(folder, name, full), "", 0, "", 0);
  return failed;
}
int unlink(const char *name) {
  REAL(int, "unlink", const char *);
  return named("unlink", real(name), AT_FDCWD, name);
}
int rmdir(const char *name) {
  REAL(int, "rmdir", const char *);
  return named("unlink", real(name), AT_FDCWD, name);
}
int unlinkat(int folder, const char *name, int flags) {
  REAL(int, "unlinkat", int, const char *, int);
  return named("unlink", real(folder, name, flags), folder, name);
}
int mkdir(const char *name, mode_t mode) {
  REAL(int, "mkdir", const char *, mode_t);
  return named("mkdir", real(name, mode), AT_FDCWD, name);
}
int mkdirat(int folder, const char *name, mode_t mode) {
  REAL(int, "mkdirat", int, const char *, mode_t);
  return named("mkdir", real(folder, name, mode), folder, name);
}

/* Calls with two names. */
static int renamed(const char *call, int failed, int folder, const char *old, int other,
                   const char *new) {
  path from, to;
  if (!failed) record(call, of_name(folder, old, from), of_name(other, new, to), 0, "", 0);
  return failed;
}
int rename(const char *old, const char *new) {
  REAL(int, "rename", const char *, const char *);
  return renamed("rename", real(old, new), AT_FDCWD, old, AT_FDCWD, new);
}
int renameat(int folder, const char *old, int other, const char *new) {
  REAL(int, "renameat", int, const char *, int, const char *);
  return renamed("rename", real(folder, old, other, new), folder, old, other, new);
}
int renameat2(int folder, const char *old, int other, const char *new, unsigned flags) {
  REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
  return renamed("rename", real(folder, old, other, new, flags), folder, old, other, new);
}
int link(const char *old, const char *new) {
  REAL(int, "link", const char *, const char *);
  return renamed("link", real(old, new), AT_FDCWD, old, AT_FDCWD, new);
}
int linkat(int folder, const char *old, int other, const char *new, int flags) {
  REAL(int, "linkat", int, const char *, int, const char *, int);
  return renamed("link", real(folder, old, other, new, flags), folder, old, other, new);
}
static int symlinked(int failed, const char *target, int folder, const char *name) {
  path full;
  if (!failed) record("symlink", of_name(folder, name, full), "", 0, target, strlen(target));
  return failed;
}
int symlink(const char *target, const char *name) {
  REAL(int, "symlink", const char *, const char *);
  return symlinked(real(target, name), target, AT_FDCWD, name);
}
int symlinkat(const char *target, int folder, const char *name) {
  REAL(int, "symlinkat", const char *, int, const char *);
  return symlinked(real(target, folder, name), target, folder, name);
}
