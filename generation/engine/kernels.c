/* What a step of the decoder spends its time with on a processor: products of a few rows by a weight in bfloat16, and
   attention of one query. Both go through what they read once, in the order of memory.

   kernels.py compiles it for the processor that it runs on. Vectors are the compilers' own (GCC and Clang), so that one
   text serves AVX2, AVX-512 and NEON. Sums are made in one fixed order, so that a take is the same in any company. */

#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define LANES 16
#define MOST_PARTS 8
/* Functions of constants: each call of `some_heads` becomes a loop of its own, without a question inside. */
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

/* One head of one row, whose numbers begin at `query` and, of keys and values, at `first`. `parts` are LANES wide. */
INLINE void one_head(const void *queries, const void *keys, const void *values, void *heard, int64_t query, int64_t first,
                     int64_t steps, int parts, enum format format) {
    float scores[steps + LANES];
    floats asked[MOST_PARTS], found[MOST_PARTS];
    for (int part = 0; part < parts; part++) {
        asked[part] = read_numbers(queries, query + part * LANES, format);
        found[part] = (floats){0};
    }

    float highest = -1e30f;
    for (int64_t step = 0; step < steps; step++) {
        int64_t key = first + step * parts * LANES;
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
        int64_t value = first + step * parts * LANES;
        for (int part = 0; part < parts; part++)
            found[part] += scores[step] * read_numbers(values, value + part * LANES, format);
    }
    float total = sum(all);
    for (int part = 0; part < parts; part++) write_numbers(heard, query + part * LANES, found[part] / total, format);
}

INLINE void some_heads(const void *queries, const void *keys, const void *values, void *heard, int64_t heads,
                       int64_t capacity, int64_t steps, int parts, enum format format) {
    const int64_t size = parts * LANES;
#pragma omp parallel for schedule(static)
    for (int64_t head = 0; head < heads; head++)
        one_head(queries, keys, values, heard, head * size, head * capacity * size, steps, parts, format);
}

INLINE int all_heads(const void *queries, const void *keys, const void *values, void *heard, int64_t heads,
                     int64_t capacity, int64_t steps, int64_t size, enum format format) {
    switch (size) {
        case 1 * LANES: some_heads(queries, keys, values, heard, heads, capacity, steps, 1, format); return 1;
        case 2 * LANES: some_heads(queries, keys, values, heard, heads, capacity, steps, 2, format); return 1;
        case 4 * LANES: some_heads(queries, keys, values, heard, heads, capacity, steps, 4, format); return 1;
        case 8 * LANES: some_heads(queries, keys, values, heard, heads, capacity, steps, 8, format); return 1;
        default: return 0;
    }
}

/* queries and heard are [heads, size], keys and values [heads, capacity, size], of which the first `steps` count. Answers 0,
   and does nothing, where it is not made for that size. */
int attend_float32(const void *queries, const void *keys, const void *values, void *heard, int64_t heads, int64_t capacity,
                   int64_t steps, int64_t size) {
    return all_heads(queries, keys, values, heard, heads, capacity, steps, size, FLOAT32);
}

int attend_bfloat16(const void *queries, const void *keys, const void *values, void *heard, int64_t heads, int64_t capacity,
                    int64_t steps, int64_t size) {
    return all_heads(queries, keys, values, heard, heads, capacity, steps, size, BFLOAT16);
}

/* A block of weights [in / 2, LANES]: each word is a pair of numbers of one output, the former in its lower half. */

#define ROWS_TOGETHER 8
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

/* LANES outputs of `count` rows. Two sums for each, since one addition has to wait for the one before. */
INLINE void some_rows(const uint32_t *weights, const uint32_t *rows, uint16_t *results, int64_t pairs, int64_t out,
                      int count) {
    floats sums[ROWS_TOGETHER][2];
    for (int row = 0; row < count; row++) sums[row][0] = sums[row][1] = (floats){0};
    for (int64_t pair = 0; pair < pairs; pair += 2) {
        words first = read_pairs(weights + pair * LANES), second = read_pairs(weights + (pair + 1) * LANES);
        for (int row = 0; row < count; row++) {
            sums[row][0] = add_pairs(sums[row][0], first, rows[row * pairs + pair]);
            sums[row][1] = add_pairs(sums[row][1], second, rows[row * pairs + pair + 1]);
        }
    }
    for (int row = 0; row < count; row++)
        write_numbers(results, row * out, sums[row][0] + sums[row][1], BFLOAT16);
}

/* rows [count, in] times weights, of which `blocks` of LANES outputs lie one after another: results [count, out]. All in
   bfloat16; `in` is a multiple of 4, `out` of LANES. How many rows there are makes no difference to any of them. */
void multiply_bfloat16(const void *weights, const void *rows, void *results, int64_t count, int64_t in, int64_t out) {
    const int64_t pairs = in / 2;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < out / LANES; block++) {
        const uint32_t *own = (const uint32_t *)weights + block * pairs * LANES;
        const uint32_t *row = rows;
        uint16_t *result = (uint16_t *)results + block * LANES;
        int64_t left = count;
        for (; left >= 8; left -= 8, row += 8 * pairs, result += 8 * out) some_rows(own, row, result, pairs, out, 8);
        for (; left >= 4; left -= 4, row += 4 * pairs, result += 4 * out) some_rows(own, row, result, pairs, out, 4);
        for (; left >= 2; left -= 2, row += 2 * pairs, result += 2 * out) some_rows(own, row, result, pairs, out, 2);
        for (; left >= 1; left -= 1, row += pairs, result += out) some_rows(own, row, result, pairs, out, 1);
    }
}
