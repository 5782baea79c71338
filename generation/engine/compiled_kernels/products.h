/* Products of a few rows by a weight, which is read once. Sums are made in one fixed order, so that a take is the same in any
   company. */

#pragma once

#include "weights.h"

#ifdef __AVX512F__
#define MOST_ROWS 8 /* at a time, and fewer by halves: as many as the processor keeps sums of */
#else
#define MOST_ROWS 4
#endif
#define MOST_SUMMED 64           /* rows whose groups are summed at a time */
#define PARTS (TOGETHER / LANES) /* of a block's outputs */

/* To the sums of some rows the products of a pair of weights of each output and the row's own pair. */
INLINE void add_rows(floats sums[][PARTS], const twins weights[PARTS], const uint32_t *pair, int64_t between, int count) {
    for (int row = 0; row < count; row++) {
        const twins own = twins_of((words){0} + pair[row * between]);
        for (int part = 0; part < PARTS; part++) sums[row][part] = add_twins(sums[row][part], weights[part], own);
    }
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

/* The sums of a block's outputs for `count` rows, PARTS for each. Each has one order, whatever is beside it. */
INLINE void sum_pairs(const char *block, const uint32_t *rows, floats sums[][PARTS], int64_t pairs, int count) {
    for (int64_t pair = 0; pair < pairs; pair++, block += sizeof(words) * PARTS) {
        twins read[PARTS];
        for (int part = 0; part < PARTS; part++) read[part] = twins_of(read_words(block + part * sizeof(words), count));
        add_rows(sums, read, rows + pair, pairs, count);
    }
}

INLINE void clear(floats sums[][PARTS], int count) {
    for (int row = 0; row < count; row++)
        for (int part = 0; part < PARTS; part++) sums[row][part] = (floats){0};
}

/* A group has sums of its own: a sum waits for the one before it, and those of several groups do not. */
INLINE void sum_int8(const char *block, const uint32_t *rows, floats sums[][PARTS], int64_t pairs, int count) {
    for (int64_t first = 0; first < pairs; first += GROUP / 2) {
        floats own[TWINS_OF_A_BYTE][MOST_ROWS][PARTS];
        for (int which = 0; which < TWINS_OF_A_BYTE; which++) clear(own[which], count);
        for (int word = 0; word < GROUP / 4; word++, block += sizeof(words) * PARTS) {
            words read[PARTS];
            for (int part = 0; part < PARTS; part++) read[part] = read_words(block + part * sizeof(words), count);
            for (int next = 0; next < 2; next++) {
                twins made[TWINS_OF_A_BYTE][PARTS];
                for (int part = 0; part < PARTS; part++) {
                    twins each[TWINS_OF_A_BYTE];
                    twins_of_bytes(read[part] >> 8 * next, each);
                    for (int which = 0; which < TWINS_OF_A_BYTE; which++) made[which][part] = each[which];
                }
                for (int which = 0; which < TWINS_OF_A_BYTE; which++)
                    add_rows(own[which], made[which], rows + first + 2 * word + next, pairs, count);
            }
        }
        for (int which = 0; which < TWINS_OF_A_BYTE; which++)
            for (int row = 0; row < count; row++)
                for (int part = 0; part < PARTS; part++) sums[row][part] += own[which][row][part];
    }
    for (int part = 0; part < PARTS; part++) {
        const floats times = read_numbers(block, part * LANES, BFLOAT16);
        for (int row = 0; row < count; row++) sums[row][part] *= times;
    }
}

/* `all` [count, groups] is what the rows' numbers of each group make together. */
INLINE void sum_int4(const char *block, const uint32_t *rows, const float *all, floats sums[][PARTS], int64_t pairs,
                     int count) {
    const int64_t groups = 2 * pairs / GROUP;
    for (int64_t group = 0; group < groups; group++, block += GROUP_BYTES) {
        floats own[MOST_ROWS][PARTS];
        clear(own, count);
        for (int word = 0; word < GROUP / 8; word++) {
            words read[PARTS];
            for (int part = 0; part < PARTS; part++)
                read[part] = read_words(block + 4 * TOGETHER + (word * PARTS + part) * sizeof(words), count);
            for (int next = 0; next < 4; next++) {
                twins made[PARTS];
                for (int part = 0; part < PARTS; part++) made[part] = twins_of_four_bits(read[part] >> 4 * next);
                add_rows(own, made, rows + group * GROUP / 2 + 4 * word + next, pairs, count);
            }
        }
        for (int part = 0; part < PARTS; part++) {
            const floats times = read_numbers(block, part * LANES, BFLOAT16);
            const floats added = read_numbers(block, TOGETHER + part * LANES, BFLOAT16);
            for (int row = 0; row < count; row++) sums[row][part] += own[row][part] * times + added * all[row * groups + group];
        }
    }
}

/* What the rows' numbers of each group make together, [count, groups]. */
static void sum_groups(const uint16_t *rows, float *all, int64_t groups) {
    for (int64_t group = 0; group < groups; group++) {
        floats numbers = {0};
        for (int64_t index = 0; index < GROUP; index += LANES) numbers += read_numbers(rows, group * GROUP + index, BFLOAT16);
        all[group] = sum(numbers);
    }
}

INLINE void some_rows(const char *block, const uint32_t *rows, const float *all, void *results, int64_t index, int64_t pairs,
                      int64_t between, int count, enum held held, enum use use) {
    floats sums[MOST_ROWS][PARTS];
    clear(sums, count);
    switch (held) {
        case PAIRS: sum_pairs(block, rows, sums, pairs, count); break;
        case INT8: sum_int8(block, rows, sums, pairs, count); break;
        case INT4: sum_int4(block, rows, all, sums, pairs, count);
    }
    for (int row = 0; row < count; row++)
        for (int part = 0; part < PARTS; part++)
            use_numbers(results, index + row * between + part * LANES, sums[row][part], use);
}

INLINE void multiply_held(const char *numbers, const void *rows, void *results, int64_t count, int64_t in, int64_t out,
                          int64_t between, enum held held, enum use use) {
    const int64_t pairs = in / 2, groups = held == INT4 ? in / GROUP : 0, bytes = block_bytes(held, in);
    float all[MOST_SUMMED * groups + 1];
    if (held == INT4) sum_groups(rows, all, count * groups);
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < out / TOGETHER; block++) {
        const char *own = numbers + block * bytes;
        const uint32_t *row = rows;
        const float *of_row = all;
        for (int64_t left = count, to = block * TOGETHER; left > 0;) {
            const int some = left >= MOST_ROWS ? MOST_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            switch (some) {
#if MOST_ROWS == 8
                case 8: some_rows(own, row, of_row, results, to, pairs, between, 8, held, use); break;
#endif
                case 4: some_rows(own, row, of_row, results, to, pairs, between, 4, held, use); break;
                case 2: some_rows(own, row, of_row, results, to, pairs, between, 2, held, use); break;
                case 1: some_rows(own, row, of_row, results, to, pairs, between, 1, held, use);
            }
            left -= some, row += some * pairs, of_row += some * groups, to += some * between;
        }
    }
}

