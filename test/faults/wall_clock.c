/* Shifts the wall clock of the process that preloads it by the nanoseconds that the file $WALL_CLOCK_OFFSET holds.
 * The steady clocks go on as they are. The file is mapped, so a step is seen at once, and by those who wait too: the
 * kernel ends a wait until a time of the wall clock when that clock gets there, however it gets there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE (10 * SECOND / 1000)         /* a wait looks at the shifted clock this often */
#define LONGEST_UPTIME (1000000000LL / 2) /* s; a deadline below this is one of the steady clock */

static const volatile int64_t *offset_ns;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_mutex_timedlock)(pthread_mutex_t *, const struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("WALL_CLOCK_OFFSET");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* x86_64 has an older one */
    if (!real_cond_timedwait) real_cond_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_mutex_timedlock = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) offset_ns = mapped;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real_clock_gettime) find();
    int failed = real_clock_gettime(id, now);
    if (failed || !offset_ns || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return failed;
    int64_t shifted = now->tv_sec * SECOND + now->tv_nsec + *offset_ns;
    now->tv_sec = shifted / SECOND;
    now->tv_nsec = shifted % SECOND;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}

/* Set the end of a slice of a wait on the clock that the kernel knows; returns whether the wait ends with it. */
static int slice_of(const struct timespec *deadline, struct timespec *end) {
    struct timespec now;
    real_clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_ns = now.tv_sec * SECOND + now.tv_nsec;
    int64_t end_ns = deadline->tv_sec * SECOND + deadline->tv_nsec - *offset_ns;
    int last = end_ns <= now_ns + SLICE;
    if (!last) end_ns = now_ns + SLICE;
    if (end_ns < 0) end_ns = 0;
    end->tv_sec = end_ns / SECOND;
    end->tv_nsec = end_ns % SECOND;
    return last;
}

static int is_shifted(const struct timespec *deadline) {
    if (!real_clock_gettime) find();
    return offset_ns && deadline->tv_sec > LONGEST_UPTIME;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *deadline) {
    if (!is_shifted(deadline)) return real_cond_timedwait(cond, mutex, deadline);
    struct timespec end;
    int last, ended;
    do {
        last = slice_of(deadline, &end);
        ended = real_cond_timedwait(cond, mutex, &end);
    } while (ended == ETIMEDOUT && !last);
    return ended;
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *deadline) {
    if (!is_shifted(deadline)) return real_mutex_timedlock(mutex, deadline);
    struct timespec end;
    int last, ended;
    do {
        last = slice_of(deadline, &end);
        ended = real_mutex_timedlock(mutex, &end);
    } while (ended == ETIMEDOUT && !last);
    return ended;
}

int sem_timedwait(sem_t *semaphore, const struct timespec *deadline) {
    if (!is_shifted(deadline)) return real_sem_timedwait(semaphore, deadline);
    struct timespec end;
    int last, ended;
    do {
        last = slice_of(deadline, &end);
        ended = real_sem_timedwait(semaphore, &end);
    } while (ended == -1 && errno == ETIMEDOUT && !last);
    return ended;
}
