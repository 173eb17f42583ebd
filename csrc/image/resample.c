/* Pillow's bicubic resize of RGB images, to the bit, and normalisation, with AVX2.
 *
 * Pillow scales rows, rounds to 8 bits, then scales columns; a weight is a fixed-point number of
 * 22 fractional bits. AVX2 multiplies integers of 16 bits eight times as fast as of 32, so a weight
 * is split: weight = high * 2^11 + low. Each half's sum of products is exact, and so is the whole.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define FRACTION_BITS 22
#define LOW_BITS 11
#define HALF (1 << (FRACTION_BITS - 1))
#define LONGEST_SIDE 32767 /* beyond it, sums could overflow */

/* Output pixel i is the sum over k < taps of weight[i * taps + k] * input[first[i] + k]. */
typedef struct {
    int taps; /* a multiple of 4; unused weights are 0 */
    int32_t *first;
    int16_t *high, *low; /* [outputs * taps] */
} Filter;

static double cubic(double x) { /* Keys' kernel with a = -0.5 */
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0;
}

/* The weights that map `inputs` pixels to `outputs`; widened when shrinking, against aliasing. */
static int make_filter(Filter *f, int inputs, int outputs) {
    double scale = (double)inputs / outputs, stretch = scale < 1 ? 1 : scale;
    double support = 2 * stretch;
    f->taps = ((int)ceil(support) * 2 + 1 + 3) / 4 * 4;
    double *weights = malloc(f->taps * sizeof *weights);
    f->first = malloc(outputs * sizeof *f->first);
    f->high = calloc((size_t)outputs * f->taps, sizeof *f->high);
    f->low = calloc((size_t)outputs * f->taps, sizeof *f->low);
    if (!weights || !f->first || !f->high || !f->low) {
        free(weights);
        return -1;
    }
    for (int i = 0; i < outputs; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > inputs) end = inputs;
        for (int k = 0; k < end - first; k++) {
            weights[k] = cubic((k + first - centre + 0.5) * (1 / stretch));
            sum += weights[k];
        }
        for (int k = 0; k < end - first; k++) {
            double exact = weights[k] / sum * (1 << FRACTION_BITS);
            int weight = (int)(exact < 0 ? exact - 0.5 : exact + 0.5);
            f->high[(size_t)i * f->taps + k] = weight >> LOW_BITS;
            f->low[(size_t)i * f->taps + k] = weight & ((1 << LOW_BITS) - 1);
        }
        f->first[i] = first;
    }
    free(weights);
    return 0;
}

static void free_filter(Filter *f) {
    free(f->first);
    free(f->high);
    free(f->low);
}

/* The sums of both halves, eight 32-bit numbers each -> whole numbers, rounded half up. */
AVX2 static inline __m256i combine(__m256i high, __m256i low) {
    __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low);
    return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(HALF)), FRACTION_BITS);
}

/* 4 pixels of 4 bytes -> 16-bit pairs (pixel 0, pixel 1) and (pixel 2, pixel 3) of each channel. */
AVX2 static inline __m256i load_pairs(const uint8_t *pixels) {
    const __m256i order = _mm256_setr_epi8(
        0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1,
        8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1);
    __m128i four = _mm_loadu_si128((const __m128i *)pixels);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(four), order);
}

/* 4 weights -> the pair (0, 1) for the channels of the lower half, (2, 3) for the upper's. */
AVX2 static inline __m256i load_weights(const int16_t *weights) {
    const __m256i order = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    __m128i four = _mm_loadl_epi64((const __m128i *)weights);
    return _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(four), order);
}

/* Scale two rows of 4-byte pixels; writes 3 * outputs bytes and one more to each result. */
AVX2 static void scale_rows(
    const uint8_t *rows[2], const Filter *f, int outputs, uint8_t *results[2]) {
    for (int i = 0; i < outputs; i++) {
        const int16_t *high = f->high + (size_t)i * f->taps, *low = f->low + (size_t)i * f->taps;
        const uint8_t *a = rows[0] + 4 * (size_t)f->first[i];
        const uint8_t *b = rows[1] + 4 * (size_t)f->first[i];
        __m256i a_high = _mm256_setzero_si256(), a_low = a_high, b_high = a_high, b_low = a_high;
        for (int k = 0; k < f->taps; k += 4) {
            __m256i h = load_weights(high + k), l = load_weights(low + k);
            __m256i pairs = load_pairs(a + 4 * k);
            a_high = _mm256_add_epi32(a_high, _mm256_madd_epi16(pairs, h));
            a_low = _mm256_add_epi32(a_low, _mm256_madd_epi16(pairs, l));
            pairs = load_pairs(b + 4 * k);
            b_high = _mm256_add_epi32(b_high, _mm256_madd_epi16(pairs, h));
            b_low = _mm256_add_epi32(b_low, _mm256_madd_epi16(pairs, l));
        }
        /* Lower plus upper half; row a's four channels end up below row b's. */
        __m256i sum_high = _mm256_add_epi32(
            _mm256_permute2x128_si256(a_high, b_high, 0x20),
            _mm256_permute2x128_si256(a_high, b_high, 0x31));
        __m256i sum_low = _mm256_add_epi32(
            _mm256_permute2x128_si256(a_low, b_low, 0x20),
            _mm256_permute2x128_si256(a_low, b_low, 0x31));
        __m256i values = combine(sum_high, sum_low);
        values = _mm256_packs_epi32(values, values);
        values = _mm256_packus_epi16(values, values);
        /* A fourth byte, which the next pixel overwrites, makes it one store. */
        uint32_t pixel = _mm256_extract_epi32(values, 0);
        memcpy(results[0] + 3 * (size_t)i, &pixel, 4);
        pixel = _mm256_extract_epi32(values, 4);
        memcpy(results[1] + 3 * (size_t)i, &pixel, 4);
    }
}

