/* Products of a few rows by a weight, which is read once. Sums are made in one fixed order, so that a take is the same in any
   company. */

#pragma once

#include "weights.h"
#include "whole.h"

#ifdef __AVX512F__
#define MOST_ROWS 8 /* at a time, and fewer by halves: as many as the processor keeps sums of */
#else
#define MOST_ROWS 4
#endif
#define MOST_MADE_ROWS 16        /* that are there at a time as they are multiplied */
#define MOST_WHOLE_INPUTS 256    /* of bytes times 16 bits, whose sum has 32 */
#define PARTS (TOGETHER / LANES) /* of a block's outputs */

/* To the sums of some rows the products of a pair of weights of each output and the row's own pair. */
INLINE void add_rows(floats sums[][PARTS], const twins weights[PARTS], const own_pair *pair, int64_t between, int count) {
    for (int row = 0; row < count; row++) {
        const twins own = twins_of_own(pair[row * between]);
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
INLINE void sum_pairs(const char *block, const own_pair *rows, floats sums[][PARTS], int64_t pairs, int count) {
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

/* Rows as they are multiplied: pairs; or whole numbers, and then those that are summed together lie together: of `some` rows,
   then of the next. */
struct rows {
    const void *numbers;     /* own_pair [count, in / 2]; uint32_t for INT8 [in / 4, some, 2], for INT4 [in / 4, some] */
    const float *groups;     /* for INT4, what a GROUP's numbers are times, and all of them times that, [in / GROUP, some, 2] */
    const float *zeros;      /* for INT8, what ZERO adds to each sum, [count] */
    const float *scales;     /* and what whole numbers are times, [count] */
};

INLINE void clear_whole(ints sums[][PARTS][SUMS], int count) {
    for (int row = 0; row < count; row++)
        for (int part = 0; part < PARTS; part++)
            for (int each = 0; each < SUMS; each++) sums[row][part][each] = (ints){0};
}

/* To the sums of some rows the products of four weights of each output and the row's own four. */
INLINE void add_whole(ints sums[][PARTS][SUMS], const words weights[PARTS], const uint32_t *four, int count) {
    for (int row = 0; row < count; row++)
        for (int part = 0; part < PARTS; part++) add_fours(sums[row][part], weights[part], four + 2 * row);
}

INLINE void sum_int8(const char *block, const uint32_t *rows, floats sums[][PARTS], int64_t in, int count) {
    for (int64_t first = 0; first < in; first += MOST_WHOLE_INPUTS) {
        const int64_t end = first + MOST_WHOLE_INPUTS < in ? first + MOST_WHOLE_INPUTS : in;
        ints own[MOST_ROWS][PARTS][SUMS];
        clear_whole(own, count);
        for (int64_t index = first; index < end; index += 4, block += sizeof(words) * PARTS, rows += 2 * count) {
            words read[PARTS];
            for (int part = 0; part < PARTS; part++) read[part] = read_words(block + part * sizeof(words), count);
            add_whole(own, read, rows, count);
        }
        for (int row = 0; row < count; row++)
            for (int part = 0; part < PARTS; part++)
                sums[row][part] += __builtin_convertvector(all_sums(own[row][part]), floats);
    }
}

INLINE void sum_int4(const char *block, const uint32_t *rows, const float *groups, floats sums[][PARTS], int64_t in,
                     int count) {
    for (int64_t group = 0; group < in / GROUP; group++, block += GROUP_BYTES, groups += 2 * count) {
        ints own[MOST_ROWS][PARTS];
        ask_ahead(block, count); /* each line of the cache by itself, that of the scales, too */
        for (int row = 0; row < count; row++)
            for (int part = 0; part < PARTS; part++) own[row][part] = (ints){0};
        for (int word = 0; word < GROUP / 8; word++, rows += 2 * count)
            for (int part = 0; part < PARTS; part++) {
                const words read = read_words(block + 4 * TOGETHER + (word * PARTS + part) * sizeof(words), count);
                const words lower = read & 0x0f0f0f0f, upper = read >> 4 & 0x0f0f0f0f;
                for (int row = 0; row < count; row++) {
                    own[row][part] = add_small(own[row][part], lower, rows[row]);
                    own[row][part] = add_small(own[row][part], upper, rows[count + row]);
                }
            }
        for (int part = 0; part < PARTS; part++) {
            const floats times = read_numbers(block, part * LANES, BFLOAT16);
            const floats added = read_numbers(block, TOGETHER + part * LANES, BFLOAT16) - 8.0f * times;
            for (int row = 0; row < count; row++) {
                const floats products = __builtin_convertvector(small_sums(own[row][part]), floats) * times;
                sums[row][part] += products * groups[2 * row] + added * groups[2 * row + 1];
            }
        }
    }
}

/* A row [in] in bfloat16 as one of `some` that are summed together, for INT8. */
static void put_row(const uint16_t *row, int64_t in, int64_t some, uint32_t *numbers, float *zero, float *scale) {
    const float factor = factor_to(MOST_WHOLE, row, in, BFLOAT16, scale);
    ints all = {0};
    for (int64_t index = 0; index < in; index += LANES) {
        const ints own = whole(read_numbers(row, index, BFLOAT16), factor);
        put_whole(numbers + index / 2 * some, 2 * some, own);
        all += own;
    }
    *zero = sum(__builtin_convertvector(all, floats)) * ZERO; /* all of a very wide row would not go into 32 bits */
}

/* The same for INT4: each GROUP has a scale of its own, so that 8 bits are as good as the weights' 4 can use. */
static void put_groups(const uint16_t *row, int64_t in, int64_t some, uint32_t *numbers, float *groups) {
    for (int64_t group = 0; group < in / GROUP; group++, row += GROUP, groups += 2 * some) {
        const float factor = factor_to(MOST_BYTE, row, GROUP, BFLOAT16, groups);
        ints all = {0};
        for (int64_t index = 0; index < GROUP; index += LANES) {
            const ints own = whole(read_numbers(row, index, BFLOAT16), factor);
            const bytes small = __builtin_convertvector(own, bytes);
            for (int four = 0; four < LANES / 4; four++, numbers += some)
                memcpy(numbers, (const uint32_t *)&small + four, sizeof *numbers);
            all += own;
        }
        groups[1] = (float)sum_of_whole(all) * groups[0];
    }
}

/* Of how many rows the sums are made at a time, where so many are left. */
INLINE int64_t rows_of(int64_t left) {
    return left >= MOST_ROWS ? MOST_ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Those from `row` on. */
INLINE void some_rows(const char *block, const struct rows *rows, void *results, int64_t row, int64_t index, int64_t in,
                      int64_t between, int count, enum held held, enum use use) {
    const uint32_t *numbers = (const uint32_t *)rows->numbers + row * in / (held == INT4 ? 4 : 2);
    floats sums[MOST_ROWS][PARTS];
    clear(sums, count);
    switch (held) {
        case PAIRS: sum_pairs(block, (const own_pair *)rows->numbers + row * in / 2, sums, in / 2, count); break;
        case INT8: sum_int8(block, numbers, sums, in, count); break;
        case INT4: sum_int4(block, numbers, rows->groups + 2 * row * in / GROUP, sums, in, count);
    }
    for (int each = 0; each < count; each++)
        for (int part = 0; part < PARTS; part++) {
            floats made = sums[each][part];
            if (held == INT8) made -= rows->zeros[row + each];
            if (held == INT8) made *= read_numbers(block + in * TOGETHER, part * LANES, BFLOAT16) * rows->scales[row + each];
            use_numbers(results, index + (row + each) * between + part * LANES, made, use);
        }
}

INLINE void multiply_held(const char *numbers, const struct rows *rows, void *results, int64_t count, int64_t in, int64_t out,
                          int64_t between, enum held held, enum use use) {
    const int64_t bytes = block_bytes(held, in);
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < out / TOGETHER; block++) {
        const char *own = numbers + block * bytes;
        const int64_t index = block * TOGETHER;
        for (int64_t row = 0; row < count; row += rows_of(count - row))
            switch (rows_of(count - row)) {
#if MOST_ROWS == 8
                case 8: some_rows(own, rows, results, row, index, in, between, 8, held, use); break;
#endif
                case 4: some_rows(own, rows, results, row, index, in, between, 4, held, use); break;
                case 2: some_rows(own, rows, results, row, index, in, between, 2, held, use); break;
                case 1: some_rows(own, rows, results, row, index, in, between, 1, held, use);
            }
    }
}

/* Of rows in bfloat16 each thread makes for itself what is multiplied: that takes less than to wait for each other. */
INLINE void multiply_pairs(const char *numbers, const uint16_t *rows, char *results, int64_t count, int64_t in, int64_t out,
                           int64_t between, enum use use) {
#ifdef __AVX512BF16__
    const struct rows as_they_are = {.numbers = rows};
    multiply_held(numbers, &as_they_are, results, count, in, out, between, PAIRS, use);
#else
    own_pair all[MOST_MADE_ROWS * in / 2];
    const struct rows made = {.numbers = all};
    for (; count > 0; count -= MOST_MADE_ROWS) {
        const int64_t here = count < MOST_MADE_ROWS ? count : MOST_MADE_ROWS;
        for (int64_t index = 0; index < here * in; index += 4) put_two_pairs(all + index / 2, rows + index);
        multiply_held(numbers, &made, results, here, in, out, between, PAIRS, use);
        rows += here * in;
        results += here * between * (use == ADD || use == PUT ? 4 : 2);
    }
#endif
}

INLINE void multiply_whole(const char *numbers, const uint16_t *rows, char *results, int64_t count, int64_t in, int64_t out,
                           int64_t between, enum held held, enum use use) {
    const int64_t words_of_row = held == INT4 ? in / 4 : in / 2, groups = 2 * in / GROUP;
    uint32_t all[MOST_MADE_ROWS * words_of_row];
    float groups_of_all[MOST_MADE_ROWS * groups], zeros[MOST_MADE_ROWS], scales[MOST_MADE_ROWS];
    const struct rows made = {all, groups_of_all, zeros, scales};
    for (; count > 0; count -= MOST_MADE_ROWS) {
        const int64_t here = count < MOST_MADE_ROWS ? count : MOST_MADE_ROWS;
        for (int64_t first = 0, some; first < here; first += some) {
            some = rows_of(here - first);
            for (int64_t each = 0, row = first; each < some; each++, row++) {
                uint32_t *own = all + first * words_of_row;
                if (held == INT8)
                    put_row(rows + row * in, in, some, own + 2 * each, zeros + row, scales + row);
                else
                    put_groups(rows + row * in, in, some, own + each, groups_of_all + first * groups + 2 * each);
            }
        }
        multiply_held(numbers, &made, results, here, in, out, between, held, use);
        rows += here * in;
        results += here * between * (use == ADD || use == PUT ? 4 : 2);
    }
}

/* rows [count, in] in bfloat16 times a weight, whose blocks of TOGETHER outputs lie one after another: results [count, out],
   `between` numbers from row to row. `in` is a multiple of 4, and of GROUP for fewer bits, `out` of TOGETHER. How many rows
   there are makes no difference to any of them. A share for each thread of a team; the threads do not wait for each other. */
ONCE static void multiply(struct weight weight, const void *rows, void *results, int64_t count, int64_t in, int64_t out,
                          int64_t between, enum use use) {
    switch ((enum held)weight.held) {
        case PAIRS: multiply_pairs(weight.numbers, rows, results, count, in, out, between, use); break;
        case INT8: multiply_whole(weight.numbers, rows, results, count, in, out, between, INT8, use); break;
        case INT4: multiply_whole(weight.numbers, rows, results, count, in, out, between, INT4, use);
    }
}

void multiply_rows(const void *numbers, int64_t held, const void *rows, void *results, int64_t count, int64_t in, int64_t out) {
#pragma omp parallel
    multiply((struct weight){numbers, held}, rows, results, count, in, out, out, ROUND);
}
