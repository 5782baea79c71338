/* Weights of TOGETHER outputs, as products read them: each word is a pair of numbers in bfloat16 of one output, the former in
   its lower half. Of 8 or 4 bits such pairs are made on the way, and are exact: small whole numbers are numbers of bfloat16. */

#pragma once

#include "numbers.h"

/* How a layer's weights are held. The number is also the one of blocks.py.
   PAIRS: blocks [in / 2, TOGETHER] of pairs.
   INT8: blocks [in / 4, TOGETHER, 4] of whole numbers, larger by 128, of the inputs 0, 2, 1, 3; then what each output is times
   [TOGETHER] in bfloat16, and as many bytes again.
   INT4: groups [in / GROUP] of what each output is times [TOGETHER] and what is added to it [TOGETHER] in bfloat16, and of
   whole numbers, larger by 8, [GROUP / 8, TOGETHER, 2]: of eight inputs the even ones, four bits after four, then the odd
   ones. */
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

INLINE words read_words(const void *from, int rows) {
    words read;
    if (rows <= FEW)
        __builtin_prefetch((const char *)from + AHEAD_OF_FEW);
    else
        __builtin_prefetch((const char *)from + AHEAD, 0, 2);
    memcpy(&read, from, sizeof read);
    return read;
}

/* Pairs of numbers, as they are multiplied: as they lie where the processor has an instruction for that, else as two
   vectors. */
#ifdef __AVX512BF16__
typedef words twins;

INLINE twins twins_of(words pairs) {
    return pairs;
}

/* To each sum the products of a weight and the row's number, of both. */
INLINE floats add_twins(floats sums, twins weights, twins row) {
    return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)row);
}
#else
typedef struct {
    floats former, latter;
} twins;

INLINE twins twins_of(words pairs) {
    return (twins){(floats)(pairs << 16), (floats)(pairs & 0xffff0000u)};
}

INLINE floats add_twins(floats sums, twins weights, twins row) {
    sums += weights.former * row.former;
    return sums + weights.latter * row.latter;
}
#endif

/* The lowest bits of each half of a word, of which `mask` says how many, less `zero` and then times `times`. */
INLINE twins made_twins(words bits, uint32_t mask, int zero, int times) {
    floats former = __builtin_convertvector(((ints)(bits & mask) - zero) * times, floats);
    floats latter = __builtin_convertvector(((ints)(bits >> 16 & mask) - zero) * times, floats);
#ifdef __AVX512BF16__
    return (words)former >> 16 | ((words)latter & 0xffff0000u);
#else
    return (twins){former, latter};
#endif
}

/* What the lowest four bits of each half stand for is looked up where the processor can: the table has it twice, since five
   bits are asked for. Eight bits are two times four then. */
#ifdef __AVX512BF16__
#define TWINS_OF_A_BYTE 2

INLINE twins looked_up(words bits, int zero, int times) {
    const __m512i all = _mm512_set_epi32(0xf000e, 0xd000c, 0xb000a, 0x90008, 0x70006, 0x50004, 0x30002, 0x10000, 0xf000e,
                                         0xd000c, 0xb000a, 0x90008, 0x70006, 0x50004, 0x30002, 0x10000);
    const twins table = made_twins((words)all, 15, zero, times);
    return (words)_mm512_permutexvar_epi16((__m512i)bits, (__m512i)table);
}

INLINE twins twins_of_four_bits(words bits) {
    return looked_up(bits, 8, 1);
}

INLINE void twins_of_bytes(words bits, twins made[TWINS_OF_A_BYTE]) {
    made[0] = looked_up(bits, 0, 1);
    made[1] = looked_up(bits >> 4, 8, 16);
}
#else
#define TWINS_OF_A_BYTE 1

INLINE twins twins_of_four_bits(words bits) {
    return made_twins(bits, 15, 8, 1);
}

INLINE void twins_of_bytes(words bits, twins made[TWINS_OF_A_BYTE]) {
    made[0] = made_twins(bits, 255, 128, 1);
}
#endif
