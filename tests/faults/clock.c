/*
 * Preloaded into a program, it moves that program's wall clock, and says for the kernel whether
 * it is synchronised. CLOCK_BOOTTIME and CLOCK_MONOTONIC stay as they are, as on a machine whose
 * clock somebody sets. TEST_CLOCK names a file of 16 bytes, which may change at any time:
 *
 *   int64  milliseconds that the wall clock is ahead
 *   int64  1 where adjtimex(2) says "synchronised", else 0
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *test_clock;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *memory = file < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) _exit(99);
    close(file);
    test_clock = memory;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, id, time);
    if (result == 0 && id == CLOCK_REALTIME && test_clock) {
        int64_t ms = (int64_t)time->tv_sec * 1000 + time->tv_nsec / 1000000 + test_clock[0];
        int64_t rest = ms % 1000 < 0 ? ms % 1000 + 1000 : ms % 1000;
        time->tv_sec = (time_t)((ms - rest) / 1000);
        time->tv_nsec = (long)(rest * 1000000 + time->tv_nsec % 1000000);
    }
    return result;
}

int adjtimex(struct timex *timex) {
    syscall(SYS_adjtimex, timex);
    timex->status &= ~STA_UNSYNC;
    timex->status |= test_clock && test_clock[1] ? 0 : STA_UNSYNC;
    return timex->status & STA_UNSYNC ? TIME_ERROR : TIME_OK;
}
