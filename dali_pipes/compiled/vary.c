/* What varies, a picture at a time, in plain C11: warps (arithmetic/affine.py) and colour maps (arithmetic/colour.py), whose
   specifications these are another form of. vary.py calls them. Integers only; unsigned ones wrap, signed ones cannot overflow. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__gnu_linux__)
#define FAST __attribute__((target_clones("avx2", "default"))) /* the loader picks what the processor has */
#else
#define FAST
#endif

#define FRACTION 40 /* bits of a position below the pixel */
#define TILE 256    /* output pixels of a row at a time, so that all that is known of them stays in the nearest cache */
#define PLANES 4    /* at most */
#define SOME 4096   /* samples of a plane at a time */

/* Of each output pixel: where its four input pixels begin, and the fractions of its position. */
typedef struct {
    uint32_t place[TILE], qx[TILE], qy[TILE];
} Spots;

/* A position whose four input pixels are all inside. What lies before the picture is large, because it is unsigned. */
static int inside(uint64_t x, uint64_t y, size_t height, size_t width) {
    return (x >> FRACTION) + 1 < width && (y >> FRACTION) + 1 < height;
}

FAST static void find_spots(Spots *restrict at, const uint64_t *restrict along, uint64_t x, uint64_t y, size_t from, size_t to,
                            uint32_t width, unsigned bits) {
    const uint32_t mask = (1u << bits) - 1;
    for (size_t i = from; i < to; ++i) {
        const uint64_t px = x + along[i], py = y + along[TILE + i];
        at->place[i] = (uint32_t)(py >> FRACTION) * width + (uint32_t)(px >> FRACTION);
        at->qx[i] = (uint32_t)(px >> (FRACTION - bits)) & mask;
        at->qy[i] = (uint32_t)(py >> (FRACTION - bits)) & mask;
    }
}

/* T: a sample of BITS bits. Pair: two of them. Wide: holds a sum of weighted samples. */
#define WARP(name, T, Pair, Wide, BITS)                                                                                           \
    static uint32_t name##_blend(uint32_t p00, uint32_t p01, uint32_t p10, uint32_t p11, uint32_t qx, uint32_t qy) {              \
        const uint32_t one = 1u << BITS, upper = p00 * (one - qx) + p01 * qx, lower = p10 * (one - qx) + p11 * qx;                \
        return (uint32_t)(((Wide)upper * (one - qy) + (Wide)lower * qy + ((Wide)1 << (2 * BITS - 1))) >> (2 * BITS));             \
    }                                                                                                                             \
    FAST static void name##_middle(uint32_t *restrict total, const T *restrict plane, const Spots *restrict at, size_t from,      \
                                   size_t to, size_t width) {                                                                     \
        Pair upper[TILE], lower[TILE]; /* gathered first: a loop that gathers is not vectorised */                                \
        for (size_t i = from; i < to; ++i) {                                                                                      \
            const T *p = plane + at->place[i];                                                                                    \
            upper[i] = (Pair)(p[0] | (Pair)((Pair)p[1] << BITS));                                                                 \
            lower[i] = (Pair)(p[width] | (Pair)((Pair)p[width + 1] << BITS));                                                     \
        }                                                                                                                         \
        for (size_t i = from; i < to; ++i)                                                                                        \
            total[i] += name##_blend((T)upper[i], (T)(upper[i] >> BITS), (T)lower[i], (T)(lower[i] >> BITS), at->qx[i], at->qy[i]); \
    }                                                                                                                             \
    /* One sample near the picture's edges, or outside; the position counts from one pixel before the picture. */                 \
    static uint32_t name##_edge(const T *plane, size_t height, size_t width, uint64_t px, uint64_t py) {                          \
        const uint64_t x = px >> FRACTION, y = py >> FRACTION;                                                                    \
        if (x > width || y > height) return 0;                                                                                    \
        const uint32_t mask = (1u << BITS) - 1;                                                                                   \
        const size_t at = y * width + x; /* of p11 */                                                                             \
        const uint32_t p00 = x && y ? plane[at - width - 1] : 0u, p01 = x < width && y ? plane[at - width] : 0u;                  \
        const uint32_t p10 = x && y < height ? plane[at - 1] : 0u, p11 = x < width && y < height ? plane[at] : 0u;                \
        return name##_blend(p00, p01, p10, p11, (uint32_t)(px >> (FRACTION - BITS)) & mask,                                       \
                            (uint32_t)(py >> (FRACTION - BITS)) & mask);                                                          \
    }                                                                                                                             \
    /* `map` is that of the grid which is 2**doublings times as fine as the output. */                                            \
    void name(const T *image, size_t planes, size_t height, size_t width, const int64_t *map, unsigned doublings, T *out,         \
              size_t rows, size_t columns) {                                                                                      \
        const uint64_t half = (uint64_t)1 << (FRACTION - 1 - BITS), one = (uint64_t)1 << FRACTION, side = 1u << doublings;        \
        const uint64_t ax = (uint64_t)map[0], bx = (uint64_t)map[1], ay = (uint64_t)map[3], by = (uint64_t)map[4];                \
        const uint32_t rounding = doublings ? 1u << (2 * doublings - 1) : 0;                                                      \
        uint64_t along[2 * TILE];                                                                                                 \
        for (size_t i = 0; i < TILE; ++i) along[i] = ax * side * i, along[TILE + i] = ay * side * i;                              \
        for (size_t line = 0; line < rows; ++line)                                                                                \
            for (size_t left = 0; left < columns; left += TILE) {                                                                 \
                const size_t count = columns - left < TILE ? columns - left : TILE;                                               \
                uint32_t total[PLANES][TILE];                                                                                     \
                memset(total, 0, sizeof total);                                                                                   \
                for (uint64_t part = 0; part < side * side; ++part) {                                                             \
                    const uint64_t i = left * side + part % side, j = line * side + part / side;                                  \
                    const uint64_t x = ax * i + bx * j + (uint64_t)map[2] + half, y = ay * i + by * j + (uint64_t)map[5] + half;   \
                    size_t from = 0, to = count; /* what is inside is one stretch, because a position goes one way in a row */    \
                    while (from < to && !inside(x + along[from], y + along[TILE + from], height, width)) ++from;                  \
                    while (to > from && !inside(x + along[to - 1], y + along[TILE + to - 1], height, width)) --to;                \
                    Spots at;                                                                                                     \
                    find_spots(&at, along, x, y, from, to, (uint32_t)width, BITS);                                                \
                    for (size_t c = 0; c < planes; ++c) {                                                                         \
                        const T *plane = image + c * height * width;                                                              \
                        for (size_t k = 0; k < from; ++k)                                                                         \
                            total[c][k] += name##_edge(plane, height, width, x + along[k] + one, y + along[TILE + k] + one);      \
                        for (size_t k = to; k < count; ++k)                                                                       \
                            total[c][k] += name##_edge(plane, height, width, x + along[k] + one, y + along[TILE + k] + one);      \
                        name##_middle(total[c], plane, &at, from, to, width);                                                     \
                    }                                                                                                             \
                }                                                                                                                 \
                for (size_t c = 0; c < planes; ++c)                                                                               \
                    for (size_t k = 0; k < count; ++k)                                                                            \
                        out[(c * rows + line) * columns + left + k] = (T)((total[c][k] + rounding) >> (2 * doublings));           \
            }                                                                                                                     \
    }
