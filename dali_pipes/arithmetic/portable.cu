/* The portable arithmetic as CUDA kernels: the bits of integer.py, gray.py, affine.py, colour.py and normalise.py.

   The bodies keep to C, so that the tests can compile them with gcc, threads as loops, and compare them with the PyTorch form. Float steps
   are `subtracted` and `multiplied`, which round once each, are never fused, and keep denormals: the bits do not hang on a compiler option.
   CuPy always compiles with -ftz=true, under which the intrinsics __fsub_rn and __fmul_rn would make denormals zero; hence the PTX.

   Resizing takes two launches for a batch of pictures of any sizes, whatever their number: across, then down. One fused launch without
   shared memory would do the taps of both passes for every output, Kx * Ky, where two do Kx * (source rows per output row) + Ky. Shrinking s
   times, K is about 2s (bilinear) or 4s (bicubic), so fusing costs twice or four times the arithmetic, 3328x2560 to 512x512 40 against 22
   million multiply-adds a channel; enlarging, 4 or 16 a value against 2 or 4 and a little. The price of two is the picture between, of
   (source rows) x (output columns) bytes a channel, written and read once: less than the source itself wherever the width shrinks.

   Neighbouring threads are neighbouring columns: writes, the reads of `down`, and the weights, which lie tap by tap, are coalesced. */

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
DEVICE float subtracted(float a, float b) {
    float result;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
DEVICE float multiplied(float a, float b) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
#endif

typedef unsigned char u8;
typedef unsigned short u16;

/* One axis: `start[n]`, then `weights[taps][n]`, from `tables + offset`. See tables.py. */
typedef struct {
    int offset, taps, precision, n;
} Axis;

/* One picture to resize. Keep in step with RESIZE_JOB in packing.py. */
typedef struct {
    unsigned long long source; /* address of u8 [h, w, channels] */
    long long between;         /* where its planes [channels, rows, across.n] start in the buffer between the passes */
    int width;                 /* w */
    int first, rows;           /* the source rows that `down` reads */
    int top, left;             /* where the visible part lies in the output */
    int flips;                 /* 1: mirrored left to right, 2: upside down */
    Axis across, down;
} ResizeJob;

/* One base picture to finish. Keep in step with FINISH_JOB in packing.py. */
typedef struct {
    unsigned long long source;  /* address of u8 or u16 planes [planes, height, width] */
    unsigned long long warp;    /* address of long long[6], see affine.py; 0 for none */
    unsigned long long colours; /* address of long long[planes, planes + 1], see colour.py; 0 for none; 3 planes at most */
    int flips, unused;
} FinishJob;

DEVICE u8 rounded(int total, int precision) {
    int value = total >> precision;
    return (u8)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Pillow's convert("L"). */
DEVICE int luma(const u8 *rgb) { return (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16; }

DEVICE float normalised(int x, float m, float inv) { return multiplied(subtracted((float)x, m), inv); }

/* float32 to float16, to nearest, ties to even. `value` is never NaN. */
DEVICE u16 half_bits(float value) {
    unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size >= 0x47800000u) return (u16)(sign | 0x7c00u); /* 65536 and above: infinite */
    if (size >= 0x38800000u) return (u16)(sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13);
    if (size < 0x33000000u) return (u16)sign; /* below half of the smallest */
    unsigned drop = 126u - (size >> 23), digits = (size & 0x7fffffu) | 0x800000u, kept = digits >> drop;
    unsigned rest = digits & ((1u << drop) - 1u), tie = 1u << (drop - 1u);
    return (u16)(sign | (kept + (rest > tie || (rest == tie && (kept & 1u)) ? 1u : 0u)));
}

/* Horizontal pass. Grid: columns, source rows (strided), pictures. `gray`: 3 source channels become 1 on the way in. */
KERNEL resize_across(const ResizeJob *__restrict__ jobs, const int *__restrict__ tables, u8 *__restrict__ between, int channels, int gray) {
    const ResizeJob job = jobs[blockIdx.z];
    const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x), n = job.across.n;
    if (x >= n) return;
    const int *start = tables + job.across.offset, *weights = start + n;
    const int planes = gray ? 1 : channels;
    for (int y = (int)(blockIdx.y * blockDim.y + threadIdx.y); y < job.rows; y += (int)(gridDim.y * blockDim.y)) {
        const u8 *pixel = (const u8 *)job.source + ((long long)(job.first + y) * job.width + start[x]) * channels;
        for (int c = 0; c < planes; ++c) {
            int total = 1 << (job.across.precision - 1);
            for (int k = 0; k < job.across.taps; ++k) {
                const u8 *value = pixel + k * channels;
                total += weights[k * n + x] * (gray ? luma(value) : (int)value[c]);
            }
            between[job.between + ((long long)c * job.rows + y) * n + x] = rounded(total, job.across.precision);
        }
    }
}

/* One value of the finished picture by the vertical pass: the flips undone, 0 outside the visible part. */
DEVICE int down(const ResizeJob *job, const int *tables, const u8 *between, int c, int y, int x, int height, int width) {
    const int row = (job->flips & 2 ? height - 1 - y : y) - job->top, column = (job->flips & 1 ? width - 1 - x : x) - job->left;
    if (row < 0 || row >= job->down.n || column < 0 || column >= job->across.n) return 0;
    const int *start = tables + job->down.offset, *weights = start + job->down.n;
    const u8 *value = between + job->between + ((long long)c * job->rows + start[row] - job->first) * job->across.n + column;
    int total = 1 << (job->down.precision - 1);
    for (int k = 0; k < job->down.taps; ++k) total += weights[k * job->down.n + row] * value[(long long)k * job->across.n];
    return rounded(total, job->down.precision);
}

/* What a value of either kernel below becomes. */
#define KEEP(value, c) (value)
#define FLOAT(value, c) normalised(value, m[c], inv[c])
#define HALF(value, c) half_bits(normalised(value, m[c], inv[c]))

/* Vertical pass, crop or pad, flips, and normalising. Grid: columns, rows (strided), pictures. out: [pictures, planes, height, width]. */
#define RESIZE_DOWN(name, Out, BECOME)                                                                                                    \
    KERNEL name(const ResizeJob *__restrict__ jobs, const int *__restrict__ tables, const u8 *__restrict__ between, Out *__restrict__ out, \
                int planes, int height, int width, const float *__restrict__ m, const float *__restrict__ inv) {                          \
        const ResizeJob job = jobs[blockIdx.z];                                                                                           \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                                                       \
        (void)m, (void)inv;                                                                                                               \
        if (x >= width) return;                                                                                                           \
        for (int y = (int)(blockIdx.y * blockDim.y + threadIdx.y); y < height; y += (int)(gridDim.y * blockDim.y))                        \
            for (int c = 0; c < planes; ++c) {                                                                                            \
                const int value = down(&job, tables, between, c, y, x, height, width);                                                    \
                out[(((long long)blockIdx.z * planes + c) * height + y) * width + x] = (Out)BECOME(value, c);                             \
            }                                                                                                                             \
    }

RESIZE_DOWN(resize_down_u8, u8, KEEP)
RESIZE_DOWN(resize_down_f32, float, FLOAT)
RESIZE_DOWN(resize_down_f16, u16, HALF)

/* Where an output pixel is looked up: the whole part, and the fraction to `bits`. Without a warp the fraction is 0. */
typedef struct {
    int x, y, qx, qy;
} Spot;

DEVICE Spot spot_of(const FinishJob *job, int x, int y, int bits) {
    Spot at = {x, y, 0, 0};
    if (job->warp) {
        const long long *w = (const long long *)job->warp, half = 1LL << (39 - bits), mask = (1LL << bits) - 1;
        const long long X = w[0] * x + w[1] * y + w[2] + half, Y = w[3] * x + w[4] * y + w[5] + half;
        at.x = (int)(X >> 40), at.qx = (int)(X >> (40 - bits) & mask);
        at.y = (int)(Y >> 40), at.qy = (int)(Y >> (40 - bits) & mask);
    }
    return at;
}

/* A value of the flipped picture, by affine.py. `Sum` holds 3 * BITS bits. */
#define SAMPLED(In, Sum, BITS)                                                                                                            \
    DEVICE Sum pixel_##In(const FinishJob *job, int c, int y, int x, int height, int width) {                                             \
        if (x < 0 || x >= width || y < 0 || y >= height) return 0;                                                                        \
        const int row = job->flips & 2 ? height - 1 - y : y, column = job->flips & 1 ? width - 1 - x : x;                                 \
        return ((const In *)job->source)[((long long)c * height + row) * width + column];                                                 \
    }                                                                                                                                     \
    DEVICE int sampled_##In(const FinishJob *job, Spot at, int c, int height, int width) {                                                \
        const Sum qx = (Sum)at.qx, qy = (Sum)at.qy, ux = ((Sum)1 << BITS) - qx, uy = ((Sum)1 << BITS) - qy;                               \
        if (!job->warp) return (int)pixel_##In(job, c, at.y, at.x, height, width);                                                        \
        const Sum upper = pixel_##In(job, c, at.y, at.x, height, width) * ux + pixel_##In(job, c, at.y, at.x + 1, height, width) * qx;    \
        const Sum lower =                                                                                                                 \
            pixel_##In(job, c, at.y + 1, at.x, height, width) * ux + pixel_##In(job, c, at.y + 1, at.x + 1, height, width) * qx;          \
        return (int)((upper * uy + lower * qy + ((Sum)1 << (2 * BITS - 1))) >> (2 * BITS));                                               \
    }

