/* Moves the wall clock of one process: LD_PRELOAD=clock.so, and CAMPAIGN_CLOCK names a file with seconds to add, as an int64.
   The monotonic clock stays. Waits until a wall-clock time are handed to the kernel in its own time, as if the machine's clock had
   been moved before the wait began. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define IS_WALL(t) ((t)->tv_sec > 1000000000) /* the monotonic clock counts from the start of the machine */

static volatile int64_t none, *added = &none;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("CAMPAIGN_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *added, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) added = mapped;
    if (file >= 0) close(file);
}

static const struct timespec *real(const struct timespec *wall, struct timespec *room) {
    if (!wall || !IS_WALL(wall)) return wall;
    *room = *wall;
    room->tv_sec -= *added;
    return room;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *added;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
    static __typeof__(&pthread_cond_timedwait) next;
    struct timespec room;
    if (!next) next = (__typeof__(next))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* an older one is there too */
    if (!next) next = NEXT(pthread_cond_timedwait);
    return next(cond, mutex, real(until, &room));
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    struct timespec room;
    return NEXT(pthread_cond_clockwait)(cond, mutex, clock, real(until, &room));
}

int sem_timedwait(sem_t *sem, const struct timespec *until) {
    struct timespec room;
    return NEXT(sem_timedwait)(sem, real(until, &room));
}

int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *until) {
    struct timespec room;
    return NEXT(sem_clockwait)(sem, clock, real(until, &room));
}

long syscall(long number, ...) {
    static long (*next)(long, ...);
    struct timespec room;
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (!next) next = (__typeof__(next))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && (a[1] & FUTEX_CLOCK_REALTIME))
        a[3] = (long)real((const struct timespec *)a[3], &room);
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
