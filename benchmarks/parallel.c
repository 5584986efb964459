/* Two threads that share memory: each computes by itself, and both add to common counters. */
#include <pthread.h>
#include <stdatomic.h>

#include "work.h"

static _Atomic uint64_t counters[64];

static void *thread(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument, sum = 0;
    for (int i = 0; i < 40000000; i++) {
        uint64_t random = next_random(&state);
        sum += random % 1000;
        if ((i & 7) == 0)
            atomic_fetch_add(&counters[random & 63], 1);
    }
    atomic_fetch_add(&counters[0], sum);
    return 0;
}

uint64_t parallel(void)
{
    pthread_t threads[2];
    uint64_t sum = 0;
    for (int i = 0; i < 64; i++)
        counters[i] = 0;
    for (uintptr_t i = 0; i < 2; i++)
        if (pthread_create(&threads[i], 0, thread, (void *)(i + 77)))
            fail("pthread_create");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], 0);
    for (int i = 0; i < 64; i++)
        sum = sum * 3 + counters[i];
    return sum;
}
