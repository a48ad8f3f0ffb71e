/* Preloaded into a server, this library does to its executors what a kernel or a busy machine does to them rarely.
 *
 * TAKE_THE_CORE_MS: whenever an executor comes back from io_uring_enter(2), it does not run for so many milliseconds. A timer
 * that was armed in that call has run out then before the first task runs.
 *
 * LOSE_A_WAKE_UP: when the file of that name is there, the next executor that would wait for completions waits for a
 * signal instead, once. The kernel's own interruptions for completed work do not end that wait, as they do not when a
 * wake-up is lost.
 *
 * glommio makes that call through syscall(2), as everybody does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static long (*real)(long, ...);

__attribute__((constructor)) static void find_real(void) { real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"); }

static int is_executor(void) {
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    return strncmp(name, "ingress-", 8) == 0;
}

/* No call has more than six arguments; those that a caller has left out are passed on as they are, and not looked at. */
long syscall(long number, ...) {
    va_list arguments;
    va_start(arguments, number);
    const long a = va_arg(arguments, long), b = va_arg(arguments, long), c = va_arg(arguments, long);
    const long d = va_arg(arguments, long), e = va_arg(arguments, long), f = va_arg(arguments, long);
    va_end(arguments);
    const long completions_min = c;
    if (number != SYS_io_uring_enter || !is_executor())
        return real(number, a, b, c, d, e, f);
    const char *order = getenv("LOSE_A_WAKE_UP");
    if (order != NULL && completions_min > 0 && unlink(order) == 0)
        return ppoll(NULL, 0, NULL, NULL); /* -1 and EINTR */
    const long result = real(number, a, b, c, d, e, f);
    const char *milliseconds = getenv("TAKE_THE_CORE_MS");
    if (milliseconds != NULL)
        poll(NULL, 0, atoi(milliseconds));
    return result;
}