WARP(dp_warp_u8, uint8_t, uint16_t, uint32_t, 8)
WARP(dp_warp_u16, uint16_t, uint32_t, uint64_t, 16)

/* Sums of bytes stay within Wide = int32_t, those of 16-bit samples within int64_t: colour.py says why. A negative sum is 0, whatever its
   shift would be. */
#define MIX(name, T, Wide, PRECISION)                                                                                             \
    FAST static void name##_one(T *restrict out, const T *restrict in, size_t count, Wide weight, Wide offset) {                  \
        const Wide most = (T)-1;                                                                                                  \
        for (size_t i = 0; i < count; ++i) {                                                                                      \
            const Wide sum = weight * in[i] + offset, value = (sum < 0 ? 0 : sum) >> PRECISION;                                   \
            out[i] = (T)(value > most ? most : value);                                                                            \
        }                                                                                                                         \
    }                                                                                                                             \
    FAST static void name##_three(T *restrict out, const T *restrict r, const T *restrict g, const T *restrict b, size_t count,   \
                                  Wide red, Wide green, Wide blue, Wide offset) {                                                 \
        const Wide most = (T)-1;                                                                                                  \
        for (size_t i = 0; i < count; ++i) {                                                                                      \
            const Wide sum = red * r[i] + green * g[i] + blue * b[i] + offset, value = (sum < 0 ? 0 : sum) >> PRECISION;          \
            out[i] = (T)(value > most ? most : value);                                                                            \
        }                                                                                                                         \
    }                                                                                                                             \
    /* `planes` is 1 or 3; each has `count` samples, and its row of `map`: the weights of all planes, and an offset. */           \
    void name(const T *image, size_t planes, size_t count, const int64_t *map, T *out) {                                          \
        for (size_t at = 0; at < count; at += SOME) {                                                                             \
            const size_t some = count - at < SOME ? count - at : SOME;                                                            \
            const T *in = image + at;                                                                                             \
            for (size_t c = 0; c < planes; ++c) {                                                                                 \
                const int64_t *row = map + c * (planes + 1);                                                                      \
                T *goal = out + c * count + at;                                                                                   \
                const Wide offset = (Wide)(row[planes] + ((int64_t)1 << (PRECISION - 1)));                                        \
                if (planes == 1 || (!row[(c + 1) % 3] && !row[(c + 2) % 3])) /* by itself */                                      \
                    name##_one(goal, in + c * count, some, (Wide)row[c], offset);                                                 \
                else                                                                                                              \
                    name##_three(goal, in, in + count, in + 2 * count, some, (Wide)row[0], (Wide)row[1], (Wide)row[2], offset);   \
            }                                                                                                                     \
        }                                                                                                                         \
    }
MIX(dp_mix_u8, uint8_t, int32_t, 11)
MIX(dp_mix_u16, uint16_t, int64_t, 20)
