/* Attention of one query to keys and values in 8 bits, with which half as much is read. */

#pragma once

#include <math.h>

#include "attention.h"

/* Keys and values of one head in 8 bits, each step's times a scale of its own. Both lie in pairs for products of whole numbers:
   keys [capacity / LANES, size / 2, LANES, 2], of two numbers each beside those of the LANES - 1 steps after it; values
   [capacity / 2, size, 2], of two steps each. Scales can be read, and are numbers, to the end of a vector. */
struct kept {
    int8_t *keys, *values;
    float *key_scales, *value_scales;
};

#define MOST_SHORT 32767.0f
#define MOST_BYTE 127.0f
/* So much can weights in whole numbers be together: times the largest byte it fits into 32 bits. */
#define MOST_TOGETHER 16.0e6f

/* Whole numbers nearest to `numbers` times `factor`. */
INLINE ints whole(floats numbers, float factor) {
    numbers *= factor;
    ints half = ((ints)numbers & INT32_MIN) | (ints)((floats){0} + 0.5f);
    return __builtin_convertvector(numbers + (floats)half, ints);
}

INLINE floats larger(floats one, floats other) {
    ints is_larger = one > other;
    return (floats)((is_larger & (ints)one) | (~is_larger & (ints)other));
}

INLINE float largest(floats numbers) {
    float found = numbers[0];
    for (int lane = 1; lane < LANES; lane++) found = numbers[lane] > found ? numbers[lane] : found;
    return found;
}

/* `numbers` as whole ones of a size up to `most`. Answers their scale: NaN where one of them is none. */
INLINE float in_whole_numbers(const void *numbers, int16_t *found, int64_t size, float most, enum format format) {
    floats sizes = {0}, nothing = {0};
    for (int64_t index = 0; index < size; index += LANES) {
        floats part = read_numbers(numbers, index, format);
        sizes = larger((floats)((ints)part & INT32_MAX), sizes);
        nothing += part * 0.0f;
    }
    const float size_of_all = largest(sizes), factor = size_of_all > 0.0f ? most / size_of_all : 0.0f;
    for (int64_t index = 0; index < size; index += LANES) {
        shorts part = __builtin_convertvector(whole(read_numbers(numbers, index, format), factor), shorts);
        memcpy(found + index, &part, sizeof part);
    }
    return size_of_all / most + sum(nothing);
}

static void keep(struct kept kept, const float *key, const float *value, int64_t step, int64_t size) {
    int16_t found[MOST_PARTS * LANES];
    kept.key_scales[step] = in_whole_numbers(key, found, size, MOST_BYTE, FLOAT32);
    int8_t *keys = kept.keys + step / LANES * LANES * size + step % LANES * 2;
    for (int64_t index = 0; index < size; index += 2, keys += 2 * LANES)
        keys[0] = (int8_t)found[index], keys[1] = (int8_t)found[index + 1];
    kept.value_scales[step] = in_whole_numbers(value, found, size, MOST_BYTE, FLOAT32);
    int8_t *values = kept.values + step / 2 * 2 * size + step % 2;
    for (int64_t index = 0; index < size; index++) values[2 * index] = (int8_t)found[index];
}

/* To each sum two bytes times a pair of shorts. */
INLINE ints add_whole(ints sums, const int8_t *from, const int16_t *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
#ifdef __AVX512VNNI__
    __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
    return (ints)_mm512_dpwssd_epi32((__m512i)sums, wide, _mm512_set1_epi32(both));
#else
    shorts two;
    memcpy(&two, from, sizeof two);
    ints wide = __builtin_convertvector(two, ints);
    return sums + (wide << 24 >> 24) * (both << 16 >> 16) + (wide >> 8) * (both >> 16);
#endif
}

/* As `one_head`; from bytes, in sums of whole numbers. */
INLINE void one_kept_head(const uint16_t *query, struct kept kept, uint16_t *result, int64_t steps, float scale, int parts) {
    const int64_t size = parts * LANES;
    float scores[steps + LANES];
    int16_t asked[MOST_PARTS * LANES], weights[steps + LANES];
    scale *= in_whole_numbers(query, asked, size, MOST_SHORT, BFLOAT16);
    for (int64_t step = 0; step < steps; step += LANES) {
        const int8_t *keys = kept.keys + step * size;
        ints sums[4] = {0};
        for (int64_t pair = 0; pair < size / 2; pair += 4)
            for (int next = 0; next < 4; next++)
                sums[next] = add_whole(sums[next], keys + (pair + next) * 2 * LANES, asked + (pair + next) * 2);
        floats products = __builtin_convertvector((sums[0] + sums[1]) + (sums[2] + sums[3]), floats);
        write_numbers(scores, step, products * (read_numbers(kept.key_scales, step, FLOAT32) * scale), FLOAT32);
    }

    for (int lane = 0; lane < LANES; lane++) scores[steps + lane] = -1e30f; /* the last vector's rest counts for nothing */
    floats highest = read_numbers(scores, 0, FLOAT32);
    for (int64_t step = LANES; step < steps; step += LANES) highest = larger(read_numbers(scores, step, FLOAT32), highest);
    const float top = largest(highest);
    floats all = {0}, together = {0}, heaviest = {0};
    for (int64_t step = 0; step < steps; step += LANES) {
        floats powers = power_of_e(read_numbers(scores, step, FLOAT32) - top);
        all += powers;
        powers *= read_numbers(kept.value_scales, step, FLOAT32);
        together += powers;
        heaviest = larger(powers, heaviest);
        write_numbers(scores, step, powers, FLOAT32);
    }
    const float most = largest(heaviest), factor = most > 0.0f ? fminf(MOST_SHORT / most, MOST_TOGETHER / sum(together)) : 0.0f;
    for (int64_t step = 0; step < steps; step += LANES) {
        shorts part = __builtin_convertvector(whole(read_numbers(scores, step, FLOAT32), factor), shorts);
        memcpy(weights + step, &part, sizeof part);
    }

    ints found[MOST_PARTS];
    for (int part = 0; part < parts; part++) found[part] = (ints){0};
    for (int64_t step = 0; step < steps; step += 2)
        for (int part = 0; part < parts; part++)
            found[part] = add_whole(found[part], kept.values + step * size + part * 2 * LANES, weights + step);
    const float share = factor > 0.0f ? 1.0f / (factor * sum(all)) : 0.0f;
    /* What is no number stays none: of values as of scores. */
    const float nothing = (sum(all) + sum(together)) * 0.0f;
    for (int part = 0; part < parts; part++)
        write_numbers(result, part * LANES, __builtin_convertvector(found[part], floats) * share + nothing, BFLOAT16);
}

static void kept_head(const uint16_t *query, struct kept kept, uint16_t *result, int64_t steps, float scale, int64_t size) {
    switch (size / LANES) {
        case 1: one_kept_head(query, kept, result, steps, scale, 1); break;
        case 2: one_kept_head(query, kept, result, steps, scale, 2); break;
        case 4: one_kept_head(query, kept, result, steps, scale, 4); break;
        case 8: one_kept_head(query, kept, result, steps, scale, 8);
    }
}
