/* Attention of one query. Goes through keys and values once, in the order of memory. */

#pragma once

#include "numbers.h"

#define MOST_SIZE 128 /* of a head */
#define MOST_PARTS (MOST_SIZE / LANES)

/* What a query finds in the keys and values of one head, of which the first `steps` count. `parts` are LANES wide. */
INLINE void one_head(const void *query, const void *keys, const void *values, void *result, int64_t steps, float scale,
                     int parts, enum format format) {
    float scores[steps + LANES];
    floats asked[MOST_PARTS], found[MOST_PARTS];
    for (int part = 0; part < parts; part++) {
        asked[part] = read_numbers(query, part * LANES, format) * scale;
        found[part] = (floats){0};
    }

    float highest = -1e30f;
    for (int64_t step = 0; step < steps; step++) {
        int64_t key = step * parts * LANES;
        floats products = asked[0] * read_numbers(keys, key, format);
        for (int part = 1; part < parts; part++) products += asked[part] * read_numbers(keys, key + part * LANES, format);
        scores[step] = sum(products);
        highest = scores[step] > highest ? scores[step] : highest;
    }

    for (int lane = 0; lane < LANES; lane++) scores[steps + lane] = -1e30f; /* the last vector's rest counts for nothing */
    floats all = {0};
    for (int64_t step = 0; step < steps; step += LANES) {
        floats powers = power_of_e(read_numbers(scores, step, FLOAT32) - highest);
        write_numbers(scores, step, powers, FLOAT32);
        all += powers;
    }

    for (int64_t step = 0; step < steps; step++) {
        int64_t value = step * parts * LANES;
        for (int part = 0; part < parts; part++)
            found[part] += scores[step] * read_numbers(values, value + part * LANES, format);
    }
    float total = sum(all);
    for (int part = 0; part < parts; part++) write_numbers(result, part * LANES, found[part] / total, format);
}

/* Whether there is a loop for heads of that size. */
static int has_size(int64_t size) {
    return size == 16 || size == 32 || size == 64 || size == MOST_SIZE;
}

INLINE void head_in(const void *query, const void *keys, const void *values, void *result, int64_t steps, float scale,
                    int64_t size, enum format format) {
    switch (size) {
        case 16: one_head(query, keys, values, result, steps, scale, 16 / LANES, format); break;
        case 32: one_head(query, keys, values, result, steps, scale, 32 / LANES, format); break;
        case 64: one_head(query, keys, values, result, steps, scale, 64 / LANES, format); break;
        case MOST_SIZE: one_head(query, keys, values, result, steps, scale, MOST_PARTS, format);
    }
}

static void head_in_float32(const void *query, const void *keys, const void *values, void *result, int64_t steps,
                            float scale, int64_t size) {
    head_in(query, keys, values, result, steps, scale, size, FLOAT32);
}

static void head_in_bfloat16(const void *query, const void *keys, const void *values, void *result,
                             int64_t steps, float scale, int64_t size) {
    head_in(query, keys, values, result, steps, scale, size, BFLOAT16);
}

static int attend(const char *queries, const char *keys, const char *values, char *results, int64_t heads,
                  int64_t capacity, int64_t steps, int64_t size, enum format format) {
    if (!has_size(size)) return 0;
    const int64_t bytes = size * (int64_t)(format == FLOAT32 ? sizeof(float) : sizeof(uint16_t));
#pragma omp parallel for schedule(static)
    for (int64_t head = 0; head < heads; head++) {
        const int64_t here = head * bytes, first = here * capacity;
        const void *query = queries + here, *key = keys + first, *value = values + first;
        if (format == FLOAT32)
            head_in_float32(query, key, value, results + here, steps, 1.0f, size);
        else
            head_in_bfloat16(query, key, value, results + here, steps, 1.0f, size);
    }
    return 1;
}

/* queries and results are [heads, size], keys and values [heads, capacity, size], of which the first `steps` count. Answers
   0, and does nothing, where it is not made for that size. */
int attend_float32(const void *queries, const void *keys, const void *values, void *results, int64_t heads,
                   int64_t capacity, int64_t steps, int64_t size) {
    return attend(queries, keys, values, results, heads, capacity, steps, size, FLOAT32);
}

int attend_bfloat16(const void *queries, const void *keys, const void *values, void *results, int64_t heads,
                    int64_t capacity, int64_t steps, int64_t size) {
    return attend(queries, keys, values, results, heads, capacity, steps, size, BFLOAT16);
}
