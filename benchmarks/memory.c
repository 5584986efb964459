/* Memory: streams, dependent loads, the library's copies, and byte-wise string work. */
#include <stdlib.h>
#include <string.h>

#include "work.h"

uint64_t stream(void)
{
    enum { WORDS = 1 << 20 };
    uint64_t *a = malloc(WORDS * 8), *b = malloc(WORDS * 8), *c = malloc(WORDS * 8), sum = 0;
    for (size_t i = 0; i < WORDS; i++) {
        a[i] = i;
        b[i] = i * 3;
    }
    for (int round = 0; round < 24; round++) {
        for (size_t i = 0; i < WORDS; i++)
            c[i] = a[i] + 3 * b[i];
        for (size_t i = 0; i < WORDS; i++)
            sum += c[i] ^ a[i];
        b[round] = sum;
    }
    free(a);
    free(b);
    free(c);
    return sum;
}

uint64_t pointer_chase(void)
{
    enum { NODES = 1 << 18 };
    struct node {
        struct node *next;
        uint64_t payload[3];
    } *nodes = malloc(NODES * sizeof *nodes);
    uint32_t *order = malloc(NODES * sizeof *order);
    uint64_t state = 99, sum = 0;
    for (uint32_t i = 0; i < NODES; i++)
        order[i] = i;
    for (uint32_t i = NODES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(next_random(&state) % (i + 1)), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
        nodes[order[i]].payload[0] = i;
    }
    struct node *at = nodes;
    for (uint32_t i = 0; i < 12 * NODES; i++) {
        sum += at->payload[0];
        at = at->next;
    }
    free(order);
    free(nodes);
    return sum;
}

uint64_t copying(void)
{
    enum { BYTES = 1 << 22 };
    char *from = malloc(BYTES), *to = malloc(BYTES);
    uint64_t sum = 0;
    memset(from, 7, BYTES);
    for (int round = 0; round < 200; round++) {
        memcpy(to, from, BYTES);
        memset(from + round * 64, round, 4096);
        sum += (uint64_t)to[round * 4099 % BYTES];
    }
    for (int round = 0; round < 400000; round++) {
        memcpy(to + round % 1000, from + round % 777, (size_t)(round % 97));
        sum += memcmp(to, from, (size_t)(round % 61)) > 0;
    }
    free(from);
    free(to);
    return sum;
}

uint64_t strings(void)
{
    static const char *const WORDS[] = {"crane", "brolga", "wetland", "dance", "emulator", "grey", "of", "the"};
    char *text = malloc(1 << 20);
    uint64_t counts[64] = {0}, state = 5, sum = 0;
    for (int round = 0; round < 12; round++) {
        size_t length = 0;
        while (length < (1 << 20) - 32) {
            const char *word = WORDS[next_random(&state) & 7];
            length += strlen(strcpy(text + length, word));
            text[length++] = ' ';
        }
        text[length] = 0;
        uint32_t hash = 0;
        for (const char *at = text; *at; at++) {
            if (*at == ' ') {
                counts[hash & 63]++;
                hash = 0;
            } else {
                hash = hash * 33 + (uint8_t)*at;
            }
        }
        for (char *at = text; (at = strstr(at, "brolga")) != NULL; at++)
            sum++;
    }
    for (int i = 0; i < 64; i++)
        sum = sum * 17 + counts[i];
    free(text);
    return sum;
}