/* rows [count, in] in bfloat16 times a weight, whose blocks of TOGETHER outputs lie one after another: results [count, out],
   `between` numbers from row to row. `in` is a multiple of 2, and of GROUP for fewer bits, `out` of TOGETHER. How many rows
   there are makes no difference to any of them. A share for each thread of a team; the threads do not wait for each other. */
static void multiply(struct weight weight, const void *rows, void *results, int64_t count, int64_t in, int64_t out,
                     int64_t between, enum use use) {
    switch ((enum held)weight.held) {
        case PAIRS: multiply_held(weight.numbers, rows, results, count, in, out, between, PAIRS, use); break;
        case INT8: multiply_held(weight.numbers, rows, results, count, in, out, between, INT8, use); break;
        case INT4:
            for (; count > 0; count -= MOST_SUMMED, rows = (const uint16_t *)rows + MOST_SUMMED * in) {
                const int64_t some = count < MOST_SUMMED ? count : MOST_SUMMED;
                multiply_held(weight.numbers, rows, results, some, in, out, between, INT4, use);
                results = (char *)results + MOST_SUMMED * between * (use == ADD || use == PUT ? 4 : 2);
            }
    }
}

void multiply_rows(const void *numbers, int64_t held, const void *rows, void *results, int64_t count, int64_t in, int64_t out) {
#pragma omp parallel
    multiply((struct weight){numbers, held}, rows, results, count, in, out, out, ROUND);
}
