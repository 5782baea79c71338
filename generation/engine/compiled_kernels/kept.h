/* Attention of one query to keys and values in 8 bits, with which half as much is read. */

#pragma once

#include "attention.h"

/* Keys and values of one head in 8 bits, STEPS_TOGETHER of them in one record: keys [STEPS_TOGETHER / TOGETHER, size / 4,
   TOGETHER, 4], four numbers of each beside those of the steps after it, and larger by ZERO so that none is negative; values
   [STEPS_TOGETHER / 4, size, 4], those of four steps together; then what each step's key is times, in float, and what each
   step's value is times. */

#define STEPS_TOGETHER 64
#define ZERO 128
#define MOST_BYTE 127.0f
#define MOST_ASKED 32639.0f  /* 127 * 256 + 127: two bytes with a sign each */
#define MOST_WEIGHT 65535.0f /* two bytes without */
#define LEAST_SCORE (-1e30f)

typedef uint8_t bytes __attribute__((vector_size(LANES)));

/* What a query has found in the records it went through. */
struct hearing {
    int8_t upper[MOST_SIZE], lower[MOST_SIZE]; /* of the query's numbers */
    float scale, top;                          /* the highest score so far */
    int32_t zero;                              /* what ZERO adds to each score */
    floats all, nothing, found[MOST_PARTS];    /* `nothing` is 0, and NaN for what is no number */
};

static int64_t record_bytes(int64_t size) {
    return STEPS_TOGETHER * 2 * (size + (int64_t)sizeof(float));
}

INLINE floats larger(floats one, floats other) {
    ints is_larger = one > other;
    return (floats)((is_larger & (ints)one) | (~is_larger & (ints)other));
}

INLINE float largest(floats numbers) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)numbers);
#else
    float found = numbers[0];
    for (int lane = 1; lane < LANES; lane++) found = numbers[lane] > found ? numbers[lane] : found;
    return found;
#endif
}

/* Whole numbers nearest to `numbers` times `factor`. */
INLINE ints whole(floats numbers, float factor) {
    numbers *= factor;
    ints half = ((ints)numbers & INT32_MIN) | (ints)((floats){0} + 0.5f);
    return __builtin_convertvector(numbers + (floats)half, ints);
}

/* What makes `most` of the largest size there is. `scale` undoes it, and is NaN where one of the numbers is none. */
INLINE float factor_to(float most, const void *numbers, int64_t size, enum format format, float *scale) {
    floats sizes = {0}, nothing = {0};
    for (int64_t index = 0; index < size; index += LANES) {
        floats part = read_numbers(numbers, index, format);
        sizes = larger((floats)((ints)part & INT32_MAX), sizes);
        nothing += part * 0.0f;
    }
    const float largest_size = largest(sizes);
    *scale = largest_size / most + sum(nothing);
    return largest_size > 0.0f ? most / largest_size : 0.0f;
}

/* To each sum four bytes times four others. */
INLINE ints add_bytes(ints sums, words unsigned_bytes, words signed_bytes) {
#ifdef __AVX512VNNI__
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
#elif defined(__AVX2__) && LANES == 8
    const __m256i whole = (__m256i)unsigned_bytes, other = (__m256i)signed_bytes;
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(whole, _mm256_set1_epi16(255)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(other, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(whole, 8), _mm256_srai_epi16(other, 8));
    return sums + (ints)even + (ints)odd;
#else
    for (int shift = 0; shift < 32; shift += 8)
        sums += (ints)((unsigned_bytes >> shift) & 255) * ((ints)(signed_bytes << (24 - shift)) >> 24);
    return sums;
#endif
}

INLINE words four_bytes(const void *from) {
    uint32_t four;
    memcpy(&four, from, sizeof four);
    return (words){0} + four;
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
        part = __builtin_convertvector(whole(read_numbers(value, index, FLOAT32), of_value), bytes);
        for (int lane = 0; lane < LANES; lane++) values[4 * (index + lane)] = part[lane];
    }
}

INLINE void ask(struct hearing *hearing, const uint16_t *query, float scale, int parts) {
    const float factor = factor_to(MOST_ASKED, query, parts * LANES, BFLOAT16, &hearing->scale);
    ints all = {0};
    for (int part = 0; part < parts; part++) {
        ints numbers = whole(read_numbers(query, part * LANES, BFLOAT16), factor), upper = (numbers + 128) >> 8;
        bytes byte = __builtin_convertvector(upper, bytes);
        memcpy(hearing->upper + part * LANES, &byte, sizeof byte);
        byte = __builtin_convertvector(numbers - (upper << 8), bytes);
        memcpy(hearing->lower + part * LANES, &byte, sizeof byte);
        all += numbers;
        hearing->found[part] = (floats){0};
    }
    hearing->zero = 0;
    for (int lane = 0; lane < LANES; lane++) hearing->zero += all[lane] * ZERO;
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
        ints upper[2] = {0}, lower[2] = {0};
        for (int64_t index = 0; index < size; index += 8)
            for (int next = 0; next < 2; next++) {
                words keys = read_bytes(own + (index + 4 * next) * TOGETHER, ahead);
                upper[next] = add_bytes(upper[next], keys, four_bytes(hearing->upper + index + 4 * next));
                lower[next] = add_bytes(lower[next], keys, four_bytes(hearing->lower + index + 4 * next));
            }
        ints sums = ((upper[0] + upper[1]) << 8) + (lower[0] + lower[1]) - hearing->zero;
        floats products = __builtin_convertvector(sums, floats) * (read_numbers(key_scales, step, FLOAT32) * hearing->scale);
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
    const float most = largest(heaviest), factor = most > 0.0f ? MOST_WEIGHT / most : 0.0f;
    uint8_t upper_weights[STEPS_TOGETHER], lower_weights[STEPS_TOGETHER];
    for (int64_t step = 0; step < steps; step += LANES) {
        ints weights = whole(read_numbers(scores, step, FLOAT32), factor);
        bytes byte = __builtin_convertvector(weights >> 8, bytes);
        memcpy(upper_weights + step, &byte, sizeof byte);
        byte = __builtin_convertvector(weights, bytes);
        memcpy(lower_weights + step, &byte, sizeof byte);
    }

    ints upper[MOST_PARTS], lower[MOST_PARTS];
    for (int part = 0; part < parts; part++) upper[part] = lower[part] = (ints){0};
    for (int64_t step = 0; step < steps; step += 4)
        for (int part = 0; part < parts; part++) {
            words four = read_bytes(values + step * size + part * 4 * LANES, ahead);
            upper[part] = add_bytes(upper[part], four_bytes(upper_weights + step), four);
            lower[part] = add_bytes(lower[part], four_bytes(lower_weights + step), four);
        }
    /* What was found before was weighed by the highest score of then. */
    const floats less = power_of_e((floats){0} + (before - top));
    for (int part = 0; part < parts; part++) {
        floats found = __builtin_convertvector((upper[part] << 8) + lower[part], floats);
        hearing->found[part] = hearing->found[part] * less + found * (most / MOST_WEIGHT);
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
