/* Products of a few rows by a weight in bfloat16, which is read once. Sums are made in one fixed order, so that a take is the
   same in any company. */

#pragma once

#include "numbers.h"

/* A block of weights [in / 2, LANES]: each word is a pair of numbers of one output, the former in its lower half. */

#define MOST_ROWS 8 /* at a time, and fewer by halves */
/* Bytes to be asked of memory before they are needed: of few rows, which only wait for it, into the first cache; of more into
   the second, since the first has few places for what is on its way, and those rows need it for themselves. */
#define AHEAD_OF_FEW 4096
#define AHEAD 8192
#define FEW 2

/* To each output's sum its pair of weights times the row's pair of numbers. */
INLINE floats add_pairs(floats sums, words weights, uint32_t pair) {
#ifdef __AVX512BF16__
    return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)_mm512_set1_epi32((int)pair));
#else
    words pairs = (words){0} + pair;
    sums += (floats)(weights << 16) * (floats)(pairs << 16);
    return sums + (floats)(weights & 0xffff0000u) * (floats)(pairs & 0xffff0000u);
#endif
}

INLINE words read_pairs(const uint32_t *from, int count) {
    words pairs;
    if (count <= FEW)
        __builtin_prefetch((const char *)from + AHEAD_OF_FEW);
    else
        __builtin_prefetch((const char *)from + AHEAD, 0, 2);
    memcpy(&pairs, from, sizeof pairs);
    return pairs;
}

/* What becomes of a product: rounded to bfloat16, after the activation too, or added to a float or put there as it is. */
enum use { ROUND, ROUND_GELU, ROUND_RELU, ADD, PUT };

/* 1 minus the error function of numbers that are 0 or more: Abramowitz and Stegun, 7.1.26, to 1.5e-7. */
INLINE floats without_erf(floats x) {
    floats t = 1.0f / (x * 0.3275911f + 1.0f);
    floats y = t * 1.061405429f - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = (y * t + 0.254829592f) * t;
    return y * power_of_e(-x * x);
}

INLINE floats gelu(floats x) {
    ints negative = x < 0.0f;
    floats size = (floats)((ints)x & 0x7fffffff);
    floats share = without_erf(size * 0.70710678f) * 0.5f;
    floats other = 1.0f - share;
    return x * (floats)((negative & (ints)share) | (~negative & (ints)other));
}

INLINE floats relu(floats x) {
    ints negative = x < 0.0f; /* NaN stays NaN */
    return (floats)(~negative & (ints)x);
}

static void use_numbers(void *results, int64_t index, floats numbers, enum use use) {
    switch (use) {
        case ROUND: write_numbers(results, index, numbers, BFLOAT16); break;
        case ROUND_GELU: write_numbers(results, index, gelu(numbers), BFLOAT16); break;
        case ROUND_RELU: write_numbers(results, index, relu(numbers), BFLOAT16); break;
        case ADD: numbers += read_numbers(results, index, FLOAT32); /* fall through */
        case PUT: write_numbers(results, index, numbers, FLOAT32);
    }
}

/* A block's outputs of `count` rows. A sum has one order, whatever is beside it. */
INLINE void some_rows(const uint32_t *weights, const uint32_t *rows, void *results, int64_t index, int64_t pairs,
                      int64_t between, int count, enum use use) {
    floats sums[MOST_ROWS];
    for (int row = 0; row < count; row++) sums[row] = (floats){0};
    for (int64_t pair = 0; pair < pairs; pair++) {
        words read = read_pairs(weights + pair * LANES, count);
        for (int row = 0; row < count; row++) sums[row] = add_pairs(sums[row], read, rows[row * pairs + pair]);
    }
    for (int row = 0; row < count; row++) use_numbers(results, index + row * between, sums[row], use);
}

/* rows [count, in] in bfloat16 times weights, of which blocks of LANES outputs lie one after another: results [count, out],
   `between` numbers from row to row. `in` is a multiple of 2, `out` of LANES. How many rows there are makes no difference to
   any of them. A share for each thread of a team; the threads do not wait for each other. */
static void multiply(const void *weights, const void *rows, void *results, int64_t count, int64_t in, int64_t out,
                     int64_t between, enum use use) {
    const int64_t pairs = in / 2;
#pragma omp for schedule(static) nowait
    for (int64_t index = 0; index < out; index += LANES) {
        const uint32_t *own = (const uint32_t *)weights + index * pairs, *row = rows;
        for (int64_t left = count, to = index; left > 0;) {
            const int some = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            switch (some) {
                case 8: some_rows(own, row, results, to, pairs, between, 8, use); break;
                case 4: some_rows(own, row, results, to, pairs, between, 4, use); break;
                case 2: some_rows(own, row, results, to, pairs, between, 2, use); break;
                case 1: some_rows(own, row, results, to, pairs, between, 1, use);
            }
            left -= some, row += some * pairs, to += some * between;
        }
    }
}

void multiply_bfloat16(const void *weights, const void *rows, void *results, int64_t count, int64_t in, int64_t out) {
#pragma omp parallel
    multiply(weights, rows, results, count, in, out, out, ROUND);
}
