/* Products of a few rows by a weight in bfloat16, which is read once. Sums are made in one fixed order, so that a take is the
   same in any company. */

#pragma once

#include "numbers.h"

/* A block of weights [in / 2, LANES]: each word is a pair of numbers of one output, the former in its lower half. */

#define ROWS_TOGETHER 8
#define BLOCKS_TOGETHER 2
#define AHEAD 2048 /* bytes to be asked of memory before they are needed */

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

INLINE words read_pairs(const uint32_t *from) {
    words pairs;
    __builtin_prefetch((const char *)from + AHEAD);
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

/* The outputs of one or two blocks, of `count` rows. A sum has one order, whatever is beside it. */
INLINE void some_rows(const uint32_t *weights, const uint32_t *rows, void *results, int64_t index, int64_t pairs,
                      int64_t between, int count, int blocks, enum use use) {
    floats sums[ROWS_TOGETHER][BLOCKS_TOGETHER];
    for (int row = 0; row < count; row++)
        for (int block = 0; block < blocks; block++) sums[row][block] = (floats){0};
    for (int64_t pair = 0; pair < pairs; pair++) {
        words read[BLOCKS_TOGETHER];
        for (int block = 0; block < blocks; block++) read[block] = read_pairs(weights + (block * pairs + pair) * LANES);
        for (int row = 0; row < count; row++)
            for (int block = 0; block < blocks; block++)
                sums[row][block] = add_pairs(sums[row][block], read[block], rows[row * pairs + pair]);
    }
    for (int row = 0; row < count; row++)
        for (int block = 0; block < blocks; block++)
            use_numbers(results, index + row * between + block * LANES, sums[row][block], use);
}

INLINE void some_blocks(const uint32_t *weights, const uint32_t *rows, void *results, int64_t index, int64_t pairs,
                        int64_t between, int64_t count, int blocks, enum use use) {
    for (; count >= 8; count -= 8, rows += 8 * pairs, index += 8 * between)
        some_rows(weights, rows, results, index, pairs, between, 8, blocks, use);
    for (; count >= 4; count -= 4, rows += 4 * pairs, index += 4 * between)
        some_rows(weights, rows, results, index, pairs, between, 4, blocks, use);
    for (; count >= 2; count -= 2, rows += 2 * pairs, index += 2 * between)
        some_rows(weights, rows, results, index, pairs, between, 2, blocks, use);
    for (; count >= 1; count -= 1, rows += pairs, index += between)
        some_rows(weights, rows, results, index, pairs, between, 1, blocks, use);
}

/* rows [count, in] in bfloat16 times weights, of which blocks of LANES outputs lie one after another: results [count, out],
   `between` numbers from row to row. `in` is a multiple of 2, `out` of LANES. How many rows there are makes no difference to
   any of them. A share for each thread of a team; the threads do not wait for each other. */
static void multiply(const void *weights, const void *rows, void *results, int64_t count, int64_t in, int64_t out,
                     int64_t between, enum use use) {
    const int64_t pairs = in / 2, blocks = out / LANES;
    /* Of many rows each number that is read serves two blocks; of few, memory is the bound, and one place at a time is best. */
    const int64_t together = count >= ROWS_TOGETHER ? BLOCKS_TOGETHER : 1;
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < blocks; block += together) {
        const uint32_t *own = (const uint32_t *)weights + block * pairs * LANES;
        if (together > 1 && block + together <= blocks)
            some_blocks(own, rows, results, block * LANES, pairs, between, count, BLOCKS_TOGETHER, use);
        else
            some_blocks(own, rows, results, block * LANES, pairs, between, count, 1, use);
    }
}

void multiply_bfloat16(const void *weights, const void *rows, void *results, int64_t count, int64_t in, int64_t out) {
#pragma omp parallel
    multiply(weights, rows, results, count, in, out, out, ROUND);
}
