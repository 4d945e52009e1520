/* Passes over memory that NumPy needs several of, in plain C11: the compiler vectorises every loop. __init__.py loads them and names the twin
   of each. They are called through ctypes, so without the interpreter's lock.

   A float step rounds once: this file is compiled with -ffp-contract=off, and nothing in it may be fused. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__gnu_linux__)
#define FAST __attribute__((target_clones("avx2", "default"))) /* the loader picks what the processor has */
#else
#define FAST
#endif

#define HFLIP 1
#define VFLIP 2

/* Row `y` of a plane of `height` rows of `bytes`, counted from below if it is flipped. */
static const char *row_of(const char *plane, size_t y, size_t height, size_t bytes, uint8_t flips) {
    return plane + (flips & VFLIP ? height - 1 - y : y) * bytes;
}

#define MIRROR(name, T)                                                                     \
    FAST static void name(T *restrict out, const T *restrict in, size_t width) {            \
        for (size_t x = 0; x < width; ++x) out[x] = in[width - 1 - x];                      \
    }
MIRROR(mirror_u8, uint8_t)
MIRROR(mirror_u16, uint16_t)

#define COPY(name, T, mirror)                                                                                                    \
    void name(T *const *out, const T *const *in, const uint8_t *flips, size_t pictures, size_t planes, size_t height,           \
              size_t width) {                                                                                                    \
        const size_t bytes = width * sizeof(T), plane = height * width;                                                          \
        for (size_t i = 0; i < pictures; ++i) {                                                                                  \
            if (!flips[i]) {                                                                                                     \
                memcpy(out[i], in[i], planes * plane * sizeof(T));                                                               \
                continue;                                                                                                        \
            }                                                                                                                    \
            for (size_t c = 0; c < planes; ++c)                                                                                  \
                for (size_t y = 0; y < height; ++y) {                                                                            \
                    const T *row = (const T *)row_of((const char *)(in[i] + c * plane), y, height, bytes, flips[i]);             \
                    T *goal = out[i] + c * plane + y * width;                                                                    \
                    if (flips[i] & HFLIP)                                                                                        \
                        mirror(goal, row, width);                                                                                \
                    else                                                                                                         \
                        memcpy(goal, row, bytes);                                                                                \
                }                                                                                                                \
        }                                                                                                                        \
    }
COPY(dp_copy_u8, uint8_t, mirror_u8)
COPY(dp_copy_u16, uint16_t, mirror_u16)

#define SOME 1024 /* values mirrored at a time, so that they stay in the nearest cache: a loop that mirrors and converts is not vectorised */

#define NORMALISE(name, T, mirror)                                                                                             \
    FAST static void name##_row(float *restrict out, const T *restrict in, size_t width, float m, float inv) {                 \
        for (size_t x = 0; x < width; ++x) out[x] = ((float)in[x] - m) * inv;                                                  \
    }                                                                                                                          \
    static void name##_mirrored(float *out, const T *in, size_t width, float m, float inv) {                                   \
        T some[SOME];                                                                                                          \
        for (size_t x = 0; x < width; x += SOME) {                                                                             \
            const size_t count = width - x < SOME ? width - x : SOME;                                                          \
            mirror(some, in + width - x - count, count);                                                                       \
            name##_row(out + x, some, count, m, inv);                                                                          \
        }                                                                                                                      \
    }                                                                                                                          \
    void name(float *const *out, const T *const *in, const uint8_t *flips, size_t pictures, size_t planes, size_t height,      \
              size_t width, const float *m, const float *inv) {                                                                \
        for (size_t i = 0; i < pictures; ++i)                                                                                  \
            for (size_t c = 0; c < planes; ++c)                                                                                \
                for (size_t y = 0; y < height; ++y) {                                                                          \
                    const char *plane = (const char *)(in[i] + c * height * width);                                            \
                    const T *row = (const T *)row_of(plane, y, height, width * sizeof(T), flips[i]);                           \
                    float *goal = out[i] + (c * height + y) * width;                                                           \
                    if (flips[i] & HFLIP)                                                                                      \
                        name##_mirrored(goal, row, width, m[c], inv[c]);                                                       \
                    else                                                                                                       \
                        name##_row(goal, row, width, m[c], inv[c]);                                                            \
                }                                                                                                              \
    }
NORMALISE(dp_normalise_u8, uint8_t, mirror_u8)
NORMALISE(dp_normalise_u16, uint16_t, mirror_u16)

/* How often each code occurs. Four tables, because neighbours are often equal and would wait for each other; `tables` holds 4 * size
   zeros, of which the first `size` are the sum in the end. Codes must be below `size`, and count below 2^32. */
#define COUNT(name, T)                                                                                                           \
    void name(const T *codes, size_t count, uint32_t *tables, size_t size) {                                                     \
        uint32_t *a = tables, *b = a + size, *c = b + size, *d = c + size;                                                       \
        size_t i = 0;                                                                                                            \
        for (; i + 4 <= count; i += 4) a[codes[i]]++, b[codes[i + 1]]++, c[codes[i + 2]]++, d[codes[i + 3]]++;                   \
        for (; i < count; ++i) a[codes[i]]++;                                                                                    \
        for (i = 0; i < size; ++i) a[i] += b[i] + c[i] + d[i];                                                                   \
    }
COUNT(dp_count_u8, uint8_t)
COUNT(dp_count_u16, uint16_t)

#define LOOK_UP(name, Code, Entry)                                                                                               \
    void name(const Entry *restrict table, const Code *restrict codes, Entry *restrict out, size_t count) {                     \
        for (size_t i = 0; i < count; ++i) out[i] = table[codes[i]];                                                             \
    }
LOOK_UP(dp_look_up_u8_u8, uint8_t, uint8_t)
LOOK_UP(dp_look_up_u16_u8, uint16_t, uint8_t)
LOOK_UP(dp_look_up_u8_u16, uint8_t, uint16_t)
LOOK_UP(dp_look_up_u16_u16, uint16_t, uint16_t)
