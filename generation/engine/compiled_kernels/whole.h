/* Products of whole numbers: bytes of keys, values and weights by a row's numbers of 16 bits, or of 8 where the bytes are of 4
   bits. They are exact, so that no order of theirs matters, and quicker than those of floats. */

#pragma once

#include "numbers.h"

/* Bytes are larger by ZERO than what they stand for, so that none is negative. */
#define ZERO 128
#define MOST_WHOLE 32639.0f /* 127 * 256 + 127: two bytes with a sign each */
#define MOST_BYTE 127.0f

typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef int64_t longs __attribute__((vector_size(4 * LANES)));
typedef int16_t half_shorts __attribute__((vector_size(LANES)));

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

INLINE int32_t sum_of_whole(ints numbers) {
    int32_t all = 0;
    for (int lane = 0; lane < LANES; lane++) all += numbers[lane];
    return all;
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

/* Four of a row's numbers are two words, as `add_fours` needs them: their upper and their lower bytes, each with a sign, or the
   even and the odd ones of them. The next four are put `between` words further on. */
INLINE void put_whole(uint32_t *to, int64_t between, ints numbers) {
#ifdef __AVX512VNNI__
    const ints upper = (numbers + 128) >> 8;
    const bytes first = __builtin_convertvector(upper, bytes), second = __builtin_convertvector(numbers - (upper << 8), bytes);
#else
    const half_shorts first = __builtin_convertvector((longs)numbers, half_shorts);
    const half_shorts second = __builtin_convertvector((longs)numbers >> 32, half_shorts);
#endif
    for (int four = 0; four < LANES / 4; four++) {
        memcpy(to + four * between, (const uint32_t *)&first + four, sizeof *to);
        memcpy(to + four * between + 1, (const uint32_t *)&second + four, sizeof *to);
    }
}

/* To each lane's sums its four bytes times the row's four numbers. */
#ifdef __AVX512VNNI__
#define SUMS 2

INLINE void add_fours(ints sums[SUMS], words four, const uint32_t row[2]) {
    for (int half = 0; half < 2; half++)
        sums[half] = (ints)_mm512_dpbusd_epi32((__m512i)sums[half], (__m512i)four, (__m512i)((words){0} + row[half]));
}

INLINE ints all_sums(const ints sums[SUMS]) {
    return (sums[0] << 8) + sums[1];
}
#else
#define SUMS 1

/* Two products of 16 bits. */
INLINE ints twice(words numbers, uint32_t row) {
#if defined(__AVX512BW__)
    return (ints)_mm512_madd_epi16((__m512i)numbers, (__m512i)((words){0} + row));
#elif defined(__AVX2__)
    return (ints)_mm256_madd_epi16((__m256i)numbers, (__m256i)((words){0} + row));
#else
    return (ints)(numbers & 0xffff) * (int16_t)row + (ints)(numbers >> 16) * (int16_t)(row >> 16);
#endif
}

INLINE void add_fours(ints sums[SUMS], words four, const uint32_t row[2]) {
    sums[0] += twice(four & 0xff00ff, row[0]) + twice(four >> 8 & 0xff00ff, row[1]);
}

INLINE ints all_sums(const ints sums[SUMS]) {
    return sums[0];
}
#endif

/* The same for bytes of 4 bits and numbers of 8, four in a word. There is room for the sums of GROUP of them. */
#if defined(__AVX512VNNI__)
INLINE ints add_small(ints sums, words four, uint32_t row) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)four, (__m512i)((words){0} + row));
}

INLINE ints small_sums(ints sums) {
    return sums;
}
#elif defined(__AVX512BW__)
INLINE ints add_small(ints sums, words four, uint32_t row) {
    const __m512i twos = _mm512_maddubs_epi16((__m512i)four, (__m512i)((words){0} + row));
    return (ints)_mm512_add_epi16((__m512i)sums, twos);
}

INLINE ints small_sums(ints sums) {
    return (ints)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(1));
}
#elif defined(__AVX2__)
INLINE ints add_small(ints sums, words four, uint32_t row) {
    const __m256i twos = _mm256_maddubs_epi16((__m256i)four, (__m256i)((words){0} + row));
    return (ints)_mm256_add_epi16((__m256i)sums, twos);
}

INLINE ints small_sums(ints sums) {
    return (ints)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1));
}
#else
INLINE ints add_small(ints sums, words four, uint32_t row) {
    for (int byte = 0; byte < 32; byte += 8) sums += (ints)(four >> byte & 0xff) * (int8_t)(row >> byte);
    return sums;
}

INLINE ints small_sums(ints sums) {
    return sums;
}
#endif
