/* Code that changes: an instruction rewritten between calls, and functions generated at run time. */
#include <string.h>
#include <sys/mman.h>

#include "work.h"

typedef uint32_t function(uint32_t);

/* Writes a function that gives its argument plus `constant`; gives its length. */
static size_t generate(uint8_t *code, uint32_t constant)
{
#if defined(__x86_64__)
    /* lea eax, [rdi + constant]; ret */
    uint8_t text[] = {0x8d, 0x87, 0, 0, 0, 0, 0xc3};
    memcpy(text + 2, &constant, 4);
#elif defined(__riscv)
    /* addi a0, a0, constant; ret */
    uint32_t text[] = {0x00050513 | (constant & 0x7ff) << 20, 0x00008067};
#elif defined(__aarch64__)
    /* add w0, w0, constant; ret */
    uint32_t text[] = {0x11000000 | (constant & 0x7ff) << 10, 0xd65f03c0};
#else
#error "no code for this architecture"
#endif
    memcpy(code, text, sizeof text);
    return sizeof text;
}

static uint8_t *code_memory(size_t bytes)
{
    uint8_t *code = mmap(NULL, bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        fail("mmap");
    return code;
}

uint64_t self_modifying(void)
{
    uint8_t *code = code_memory(4096);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 200000; i++) {
        size_t length = generate(code, i & 0x7ff);
        __builtin___clear_cache((char *)code, (char *)code + length);
        sum = ((function *)(void *)code)(sum);
    }
    munmap(code, 4096);
    return sum;
}

uint64_t generated_code(void)
{
    enum { BYTES = 1 << 16, SLOT = 64 };
    uint8_t *code = code_memory(BYTES);
    uint32_t sum = 0;
    for (uint32_t round = 0; round < 200; round++) {
        for (size_t at = 0; at < BYTES; at += SLOT)
            generate(code + at, (uint32_t)(at / SLOT + round) & 0x7ff);
        __builtin___clear_cache((char *)code, (char *)code + BYTES);
        for (int call = 0; call < 5; call++)
            for (size_t at = 0; at < BYTES; at += SLOT)
                sum = ((function *)(void *)(code + at))(sum);
    }
    munmap(code, BYTES);
    return sum;
}
