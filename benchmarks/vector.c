/* Vectors of 16 bytes: SSE2 on x86-64, and what the compiler makes of them where the guest has no vector registers. */
#include <string.h>

#include "work.h"

typedef uint8_t bytes __attribute__((vector_size(16)));
typedef uint32_t words __attribute__((vector_size(16)));
typedef int16_t halves __attribute__((vector_size(16)));
typedef float floats __attribute__((vector_size(16)));
typedef double doubles __attribute__((vector_size(16)));

uint64_t vector_integer(void)
{
    words a = {1, 2, 3, 4}, b = {5, 6, 7, 8};
    bytes c = {0}, d = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    halves e = {1, -2, 3, -4, 5, -6, 7, -8}, f = {3, 3, 3, 3, 5, 5, 5, 5};
    for (int i = 0; i < 40000000; i++) {
        a += b;
        b ^= a << 5;
        b += a >> 3;
        c += d;
        d ^= (bytes)(c > d);
        e = e * f + (halves)(e > f);
        f -= e & 7;
        b = __builtin_shuffle(b, (words){1, 2, 3, 0});
    }
    uint64_t words_sum, bytes_sum, halves_sum;
    memcpy(&words_sum, &a, 8);
    memcpy(&bytes_sum, &c, 8);
    memcpy(&halves_sum, &e, 8);
    return words_sum ^ bytes_sum ^ halves_sum;
}

uint64_t vector_float(void)
{
    enum { LENGTH = 1024 };
    static floats x[LENGTH], y[LENGTH];
    static doubles z[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
        x[i] = (floats){i, i + 1, i + 2, i + 3};
        y[i] = (floats){1, 2, 3, 4};
        z[i] = (doubles){i, -i};
    }
    for (int round = 0; round < 12000; round++) {
        floats factor = {0.5f, 0.25f, 0.125f, 0.75f};
        doubles scale = {0.999, 1.0001};
        for (int i = 0; i < LENGTH; i++) {
            y[i] = y[i] * factor + x[i];
            z[i] = z[i] * scale + scale;
        }
    }
    uint64_t a, b;
    memcpy(&a, &y[77], 8);
    memcpy(&b, &z[99], 8);
    return a ^ b;
}
