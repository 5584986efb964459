/* Compression: LZ77 with a hash table of earlier places, and back again. */
#include <stdlib.h>
#include <string.h>

#include "work.h"

enum { INPUT = 1 << 20, WINDOW = 1 << 15, TABLE = 1 << 14 };

static size_t pack(const uint8_t *in, size_t length, uint8_t *out)
{
    static uint32_t table[TABLE];
    size_t at = 0, to = 0;
    memset(table, 0xff, sizeof table);
    while (at + 4 <= length) {
        uint32_t word;
        memcpy(&word, in + at, 4);
        uint32_t *slot = &table[word * 2654435761u >> 18], candidate = *slot;
        *slot = (uint32_t)at;
        size_t match = 0;
        if (candidate != UINT32_MAX && at - candidate < WINDOW)
            while (match < 255 && at + match < length && in[candidate + match] == in[at + match])
                match++;
        if (match >= 4) {
            out[to++] = 0xff;
            out[to++] = (uint8_t)match;
            out[to++] = (uint8_t)(at - candidate);
            out[to++] = (uint8_t)((at - candidate) >> 8);
            at += match;
        } else {
            out[to++] = in[at++] & 0x7f;
        }
    }
    while (at < length)
        out[to++] = in[at++] & 0x7f;
    return to;
}

static size_t unpack(const uint8_t *in, size_t length, uint8_t *out)
{
    size_t to = 0;
    for (size_t at = 0; at < length;) {
        if (in[at] != 0xff) {
            out[to++] = in[at++];
            continue;
        }
        size_t distance = in[at + 2] | (size_t)in[at + 3] << 8;
        for (int i = 0; i < in[at + 1]; i++, to++)
            out[to] = out[to - distance];
        at += 4;
    }
    return to;
}

uint64_t compress(void)
{
    uint8_t *input = malloc(INPUT), *packed = malloc(2 * INPUT), *output = malloc(INPUT);
    uint64_t state = 17, sum = 0;
    for (size_t i = 0; i < INPUT; i++) {
        uint64_t random = next_random(&state);
        input[i] = i > 1000 && random % 16 ? input[i - 1 - i % 900] : (uint8_t)(random >> 8 & 0x7f);
    }
    for (int round = 0; round < 20; round++) {
        size_t length = pack(input, INPUT, packed);
        if (unpack(packed, length, output) != INPUT || memcmp(input, output, INPUT) != 0)
            abort();
        sum = sum * 31 + length;
        input[round * 1000] ^= 1;
    }
    free(input);
    free(packed);
    free(output);
    return sum;
}
