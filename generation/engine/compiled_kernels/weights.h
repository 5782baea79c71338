/* Weights of TOGETHER outputs, as products read them: each word is a pair of numbers in bfloat16 of one output, the former in
   its lower half, or four of its numbers in 8 bits, or eight in 4. */

#pragma once

#include "numbers.h"

/* How a layer's weights are held. The number is also the one of blocks.py.
   PAIRS: blocks [in / 2, TOGETHER] of pairs.
   INT8: blocks [in / 4, TOGETHER, 4] of whole numbers, larger by ZERO; then what each output is times [TOGETHER] in bfloat16,
   and as many bytes again.
   INT4: groups [in / GROUP] of what each output is times [TOGETHER] and what is added to it [TOGETHER] in bfloat16, and of
   whole numbers, larger by 8, [GROUP / 8, TOGETHER, 4]: of eight inputs the first four in the lower halves of bytes. */
enum held { PAIRS, INT8, INT4 };

struct weight {
    const void *numbers;
    int64_t held;
};

#define GROUP 32
#define GROUP_BYTES (4 * TOGETHER + GROUP * TOGETHER / 2)

INLINE int64_t block_bytes(enum held held, int64_t in) {
    return held == INT4 ? in / GROUP * GROUP_BYTES : held == INT8 ? in * TOGETHER + 4 * TOGETHER : 2 * in * TOGETHER;
}

/* Bytes to be asked of memory before they are needed: of few rows, which only wait for it, into the first cache; of more into
   the second, since the first has few places for what is on its way, and those rows need it for themselves. */
#define AHEAD_OF_FEW 4096
#define AHEAD 8192
#define FEW 2

INLINE void ask_ahead(const void *from, int rows) {
    if (rows <= FEW)
        __builtin_prefetch((const char *)from + AHEAD_OF_FEW);
    else
        __builtin_prefetch((const char *)from + AHEAD, 0, 2);
}

INLINE words read_words(const void *from, int rows) {
    words read;
    ask_ahead(from, rows);
    memcpy(&read, from, sizeof read);
    return read;
}

/* Pairs of numbers, as they are multiplied: as they lie where the processor has an instruction for that, else as two
   vectors; and a row's own pair, which is the same for all outputs. */
#ifdef __AVX512BF16__
typedef words twins;
typedef uint32_t own_pair;

INLINE twins twins_of(words pairs) {
    return pairs;
}

INLINE twins twins_of_own(own_pair own) {
    return (words){0} + own;
}

/* To each sum the products of a weight and the row's number, of both. */
INLINE floats add_twins(floats sums, twins weights, twins row) {
    return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)row);
}
#else
typedef struct {
    floats former, latter;
} twins;
typedef struct {
    float former, latter;
} own_pair;

INLINE twins twins_of(words pairs) {
    return (twins){(floats)(pairs << 16), (floats)(pairs & 0xffff0000u)};
}

INLINE void put_two_pairs(own_pair to[2], const uint16_t *numbers) {
    four_short_words upper;
    memcpy(&upper, numbers, sizeof upper);
    const four_words bits = __builtin_convertvector(upper, four_words) << 16;
    memcpy(to, &bits, sizeof bits);
}

/* From memory into all lanes: 0 is subtracted since what is added to it could be -0, which the compiler has to heed. */
INLINE twins twins_of_own(own_pair own) {
    return (twins){own.former - (floats){0}, own.latter - (floats){0}};
}

INLINE floats add_twins(floats sums, twins weights, twins row) {
    sums += weights.former * row.former;
    return sums + weights.latter * row.latter;
}
#endif
