/* A whole step of the decoder: every layer, for the rows of several takes, by one team of threads. What goes from layer to
   layer is float, what a product reads is bfloat16, and keys and values are int8: of the second take on, they are most of
   what a step reads. compiled.py has the same structures. */

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "draw.h"
#include "kept.h"
#include "products.h"

struct norm {
    const uint16_t *weight, *bias;
};

struct attention {
    struct norm norm;
    struct weight query, key, value, out; /* of cross-attention, keys and values were made before */
};

struct layer {
    struct attention own, prompt;
    struct norm norm;
    struct weight widen, narrow;
};

struct decoder {
    int64_t layers, width, inner, heads, codebooks, tokens, vocabulary, has_prompt, is_relu;
    float scale, epsilon;
    const struct layer *layer;
    struct norm norm;
    const void *const *embeddings; /* [codebooks] of [tokens, width] */
    const struct weight *lm_heads; /* [codebooks] of [vocabulary, width] */
};

struct memory {
    uint8_t *records;                            /* [capacity / STEPS_TOGETHER, rows, heads] of them */
    const uint16_t *prompt_keys, *prompt_values; /* [rows, heads, prompt, size] */
};

struct take {
    int64_t rows, position, prompt;
    const struct memory *memory; /* [layers] */
    const int64_t *tokens;       /* [codebooks] */
    const float *place;          /* the position's own numbers, [width] */
};

struct room {
    float *hidden, *keys, *values;
    uint16_t *normed, *queries, *heard, *inner;
    const struct take **take; /* [rows] */
    int64_t *row;             /* [rows], among those of its take */
};

static void embed(const struct decoder *decoder, const struct take *take, float *hidden) {
    for (int64_t index = 0; index < decoder->width; index += LANES) {
        floats numbers = {0};
        for (int64_t book = 0; book < decoder->codebooks; book++)
            numbers += read_numbers(decoder->embeddings[book], take->tokens[book] * decoder->width + index, BFLOAT16);
        write_numbers(hidden, index, numbers + read_numbers(take->place, index, FLOAT32), FLOAT32);
    }
}

static void normalise(const struct decoder *decoder, const struct room *room, struct norm norm, int64_t rows) {
    const int64_t width = decoder->width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *hidden = room->hidden + row * width;
        floats all = {0}, squares = {0};
        for (int64_t index = 0; index < width; index += LANES) all += read_numbers(hidden, index, FLOAT32);
        const float mean = sum(all) / (float)width;
        for (int64_t index = 0; index < width; index += LANES) {
            floats apart = read_numbers(hidden, index, FLOAT32) - mean;
            squares += apart * apart;
        }
        const float factor = 1.0f / sqrtf(sum(squares) / (float)width + decoder->epsilon);
        for (int64_t index = 0; index < width; index += LANES) {
            floats numbers = (read_numbers(hidden, index, FLOAT32) - mean) * factor;
            numbers = numbers * read_numbers(norm.weight, index, BFLOAT16) + read_numbers(norm.bias, index, BFLOAT16);
            write_numbers(room->normed, row * width + index, numbers, BFLOAT16);
        }
    }
}

/* A thread has heads of every take that lie one after another: takes are of different lengths. */
static void hear_own(const struct decoder *decoder, const struct room *room, int64_t layer, int64_t rows) {
    const int64_t size = decoder->width / decoder->heads, bytes = record_bytes(size);
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int64_t row = 0; row < rows; row += room->take[row]->rows) {
        const struct take *take = room->take[row];
        const int64_t heads = take->rows * decoder->heads, between = heads * bytes;
        const int64_t first = heads * thread / threads, end = heads * (thread + 1) / threads;
        if (first == end) continue; /* more threads than heads */
        const int64_t here = (row * decoder->heads + first) * size;
        uint8_t *records = take->memory[layer].records + first * bytes;
        uint8_t *newest = records + take->position / STEPS_TOGETHER * between;
        for (int64_t head = first, index = here; head < end; head++, index += size, newest += bytes)
            keep(newest, room->keys + index, room->values + index, take->position % STEPS_TOGETHER, size);
        kept_heads(room->queries + here, records, room->heard + here, end - first, take->position + 1, between, decoder->scale,
                   size);
    }
}

