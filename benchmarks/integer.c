/* Integer loops: arithmetic with dependencies, a sieve, a bitwise checksum, and sorting with unpredictable branches. */
#include <stdlib.h>
#include <string.h>

#include "work.h"

uint64_t integer_mix(void)
{
    uint64_t a = 1, b = 2, c = 3, d = 5;
    for (uint32_t i = 0; i < 160000000; i++) {
        a = a * 6364136223846793005u + b;
        b ^= a >> 29;
        c += (b << 3) - d;
        d = (d >> 1) | (c << 63);
        if (c & 64)
            d += i;
    }
    return a ^ b ^ c ^ d;
}

uint64_t sieve(void)
{
    enum { LIMIT = 2000000 };
    uint8_t *composite = malloc(LIMIT);
    uint64_t count = 0;
    for (int round = 0; round < 8; round++) {
        memset(composite, 0, LIMIT);
        for (uint32_t i = 2; i < LIMIT; i++) {
            if (composite[i])
                continue;
            count++;
            for (uint64_t j = (uint64_t)i * i; j < LIMIT; j += i)
                composite[j] = 1;
        }
    }
    free(composite);
    return count;
}

uint64_t bitwise_crc(void)
{
    uint32_t crc = ~0u;
    uint64_t state = 88172645463325252u;
    for (uint32_t i = 0; i < 24000000; i++) {
        crc ^= (uint8_t)next_random(&state);
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return crc;
}

static int compare_words(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

uint64_t sorting(void)
{
    enum { WORDS = 400000 };
    uint32_t *words = malloc(WORDS * sizeof *words);
    uint64_t state = 1234567, sum = 0;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < WORDS; i++)
            words[i] = (uint32_t)next_random(&state);
        qsort(words, WORDS, sizeof *words, compare_words);
        sum = sum * 31 + words[WORDS / 3];
    }
    free(words);
    return sum;
}