SAMPLED(u8, unsigned, 8)
SAMPLED(u16, unsigned long long, 16)

/* One channel of a pixel by colour.py. */
DEVICE int mixed(const long long *colours, const int *pixel, int c, int planes, int precision, int full_scale) {
    const long long *row = colours + c * (planes + 1);
    long long total = row[planes] + (1LL << (precision - 1));
    for (int j = 0; j < planes; ++j) total += row[j] * pixel[j];
    total >>= precision;
    return (int)(total < 0 ? 0 : total > full_scale ? full_scale : total);
}

/* Flips, warp, colour and normalising of base pictures of one size. Grid: columns, rows (strided), pictures. out: [pictures, planes, height,
   width]. */
#define FINISH(name, In, BITS, PRECISION, Out, BECOME)                                                                                    \
    KERNEL name(const FinishJob *__restrict__ jobs, Out *__restrict__ out, int planes, int height, int width,                             \
                const float *__restrict__ m, const float *__restrict__ inv) {                                                             \
        const FinishJob job = jobs[blockIdx.z];                                                                                           \
        const long long *colours = (const long long *)job.colours;                                                                        \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                                                       \
        (void)m, (void)inv;                                                                                                               \
        if (x >= width) return;                                                                                                           \
        for (int y = (int)(blockIdx.y * blockDim.y + threadIdx.y); y < height; y += (int)(gridDim.y * blockDim.y)) {                      \
            const Spot at = spot_of(&job, x, y, BITS);                                                                                    \
            int pixel[3] = {0, 0, 0};                                                                                                     \
            for (int c = 0; colours && c < planes; ++c) pixel[c] = sampled_##In(&job, at, c, height, width);                              \
            for (int c = 0; c < planes; ++c) {                                                                                            \
                const int value = colours ? mixed(colours, pixel, c, planes, PRECISION, (1 << BITS) - 1)                                  \
                                          : sampled_##In(&job, at, c, height, width);                                                     \
                out[(((long long)blockIdx.z * planes + c) * height + y) * width + x] = (Out)BECOME(value, c);                             \
            }                                                                                                                             \
        }                                                                                                                                 \
    }

FINISH(finish_u8_u8, u8, 8, 11, u8, KEEP)
FINISH(finish_u8_f32, u8, 8, 11, float, FLOAT)
FINISH(finish_u8_f16, u8, 8, 11, u16, HALF)
FINISH(finish_u16_u16, u16, 16, 20, u16, KEEP)
FINISH(finish_u16_f32, u16, 16, 20, float, FLOAT)
FINISH(finish_u16_f16, u16, 16, 20, u16, HALF)
