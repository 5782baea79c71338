/* Attention of one query to keys and values in 8 bits, with which half as much is read. */

#pragma once

#include "attention.h"
#include "whole.h"

/* Keys and values of one head in 8 bits and larger by ZERO, STEPS_TOGETHER of them in one record: keys [STEPS_TOGETHER /
   TOGETHER, size / 4, TOGETHER, 4], four numbers of each beside those of the steps after it; values [STEPS_TOGETHER / 4, size,
   4], those of four steps together; then what each step's key is times, in float, and what each step's value is times. */

#define STEPS_TOGETHER 64
#define LEAST_SCORE (-1e30f)

/* What a query has found in the records it went through. */
struct hearing {
    uint32_t asked[MOST_SIZE / 2];          /* the query's numbers, as `add_fours` needs them */
    float scale, top;                       /* the highest score so far */
    int32_t zero;                           /* what ZERO adds to each score */
    floats all, nothing, found[MOST_PARTS]; /* `nothing` is 0, and NaN for what is no number */
};

static int64_t record_bytes(int64_t size) {
    return STEPS_TOGETHER * 2 * (size + (int64_t)sizeof(float));
}

/* `ahead` bytes further on lies the same part of the record after this one. Asked for by then, it comes while this one is
   worked on: processors look ahead by themselves, but not over the end of a page. */
INLINE words read_bytes(const uint8_t *from, int64_t ahead) {
    words read;
    __builtin_prefetch(from + ahead, 0, 2);
    memcpy(&read, from, sizeof read);
    return read;
}

/* Puts a step's key and value into its record. */
static void keep(uint8_t *record, const float *key, const float *value, int64_t step, int64_t size) {
    uint8_t *keys = record + step / TOGETHER * TOGETHER * size + step % TOGETHER * 4;
    uint8_t *values = record + STEPS_TOGETHER * size + step / 4 * 4 * size + step % 4;
    float *scales = (float *)(record + 2 * STEPS_TOGETHER * size);
    const float of_key = factor_to(MOST_BYTE, key, size, FLOAT32, scales + step);
    const float of_value = factor_to(MOST_BYTE, value, size, FLOAT32, scales + STEPS_TOGETHER + step);
    for (int64_t index = 0; index < size; index += LANES) {
        bytes part = __builtin_convertvector(whole(read_numbers(key, index, FLOAT32), of_key) + ZERO, bytes);
        for (int lane = 0; lane < LANES; lane += 4) memcpy(keys + (index + lane) * TOGETHER, (uint8_t *)&part + lane, 4);
        part = __builtin_convertvector(whole(read_numbers(value, index, FLOAT32), of_value) + ZERO, bytes);
        for (int lane = 0; lane < LANES; lane++) values[4 * (index + lane)] = part[lane];
    }
}

INLINE void ask(struct hearing *hearing, const uint16_t *query, float scale, int parts) {
    const float factor = factor_to(MOST_WHOLE, query, parts * LANES, BFLOAT16, &hearing->scale);
    ints all = {0};
    for (int part = 0; part < parts; part++) {
        const ints numbers = whole(read_numbers(query, part * LANES, BFLOAT16), factor);
        put_whole(hearing->asked + part * LANES / 2, 2, numbers);
        all += numbers;
        hearing->found[part] = (floats){0};
    }
    hearing->zero = sum_of_whole(all) * ZERO;
    hearing->scale *= scale, hearing->top = LEAST_SCORE, hearing->all = hearing->nothing = (floats){0};
}

