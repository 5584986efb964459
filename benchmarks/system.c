/* The operating system: system calls, two processes and a pipe, new processes, page faults, signals. */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

uint64_t syscalls(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 600000; i++)
        sum += syscall(SYS_getppid) != -1;
    return sum;
}

uint64_t pipe_ping_pong(void)
{
    enum { ROUNDS = 15000 };
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        fail("pipe");
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    char byte = 0;
    if (child == 0) {
        for (int i = 0; i < ROUNDS; i++)
            if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
                _exit(1);
        _exit(0);
    }
    for (int i = 0; i < ROUNDS; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            fail("ping-pong");
    int status;
    waitpid(child, &status, 0);
    for (int i = 0; i < 2; i++) {
        close(there[i]);
        close(back[i]);
    }
    return (uint64_t)status;
}

uint64_t forks(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 1200; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child == 0)
            _exit(i & 127);
        int status;
        waitpid(child, &status, 0);
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

uint64_t page_faults(void)
{
    enum { BYTES = 8 << 20 };
    uint64_t sum = 0;
    for (int round = 0; round < 20; round++) {
        volatile char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            fail("mmap");
        for (size_t at = 0; at < BYTES; at += 4096)
            memory[at] = (char)at, sum++;
        munmap((void *)memory, BYTES);
    }
    return sum;
}

static volatile sig_atomic_t signals_seen;

static void on_signal(int number)
{
    (void)number;
    signals_seen++;
}

uint64_t signals(void)
{
    signals_seen = 0;
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < 60000; i++)
        raise(SIGUSR1);
    return (uint64_t)signals_seen;
}
