/* Cryptography: SHA-256 (FIPS 180-4) and ChaCha20 (RFC 8439), in plain C. */
#include <string.h>

#include "work.h"

static uint32_t rotate_right(uint32_t x, int count) { return x >> count | x << (32 - count); }
static uint32_t rotate_left(uint32_t x, int count) { return x << count | x >> (32 - count); }

static void sha256_block(uint32_t hash[8], const uint32_t k[64], const uint8_t *block)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3) +
               (rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10);
    }
    memcpy(s, hash, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t sum1 = rotate_right(s[4], 6) ^ rotate_right(s[4], 11) ^ rotate_right(s[4], 25);
        uint32_t t1 = s[7] + sum1 + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t sum0 = rotate_right(s[0], 2) ^ rotate_right(s[0], 13) ^ rotate_right(s[0], 22);
        uint32_t t2 = sum0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        hash[i] += s[i];
}

uint64_t sha256(void)
{
    /* The round constants do not matter for the time; these come from a generator. */
    uint32_t k[64], hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 1, 2};
    uint64_t state = 31;
    for (int i = 0; i < 64; i++)
        k[i] = (uint32_t)next_random(&state);
    uint8_t block[64];
    memset(block, 0x5a, sizeof block);
    for (int i = 0; i < 80000; i++) {
        block[i & 63] ^= (uint8_t)i;
        sha256_block(hash, k, block);
    }
    return (uint64_t)hash[0] << 32 | hash[7];
}

#define QUARTER(a, b, c, d)                                                                                            \
    do {                                                                                                               \
        a += b, d = rotate_left(d ^ a, 16);                                                                            \
        c += d, b = rotate_left(b ^ c, 12);                                                                            \
        a += b, d = rotate_left(d ^ a, 8);                                                                             \
        c += d, b = rotate_left(b ^ c, 7);                                                                             \
    } while (0)

uint64_t chacha20(void)
{
    uint32_t input[16], sum[16] = {0};
    for (uint32_t i = 0; i < 16; i++)
        input[i] = i * 0x9e3779b9;
    for (uint32_t block = 0; block < 600000; block++) {
        uint32_t x[16];
        input[12] = block;
        memcpy(x, input, sizeof x);
        for (int round = 0; round < 10; round++) {
            QUARTER(x[0], x[4], x[8], x[12]);
            QUARTER(x[1], x[5], x[9], x[13]);
            QUARTER(x[2], x[6], x[10], x[14]);
            QUARTER(x[3], x[7], x[11], x[15]);
            QUARTER(x[0], x[5], x[10], x[15]);
            QUARTER(x[1], x[6], x[11], x[12]);
            QUARTER(x[2], x[7], x[8], x[13]);
            QUARTER(x[3], x[4], x[9], x[14]);
        }
        for (int i = 0; i < 16; i++)
            sum[i] ^= x[i] + input[i];
    }
    return (uint64_t)sum[0] << 32 | sum[15];
}