static void hear_prompt(const struct decoder *decoder, const struct room *room, int64_t layer, int64_t rows) {
    const int64_t heads = decoder->heads, size = decoder->width / heads;
#pragma omp for schedule(static) nowait
    for (int64_t each = 0; each < rows * heads; each++) {
        const int64_t row = each / heads, here = each * size;
        const struct take *take = room->take[row];
        const struct memory *memory = take->memory + layer;
        const int64_t first = (room->row[row] * heads + each % heads) * take->prompt * size;
        head_in_bfloat16(room->queries + here, memory->prompt_keys + first, memory->prompt_values + first, room->heard + here,
                         take->prompt, decoder->scale, size);
    }
}

static void all_layers(const struct decoder *decoder, const struct room *room, int64_t rows, float *logits) {
    const int64_t width = decoder->width, inner = decoder->inner, vocabulary = decoder->vocabulary;
#pragma omp parallel
    {
        for (int64_t index = 0; index < decoder->layers; index++) {
            const struct layer *layer = decoder->layer + index;
            normalise(decoder, room, layer->own.norm, rows);
            multiply(layer->own.query, room->normed, room->queries, rows, width, width, width, ROUND);
            multiply(layer->own.key, room->normed, room->keys, rows, width, width, width, PUT);
            multiply(layer->own.value, room->normed, room->values, rows, width, width, width, PUT);
#pragma omp barrier
            hear_own(decoder, room, index, rows);
#pragma omp barrier
            multiply(layer->own.out, room->heard, room->hidden, rows, width, width, width, ADD);
#pragma omp barrier
            if (decoder->has_prompt) {
                normalise(decoder, room, layer->prompt.norm, rows);
                multiply(layer->prompt.query, room->normed, room->queries, rows, width, width, width, ROUND);
#pragma omp barrier
                hear_prompt(decoder, room, index, rows);
#pragma omp barrier
                multiply(layer->prompt.out, room->heard, room->hidden, rows, width, width, width, ADD);
#pragma omp barrier
            }
            normalise(decoder, room, layer->norm, rows);
            multiply(layer->widen, room->normed, room->inner, rows, width, inner, inner,
                     decoder->is_relu ? ROUND_RELU : ROUND_GELU);
#pragma omp barrier
            multiply(layer->narrow, room->inner, room->hidden, rows, inner, width, width, ADD);
#pragma omp barrier
        }
        normalise(decoder, room, decoder->norm, rows);
        for (int64_t book = 0; book < decoder->codebooks; book++)
            multiply(decoder->lm_heads[book], room->normed, logits + book * vocabulary, rows, width, vocabulary,
                     decoder->codebooks * vocabulary, PUT);
    }
}

static void *some(char **free_from, size_t bytes) {
    void *here = *free_from;
    *free_from += (bytes + 63) / 64 * 64;
    return here;
}

/* Logits [rows, codebooks, vocabulary] of the token after each take's `tokens`, the rows of each take in its order. Answers 0,
   and does nothing, for a token that no embedding has, for a head size it is not made for and for want of memory. */
int decode_bfloat16(const struct decoder *decoder, const struct take *takes, int64_t count, float *logits) {
    const int64_t width = decoder->width;
    int64_t rows = 0;
    if (!has_size(width / decoder->heads)) return 0;
    for (const struct take *take = takes; take < takes + count; take++) {
        rows += take->rows;
        for (int64_t book = 0; book < decoder->codebooks; book++)
            if (take->tokens[book] < 0 || take->tokens[book] >= decoder->tokens) return 0;
    }
    const size_t wide = (size_t)(rows * width) * sizeof(uint16_t), inner = (size_t)(rows * decoder->inner) * sizeof(uint16_t);
    char *memory = aligned_alloc(64, (9 * wide + inner + (size_t)rows * 16 + 10 * 64 + 63) / 64 * 64), *from = memory;
    if (memory == NULL) return 0;
    const struct room room = {
        .hidden = some(&from, 2 * wide),
        .keys = some(&from, 2 * wide),
        .values = some(&from, 2 * wide),
        .normed = some(&from, wide),
        .queries = some(&from, wide),
        .heard = some(&from, wide),
        .inner = some(&from, inner),
        .take = some(&from, (size_t)rows * sizeof(struct take *)),
        .row = some(&from, (size_t)rows * sizeof(int64_t)),
    };
    int64_t next = 0;
    for (const struct take *take = takes; take < takes + count; take++)
        for (int64_t row = 0; row < take->rows; row++, next++) {
            room.take[next] = take, room.row[next] = row;
            embed(decoder, take, room.hidden + next * width);
        }
    all_layers(decoder, &room, rows, logits);
    free(memory);
    return 1;
}
