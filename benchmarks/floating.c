/* Floating point: double precision in short dependency chains, in loops over arrays, and single precision. */
#include <math.h>
#include <string.h>

#include "work.h"

static uint64_t bits(double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

struct body {
    double position[3], velocity[3], mass;
};

uint64_t nbody(void)
{
    struct body bodies[5];
    uint64_t state = 4242;
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 3; k++) {
            bodies[i].position[k] = (double)(next_random(&state) % 1000) / 50 - 10;
            bodies[i].velocity[k] = (double)(next_random(&state) % 1000) / 5000 - 0.1;
        }
        bodies[i].mass = 0.5 + (double)i;
    }
    for (int step = 0; step < 300000; step++) {
        for (int i = 0; i < 5; i++) {
            for (int j = i + 1; j < 5; j++) {
                double delta[3], square = 0.01;
                for (int k = 0; k < 3; k++) {
                    delta[k] = bodies[i].position[k] - bodies[j].position[k];
                    square += delta[k] * delta[k];
                }
                double magnitude = 0.001 / (square * sqrt(square));
                for (int k = 0; k < 3; k++) {
                    bodies[i].velocity[k] -= delta[k] * bodies[j].mass * magnitude;
                    bodies[j].velocity[k] += delta[k] * bodies[i].mass * magnitude;
                }
            }
        }
        for (int i = 0; i < 5; i++)
            for (int k = 0; k < 3; k++)
                bodies[i].position[k] += 0.001 * bodies[i].velocity[k];
    }
    return bits(bodies[0].position[0]) ^ bits(bodies[4].velocity[2]);
}

uint64_t mandelbrot(void)
{
    uint64_t count = 0;
    for (int row = 0; row < 300; row++) {
        for (int column = 0; column < 300; column++) {
            double x = column / 120.0 - 2.0, y = row / 120.0 - 1.25, re = 0, im = 0;
            int i = 0;
            while (i < 600 && re * re + im * im < 4) {
                double next = re * re - im * im + x;
                im = 2 * re * im + y;
                re = next;
                i++;
            }
            count += (uint64_t)i;
        }
    }
    return count;
}

uint64_t matrix(void)
{
    enum { SIZE = 200 };
    static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            a[i][j] = (i * 7 + j) % 13 - 6.5;
            b[i][j] = (i + j * 5) % 11 - 5.25;
        }
    for (int round = 0; round < 12; round++)
        for (int i = 0; i < SIZE; i++)
            for (int j = 0; j < SIZE; j++) {
                double sum = 0;
                for (int k = 0; k < SIZE; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum + c[i][j] / 2;
            }
    return bits(c[3][5]) ^ bits(c[SIZE - 1][SIZE - 2]);
}

uint64_t single_precision(void)
{
    float x = 0.1f, y = 0.2f, z = 0.3f;
    for (int i = 0; i < 6000000; i++) {
        float next = 1.25f * (y - x);
        y += 0.01f * (x * (2.0f - z) - y);
        z += 0.01f * (x * y - z * 0.5f);
        x += next * 0.01f;
        if (x > 100.0f)
            x -= 100.0f;
    }
    return bits(x) ^ bits(y) ^ bits(z);
}
