/* What the benchmark's guest programs share. Each workload is one function that does a fixed amount of work and gives a
 * checksum, so that the compiler drops nothing and both emulators can be seen to compute the same. */
#ifndef WORK_H
#define WORK_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t workload(void);

/* integer.c */
workload integer_mix, sieve, bitwise_crc, sorting;
/* floating.c */
workload nbody, mandelbrot, matrix, single_precision;
/* control.c */
workload dispatch, recursion, indirect_calls;
/* memory.c */
workload stream, pointer_chase, copying, strings;
/* vector.c */
workload vector_integer, vector_float;
/* crypto.c */
workload sha256, chacha20;
/* compress.c */
workload compress;
/* system.c */
workload syscalls, pipe_ping_pong, forks, page_faults, signals;
/* code.c */
workload self_modifying, generated_code;
/* parallel.c */
workload parallel;

/* Ends the program with a message about a failed system call. */
void fail(const char *what);

/* A xorshift generator: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
