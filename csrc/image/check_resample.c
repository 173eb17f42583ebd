/* Runs the image functions with sizes of every kind, hostile ones among them: check.sh beside it.
 *
 * A case is made from its number: `check COUNT FIRST` runs COUNT of them from FIRST on.
 * Each buffer has the very bytes that a function may touch, in a piece of memory of its own, so
 * that a sanitizer sees the first byte beside it.
 */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int mae_image_supported(void);
int mae_resize(const uint8_t *, int64_t, int, int, uint8_t *, int, int);
void mae_normalise(const uint8_t *, int64_t, const float *, const float *, float *);

enum { LONGEST = 32767, MOST_PIXELS = 1 << 17 };
static const int EDGES[] = {
    0, -1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 224, 256, 4095,
    LONGEST, LONGEST + 1, 65536, INT_MAX, INT_MIN};

static uint64_t state;
static int number; /* of the case */
static int below(int count) { /* a number in [0, count) */
    uint64_t mixed = state += 0x9E3779B97F4A7C15u; /* SplitMix64 */
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return (int)(((mixed ^ (mixed >> 31)) >> 33) % count);
}

static int side(void) {
    return below(2) ? EDGES[below(sizeof EDGES / sizeof *EDGES)] : 1 + below(70);
}

static int is_valid(int side) { return side >= 1 && side <= LONGEST; }

static void fail(const char *what, int width, int height, int out_width, int out_height) {
    printf("case %d: %s: %d x %d to %d x %d\n", number, what, width, height, out_width, out_height);
    exit(1);
}

/* Halve the longer side until an image takes no long time. */
static void limit(int *width, int *height) {
    while ((int64_t)*width * *height > MOST_PIXELS) *(*width > *height ? width : height) /= 2;
}

/* Resize a box of an image, the last pixel of which is the last of its memory; 1 if it was done. */
static int resize(int width, int height, int out_width, int out_height, int beside) {
    int valid = is_valid(width) && is_valid(height) && is_valid(out_width) && is_valid(out_height);
    if (!valid) { /* no byte may be touched */
        uint8_t *byte = malloc(1);
        int64_t stride = 4 * (int64_t)width;
        if (mae_resize(byte + 1, stride, width, height, byte + 1, out_width, out_height) == 0)
            fail("not refused", width, height, out_width, out_height);
        free(byte);
        return 0;
    }
    limit(&width, &height);
    limit(&out_width, &out_height);
    limit(&out_width, &height); /* between the two passes */
    size_t stride = 4 * ((size_t)width + beside), size = stride * (height - 1) + 4 * (size_t)width;
    size_t out_size = 3 * (size_t)out_width * out_height;
    uint8_t *input = malloc(size), *output = malloc(out_size);
    int byte = below(256);
    memset(input, byte, size);
    memset(output, ~byte, out_size);
    if (mae_resize(input, stride, width, height, output, out_width, out_height) != 0)
        fail("out of memory", width, height, out_width, out_height);
    for (size_t i = 0; i < out_size; i++) /* of one colour, and every pixel was written */
        if (output[i] != byte) fail("another colour", width, height, out_width, out_height);
    free(input);
    free(output);
    return 1;
}

static void normalise(int64_t count) {
    const float scale[3] = {2, 3, 4}, bias[3] = {-1, 0, 1};
    size_t pixels = count < 0 ? 0 : count;
    uint8_t *input = malloc(4 * pixels);
    float *output = malloc(3 * pixels * sizeof *output);
    memset(input, 7, 4 * pixels);
    mae_normalise(input, count, scale, bias, output);
    for (size_t i = 0; i < 3 * pixels; i++)
        if (output[i] != 7 * scale[i / pixels] + bias[i / pixels])
            fail("normalise", (int)count, 1, 1, 1);
    free(input);
    free(output);
}

int main(int argc, char **argv) {
    int cases = argc > 1 ? atoi(argv[1]) : 4000, first = argc > 2 ? atoi(argv[2]) : 0, done = 0;
    if (!mae_image_supported()) {
        printf("this processor runs no image code\n");
        return 0;
    }
    for (number = first; number < first + cases; number++) {
        state = (uint64_t)number << 20;
        done += resize(side(), side(), side(), side(), below(2) * below(90));
        if (number % 20 == 0) normalise(below(8) ? below(3000) : -1 - below(10));
    }
    printf("%d images resized, %d sizes refused\n", done, cases - done);
    return 0;
}