/* Goes through a record, of which the first `steps` count. */
INLINE void hear_record(struct hearing *hearing, const uint8_t *record, int64_t steps, int64_t ahead, int parts) {
    const int64_t size = parts * LANES;
    const uint8_t *values = record + STEPS_TOGETHER * size;
    const float *key_scales = (const float *)(values + STEPS_TOGETHER * size), *value_scales = key_scales + STEPS_TOGETHER;
    float scores[STEPS_TOGETHER];
    floats highest = (floats){0} + LEAST_SCORE;
    for (int64_t scale = 0; scale < 2 * STEPS_TOGETHER; scale += LANES)
        __builtin_prefetch((const char *)(key_scales + scale) + ahead, 0, 2);
    for (int64_t step = 0; step < steps; step += LANES) {
        const uint8_t *own = record + step / TOGETHER * TOGETHER * size + step % TOGETHER * 4;
        ints sums[2][SUMS] = {0}; /* a sum waits for the one before it, and two wait together */
        for (int64_t four = 0; four < size / 4; four += 2)
            for (int next = 0; next < 2; next++)
                add_fours(sums[next], read_bytes(own + (four + next) * 4 * TOGETHER, ahead),
                          hearing->asked + 2 * (four + next));
        floats products = __builtin_convertvector(all_sums(sums[0]) + all_sums(sums[1]) - hearing->zero, floats);
        products *= read_numbers(key_scales, step, FLOAT32) * hearing->scale;
        write_numbers(scores, step, products, FLOAT32);
        for (int64_t after = steps; after < step + LANES; after++) scores[after] = LEAST_SCORE;
        highest = larger(read_numbers(scores, step, FLOAT32), highest);
    }

    const float highest_here = largest(highest), before = hearing->top, top = highest_here > before ? highest_here : before;
    floats all = {0}, heaviest = {0};
    for (int64_t step = 0; step < steps; step += LANES) {
        floats powers = power_of_e(read_numbers(scores, step, FLOAT32) - top);
        all += powers;
        powers *= read_numbers(value_scales, step, FLOAT32);
        hearing->nothing += powers * 0.0f;
        heaviest = larger(powers, heaviest);
        write_numbers(scores, step, powers, FLOAT32);
    }
    const float most = largest(heaviest), factor = most > 0.0f ? MOST_WHOLE / most : 0.0f;
    uint32_t weights[STEPS_TOGETHER / 2];
    ints all_weights = {0};
    for (int64_t step = 0; step < steps; step += LANES) {
        const ints numbers = whole(read_numbers(scores, step, FLOAT32), factor);
        put_whole(weights + step / 2, 2, numbers);
        all_weights += numbers;
    }

    const int32_t zero = sum_of_whole(all_weights) * ZERO;
    ints sums[MOST_PARTS][SUMS] = {0};
    for (int64_t step = 0; step < steps; step += 4)
        for (int part = 0; part < parts; part++)
            add_fours(sums[part], read_bytes(values + step * size + part * 4 * LANES, ahead), weights + step / 2);
    /* What was found before was weighed by the highest score of then. */
    const floats less = power_of_e((floats){0} + (before - top));
    for (int part = 0; part < parts; part++) {
        const floats found = __builtin_convertvector(all_sums(sums[part]) - zero, floats);
        hearing->found[part] = hearing->found[part] * less + found * (most / MOST_WHOLE);
    }
    hearing->all = hearing->all * less + all, hearing->top = top;
}

INLINE void tell(const struct hearing *hearing, uint16_t *result, int parts) {
    const float share = 1.0f / sum(hearing->all), nothing = sum(hearing->all) * 0.0f + sum(hearing->nothing);
    for (int part = 0; part < parts; part++)
        write_numbers(result, part * LANES, hearing->found[part] * share + nothing, BFLOAT16);
}

/* What the queries of `count` heads find in the first `steps` of their records, which lie one after another; those of the next
   steps lie `between` bytes behind them. */
INLINE void some_heads(const uint16_t *queries, const uint8_t *records, uint16_t *results, int64_t count, int64_t steps,
                       int64_t between, float scale, int parts) {
    const int64_t bytes = record_bytes(parts * LANES);
    struct hearing hearing[count];
    for (int64_t head = 0; head < count; head++) ask(hearing + head, queries + head * parts * LANES, scale, parts);
    for (int64_t left = steps; left > 0; left -= STEPS_TOGETHER, records += between) {
        const int64_t here = left < STEPS_TOGETHER ? left : STEPS_TOGETHER;
        for (int64_t head = 0; head < count; head++) {
            const int64_t ahead = head + 1 < count ? bytes : between - head * bytes;
            hear_record(hearing + head, records + head * bytes, here, ahead, parts);
        }
    }
    for (int64_t head = 0; head < count; head++) tell(hearing + head, results + head * parts * LANES, parts);
}

static void kept_heads(const uint16_t *queries, const uint8_t *records, uint16_t *results, int64_t count, int64_t steps,
                       int64_t between, float scale, int64_t size) {
    switch (size) {
        case 16: some_heads(queries, records, results, count, steps, between, scale, 16 / LANES); break;
        case 32: some_heads(queries, records, results, count, steps, between, scale, 32 / LANES); break;
        case 64: some_heads(queries, records, results, count, steps, between, scale, 64 / LANES); break;
        case MOST_SIZE: some_heads(queries, records, results, count, steps, between, scale, MOST_PARTS);
    }
}
