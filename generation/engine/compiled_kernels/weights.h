/* Weights of LANES outputs, as products read them: each word is a pair of numbers in bfloat16 of one output, the former in its
   lower half. Of 8 or 4 bits such pairs are made on the way, and are exact: small whole numbers are numbers of bfloat16. */

#pragma once

#include "numbers.h"

/* How a layer's weights are held. The number is also the one of blocks.py.
   PAIRS: blocks [in / 2, LANES] of pairs.
   INT8: blocks [in / 4, LANES, 4] of whole numbers, larger by 128, of the inputs 0, 2, 1, 3; then what each output is times
   [LANES] in bfloat16, and as many bytes again.
   INT4: groups [in / GROUP] of what each output is times [LANES] and what is added to it [LANES] in bfloat16, and of whole
   numbers, larger by 8, [GROUP / 8, LANES, 2]: of eight inputs the even ones first, four bits after four, then the odd ones. */
enum held { PAIRS, INT8, INT4 };

struct weight {
    const void *numbers;
    int64_t held;
};

#define GROUP 32

static int64_t group_bytes(enum held held) {
    return held == PAIRS ? 2 * GROUP * LANES : held == INT8 ? GROUP * LANES : 4 * LANES + GROUP * LANES / 2;
}

static int64_t block_bytes(enum held held, int64_t in) {
    return held == PAIRS ? 2 * in * LANES : in / GROUP * group_bytes(held) + (held == INT8 ? 4 * LANES : 0);
}

/* Bytes to be asked of memory before they are needed: of few rows, which only wait for it, into the first cache; of more into
   the second, since the first has few places for what is on its way, and those rows need it for themselves. */
#define AHEAD_OF_FEW 4096
#define AHEAD 8192
#define FEW 2

INLINE words read_words(const void *from, int rows) {
    words read;
    if (rows <= FEW)
        __builtin_prefetch((const char *)from + AHEAD_OF_FEW);
    else
        __builtin_prefetch((const char *)from + AHEAD, 0, 2);
    memcpy(&read, from, sizeof read);
    return read;
}

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

/* The lowest four bits of each half of a word, less `zero` and then times `times`, as a pair. */
INLINE words made_pairs(words bits, int zero, int times) {
    floats former = __builtin_convertvector(((ints)(bits & 15) - zero) * times, floats);
    floats latter = __builtin_convertvector(((ints)(bits >> 16 & 15) - zero) * times, floats);
    return (words)former >> 16 | ((words)latter & 0xffff0000u);
}

/* What each four bits stand for. Where the processor can look them up, `table` has them twice, since it asks for five bits. */
struct meaning {
    words table;
    int zero, times;
};

INLINE struct meaning meaning_of(int zero, int times) {
    words all = {0};
    for (uint32_t lane = 0; lane < LANES; lane++) all[lane] = 2 * lane % 16 | (2 * lane + 1) % 16 << 16;
    return (struct meaning){made_pairs(all, zero, times), zero, times};
}

INLINE words pairs_of(words bits, struct meaning meaning) {
#ifdef __AVX512BW__
    return (words)_mm512_permutexvar_epi16((__m512i)bits, (__m512i)meaning.table);
#else
    return made_pairs(bits, meaning.zero, meaning.times);
#endif
}
