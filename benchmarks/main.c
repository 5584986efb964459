/* The benchmark's guest program: `work NAME...` runs workloads and prints a line before and behind each. The time is taken
 * by who reads those lines, outside the guest, whose own clock is part of what is tested. `work` alone lists the names. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "work.h"

static const struct {
    const char *name;
    workload *run;
} WORKLOADS[] = {
    {"integer", integer_mix},
    {"sieve", sieve},
    {"crc", bitwise_crc},
    {"sort", sorting},
    {"nbody", nbody},
    {"mandelbrot", mandelbrot},
    {"matrix", matrix},
    {"single", single_precision},
    {"dispatch", dispatch},
    {"recursion", recursion},
    {"indirect", indirect_calls},
    {"stream", stream},
    {"chase", pointer_chase},
    {"copy", copying},
    {"strings", strings},
    {"vector-int", vector_integer},
    {"vector-float", vector_float},
    {"sha256", sha256},
    {"chacha20", chacha20},
    {"compress", compress},
    {"syscall", syscalls},
    {"pipe", pipe_ping_pong},
    {"fork", forks},
    {"fault", page_faults},
    {"signal", signals},
    {"self-modify", self_modifying},
    {"generate", generated_code},
    {"parallel", parallel},
};

#define COUNT (sizeof WORKLOADS / sizeof WORKLOADS[0])

void fail(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        for (size_t i = 0; i < COUNT; i++)
            puts(WORKLOADS[i].name);
        return 0;
    }
    for (int argument = 1; argument < argc; argument++) {
        size_t i = 0;
        while (i < COUNT && strcmp(WORKLOADS[i].name, argv[argument]) != 0)
            i++;
        if (i == COUNT) {
            fprintf(stderr, "there is no workload %s\n", argv[argument]);
            return 2;
        }
        printf("@begin %s\n", argv[argument]);
        fflush(stdout);
        uint64_t sum = WORKLOADS[i].run();
        printf("@end %s %016" PRIx64 "\n", argv[argument], sum);
        fflush(stdout);
    }
    return 0;
}
