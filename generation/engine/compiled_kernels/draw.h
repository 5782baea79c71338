/* The next token of each codebook, by classifier-free guidance, temperature and top-k, as sampling.py has them. */

#pragma once

#include <math.h>

#include "kept.h"

/* Floats in the order of whole numbers. */
INLINE ints in_order(floats numbers) {
    ints bits = (ints)numbers;
    return bits ^ (bits >> 31 & INT32_MAX);
}

/* The largest number in that order that at least `top` of the numbers reach. */
static int32_t reached_by(const float *numbers, int64_t count, int64_t top) {
    int64_t lowest = INT32_MIN, highest = INT32_MAX;
    while (lowest < highest) {
        const int64_t middle = lowest + (highest - lowest + 1) / 2;
        ints reach = {0};
        for (int64_t index = 0; index < count; index += LANES)
            reach -= in_order(read_numbers(numbers, index, FLOAT32)) >= (int32_t)middle;
        int64_t all = 0;
        for (int lane = 0; lane < LANES; lane++) all += reach[lane];
        if (all >= top)
            lowest = middle;
        else
            highest = middle - 1;
    }
    return (int32_t)lowest;
}

/* Tokens [codebooks] from logits [rows, codebooks, vocabulary], of two rows the first with prompt, and from random numbers
   [codebooks, vocabulary] from 0 to 1. The likeliest by its share over an exponential number, which draws by the shares. `room`
   is for one vocabulary, a multiple of LANES; `top_k` 0 is all of it. Answers 0 where a logit is no number. */
int choose_tokens(const float *logits, int64_t rows, int64_t codebooks, int64_t vocabulary, float guidance, float temperature,
                  int64_t top_k, const double *random, float *room, int64_t *tokens) {
    for (int64_t book = 0; book < codebooks; book++, random += vocabulary) {
        const float *with = logits + book * vocabulary, *without = with + (rows - 1) * codebooks * vocabulary;
        floats nothing = {0}, highest = (floats){0} - INFINITY;
        for (int64_t index = 0; index < vocabulary; index += LANES) {
            floats base = read_numbers(without, index, FLOAT32);
            floats score = (base + (read_numbers(with, index, FLOAT32) - base) * guidance) / temperature;
            nothing += score * 0.0f;
            highest = larger(score, highest);
            write_numbers(room, index, score, FLOAT32);
        }
        if (sum(nothing) != 0.0f) return 0;
        const int32_t weakest = top_k > 0 && top_k < vocabulary ? reached_by(room, vocabulary, top_k) : INT32_MIN;
        const float top = largest(highest);
        double most = -1.0;
        for (int64_t index = 0; index < vocabulary; index += LANES) {
            floats score = read_numbers(room, index, FLOAT32), share = power_of_e(score - top);
            ints order = in_order(score);
            for (int lane = 0; lane < LANES; lane++) {
                if (order[lane] < weakest) continue;
                const double found = share[lane] / -log1p(-random[index + lane]);
                if (found > most) most = found, tokens[book] = index + lane;
            }
        }
    }
    return 1;
}
