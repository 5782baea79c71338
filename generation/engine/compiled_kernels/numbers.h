/* LANES numbers at a time, in the compilers' own vectors (GCC and Clang), so that one text serves AVX2, AVX-512 and NEON. */

#pragma once

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16
/* Functions of constants: each call becomes a loop of its own, without a question inside. */
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef float half_floats __attribute__((vector_size(2 * LANES)));
typedef float quarter_floats __attribute__((vector_size(LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t short_words __attribute__((vector_size(2 * LANES)));

enum format { FLOAT32, BFLOAT16 };

/* The numbers from that index on. A bfloat16 is the upper half of a float. */
INLINE floats read_numbers(const void *from, int64_t index, enum format format) {
    floats numbers;
    if (format == FLOAT32) {
        memcpy(&numbers, (const float *)from + index, sizeof numbers);
        return numbers;
    }
    short_words upper;
    memcpy(&upper, (const uint16_t *)from + index, sizeof upper);
    return (floats)(__builtin_convertvector(upper, words) << 16);
}

/* In bfloat16 rounded to the nearest, and in the middle to even. */
INLINE void write_numbers(void *to, int64_t index, floats numbers, enum format format) {
    if (format == FLOAT32) {
        memcpy((float *)to + index, &numbers, sizeof numbers);
        return;
    }
    words bits = (words)numbers;
    bits += 0x7fff + ((bits >> 16) & 1);
    short_words upper = __builtin_convertvector(bits >> 16, short_words);
    memcpy((uint16_t *)to + index, &upper, sizeof upper);
}

INLINE float sum(floats numbers) {
    half_floats halves[2];
    quarter_floats quarters[2];
    memcpy(halves, &numbers, sizeof numbers);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof quarters);
    quarters[0] += quarters[1];
    return (quarters[0][0] + quarters[0][2]) + (quarters[0][1] + quarters[0][3]);
}

/* e to the power of numbers that are 0 or less: 2 to a whole number, by way of the exponent's bits, times a polynomial
   (expf of the Cephes library). NaN stays NaN. */
INLINE floats power_of_e(floats x) {
    ints tiny = x < -87.0f;
    x = (floats)((tiny & (ints)((floats){0} - 87.0f)) | (~tiny & (ints)x));
    ints whole = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, ints);
    floats n = __builtin_convertvector(whole, floats);
    floats f = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats y = f * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
    return y * (floats)((whole + 127) << 23);
}
