/* LANES numbers at a time, in the compilers' own vectors (GCC and Clang), so that one text serves AVX2, AVX-512 and NEON. They
   are as long as the processor's: of longer ones GCC keeps the parts in memory. */

#pragma once

#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define TOGETHER 16 /* numbers of a kind that lie together in memory: all sizes are multiples */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
/* Functions of constants: each call becomes a loop of its own, without a question inside. */
#define INLINE static inline __attribute__((always_inline))
/* Compiled once, whatever its calls have in common: a copy for each took a third of the compiler's time and gained nothing. */
#define ONCE __attribute__((noinline, noclone))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef float eight_floats __attribute__((vector_size(32)));
typedef float four_floats __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint32_t four_words __attribute__((vector_size(16)));
typedef uint16_t short_words __attribute__((vector_size(2 * LANES)));
typedef uint16_t four_short_words __attribute__((vector_size(8)));

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
    four_floats fours[LANES / 4];
#if LANES == 16
    eight_floats eights[2];
    memcpy(eights, &numbers, sizeof numbers);
    eights[0] += eights[1];
    memcpy(fours, eights, sizeof eights[0]);
#else
    memcpy(fours, &numbers, sizeof numbers);
#endif
    if (LANES > 4) fours[0] += fours[1];
    return (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
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
