/* Control flow: an interpreter's dispatch loop, recursive calls, and calls through pointers. */
#include "work.h"

enum { PUSH, ADD, SUB, DUP, SWAP, JUMP_IF, DROP, XOR, HALT };

uint64_t dispatch(void)
{
    /* counter -- ; while it is not zero: sum ^= counter, counter -= 1 */
    static const int32_t code[] = {PUSH, 0,    PUSH, 2500000, SWAP, PUSH, 3,  ADD,     SWAP, DUP, PUSH, 5,
                                   XOR,  DROP, PUSH, 1,       SUB,  DUP,  JUMP_IF, 4,  DROP, HALT};
    int64_t stack[16], *top = stack;
    const int32_t *at = code;
    for (;;) {
        switch (*at++) {
        case PUSH: *++top = *at++; break;
        case ADD: top[-1] += top[0]; top--; break;
        case SUB: top[-1] -= top[0]; top--; break;
        case XOR: top[-1] ^= top[0]; top--; break;
        case DUP: top[1] = top[0]; top++; break;
        case SWAP: {
            int64_t other = top[0];
            top[0] = top[-1];
            top[-1] = other;
            break;
        }
        case JUMP_IF:
            if (*top-- != 0)
                at = code + *at;
            else
                at++;
            break;
        case DROP: top--; break;
        case HALT: return (uint64_t)*top;
        }
    }
}

static __attribute__((noinline)) uint64_t fibonacci(uint32_t n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static __attribute__((noinline)) uint64_t ackermann(uint64_t m, uint64_t n)
{
    if (m == 0)
        return n + 1;
    return ackermann(m - 1, n == 0 ? 1 : ackermann(m, n - 1));
}

uint64_t recursion(void)
{
    return fibonacci(36) + ackermann(2, 600) + ackermann(3, 6);
}

static __attribute__((noinline)) uint64_t add_one(uint64_t x) { return x + 1; }
static __attribute__((noinline)) uint64_t times_three(uint64_t x) { return x * 3; }
static __attribute__((noinline)) uint64_t rotated(uint64_t x) { return x << 7 | x >> 57; }
static __attribute__((noinline)) uint64_t inverted(uint64_t x) { return ~x; }
static __attribute__((noinline)) uint64_t halved(uint64_t x) { return x >> 1; }

uint64_t indirect_calls(void)
{
    uint64_t (*volatile functions[8])(uint64_t) = {add_one, times_three, rotated,     inverted,
                                                   halved,  add_one,     times_three, rotated};
    uint64_t x = 1;
    for (uint32_t i = 0; i < 30000000; i++)
        x = functions[(x ^ i) & 7](x);
    return x;
}