/* Row i of the result: `stride` bytes, a multiple of 16, from rows of as many. */
AVX2 static void scale_columns(
    const uint8_t *input, size_t stride, int rows, const Filter *f, int i, uint8_t *result) {
    const int16_t *high = f->high + (size_t)i * f->taps, *low = f->low + (size_t)i * f->taps;
    int taps = f->taps < rows - f->first[i] ? f->taps : rows - f->first[i];
    for (size_t x = 0; x < stride; x += 16) {
        __m256i high0 = _mm256_setzero_si256(), low0 = high0, high1 = high0, low1 = high0;
        for (int k = 0; k < taps; k += 2) {
            const uint8_t *a = input + (size_t)(f->first[i] + k) * stride + x;
            const uint8_t *b = k + 1 < taps ? a + stride : a; /* its weight is 0 past the end */
            __m128i row_a = _mm_loadu_si128((const __m128i *)a);
            __m128i row_b = _mm_loadu_si128((const __m128i *)b);
            __m256i pairs0 = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(row_a, row_b));
            __m256i pairs1 = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(row_a, row_b));
            int32_t two_weights;
            memcpy(&two_weights, high + k, sizeof two_weights);
            __m256i weights = _mm256_set1_epi32(two_weights);
            high0 = _mm256_add_epi32(high0, _mm256_madd_epi16(pairs0, weights));
            high1 = _mm256_add_epi32(high1, _mm256_madd_epi16(pairs1, weights));
            memcpy(&two_weights, low + k, sizeof two_weights);
            weights = _mm256_set1_epi32(two_weights);
            low0 = _mm256_add_epi32(low0, _mm256_madd_epi16(pairs0, weights));
            low1 = _mm256_add_epi32(low1, _mm256_madd_epi16(pairs1, weights));
        }
        __m256i values = _mm256_packs_epi32(combine(high0, low0), combine(high1, low1));
        values = _mm256_permute4x64_epi64(values, 0xD8); /* packs works on each half by itself */
        _mm_storeu_si128((__m128i *)(result + x),
            _mm_packus_epi16(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1)));
    }
}

static void scale_all_rows(const uint8_t *input, int64_t input_stride, int width, int height,
    const Filter *f, int outputs, uint8_t *result, size_t stride, uint8_t *scratch) {
    size_t padded = 4 * ((size_t)width + f->taps);
    const uint8_t *rows[2] = {scratch, scratch + padded};
    for (int y = 0; y < height; y += 2) {
        int second = y + 1 < height ? y + 1 : y;
        uint8_t *results[2] = {result + y * stride, result + second * stride};
        /* Copied, because the last pixels' unused taps lie beyond the row. */
        memcpy(scratch, input + y * input_stride, 4 * (size_t)width);
        memcpy(scratch + padded, input + second * input_stride, 4 * (size_t)width);
        scale_rows(rows, f, outputs, results);
    }
}

/* 1 if this processor can run the functions below. */
int mae_image_supported(void) { return __builtin_cpu_supports("avx2") != 0; }

static int is_side(int pixels) { return pixels >= 1 && pixels <= LONGEST_SIDE; }

/* 4-byte pixels [height, width], rows input_stride bytes apart -> RGB [out_height, out_width, 3].
 * Returns 0, or -1 when out of memory, or for a side that is none. */
int mae_resize(const uint8_t *input, int64_t input_stride, int width, int height,
    uint8_t *output, int out_width, int out_height) {
    if (!is_side(width) || !is_side(height) || !is_side(out_width) || !is_side(out_height))
        return -1;
    Filter across = {0}, down = {0};
    size_t row_bytes = 3 * (size_t)out_width, stride = (row_bytes + 1 + 15) / 16 * 16;
    int failed = make_filter(&across, width, out_width) | make_filter(&down, height, out_height);
    uint8_t *scratch = calloc(2 * 4 * ((size_t)width + across.taps), 1);
    uint8_t *rows = malloc(stride * height), *result = malloc(stride);
    if (failed || !scratch || !rows || !result) {
        failed = -1;
    } else {
        scale_all_rows(
            input, input_stride, width, height, &across, out_width, rows, stride, scratch);
        for (int y = 0; y < out_height; y++) {
            scale_columns(rows, stride, height, &down, y, result);
            memcpy(output + y * row_bytes, result, row_bytes);
        }
    }
    free(scratch);
    free(rows);
    free(result);
    free_filter(&across);
    free_filter(&down);
    return failed;
}

/* 4-byte pixels [count] -> float [3, count]: byte * scale[channel] + bias[channel]. */
void mae_normalise(const uint8_t *pixels, int64_t count, const float *scale, const float *bias,
    float *output) {
    float table[3][256]; /* there are no more results */
    for (int channel = 0; channel < 3; channel++)
        for (int byte = 0; byte < 256; byte++)
            table[channel][byte] = (float)byte * scale[channel] + bias[channel];
    for (int64_t i = 0; i < count; i++) {
        output[i] = table[0][pixels[4 * i]];
        output[count + i] = table[1][pixels[4 * i + 1]];
        output[2 * count + i] = table[2][pixels[4 * i + 2]];
    }
}
