/* What a plan says, as CUDA kernels: the bits of plan.py. Follows portable.cu, whose types and helpers it uses.

   A batch takes one launch a step, and only the steps that some picture of it needs:

       crop_across, crop_down    the boxes of those that are not warped, resized; sizes and tables differ by picture
       vary_place                turns and flips, or the warp; then the colour map
       blur_across, blur_down    Gaussian blur
       vary_sharpen              sharpness
       vary_extremes             smallest and largest value of each channel, for autocontrast
       vary_values               autocontrast, the table, noise, erasing

   Between the steps lie pictures [pictures, planes, height, width] of the input's type. Pictures that do not need a step are copied by it. */

/* Keep in step with PLAN in plan.py. */
typedef struct {
    long long box[4], turns, flips, warped, doublings, warp[6], coloured, colour[12], blur[16], sharpen, autocontrast;
    double exponent;
    long long threshold, lost, noise;
    unsigned long long origin;
    long long erased[4], fill[3];
} Plan;

/* Keep in step with CROP_JOB in packing_plan.py. */
typedef struct {
    unsigned long long source; /* address of the base picture, planes [planes, base height, base width] */
    long long curve;           /* byte after the first job where its table starts, an entry for each value; 0 for none */
    long long between;         /* where the planes [planes, rows, across.n] between the passes start, in elements */
    int first, rows;           /* the rows of the box that `down` reads */
    Axis across, down;         /* n = 0 for pictures that are warped */
} CropJob;

#define FOR_ROWS(height) for (int y = (int)(blockIdx.y * blockDim.y + threadIdx.y); y < (height); y += (int)(gridDim.y * blockDim.y))

DEVICE int clamped(long long value, int full_scale) { return (int)(value < 0 ? 0 : value > full_scale ? full_scale : value); }

DEVICE unsigned long long splitmix(unsigned long long z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

/* Centred sum of eight random bytes, see noise.py. */
DEVICE int noise_of(unsigned long long origin, unsigned long long pixel) {
    const unsigned long long z = splitmix(origin + (pixel + 1ULL) * 0x9E3779B97F4A7C15ULL);
    int total = -1020;
    for (int k = 0; k < 64; k += 8) total += (int)(z >> k & 255ULL);
    return total;
}

#define VARIED(In, BITS, PRECISION)                                                                                                       \
    KERNEL crop_across_##In(const CropJob *__restrict__ jobs, const Plan *__restrict__ plans, const int *__restrict__ tables,              \
                            In *__restrict__ between, int planes, int base_height, int base_width) {                                      \
        const CropJob job = jobs[blockIdx.z];                                                                                             \
        const long long *box = plans[blockIdx.z].box;                                                                                     \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x), n = job.across.n;                                                     \
        if (x >= n) return;                                                                                                               \
        const int *start = tables + job.across.offset, *weights = start + n;                                                              \
        FOR_ROWS(job.rows)                                                                                                                \
        for (int c = 0; c < planes; ++c) {                                                                                                \
            const In *value = (const In *)job.source + ((long long)c * base_height + box[0] + job.first + y) * base_width + box[1] + start[x]; \
            int total = 1 << (job.across.precision - 1);                                                                                  \
            for (int k = 0; k < job.across.taps; ++k) total += weights[k * n + x] * (int)value[k];                                        \
            between[job.between + ((long long)c * job.rows + y) * n + x] = (In)clamped(total >> job.across.precision, (1 << BITS) - 1);   \
        }                                                                                                                                 \
    }                                                                                                                                     \
    KERNEL crop_down_##In(const CropJob *__restrict__ jobs, const int *__restrict__ tables, const In *__restrict__ between,               \
                          In *__restrict__ out, int planes) {                                                                             \
        const CropJob job = jobs[blockIdx.z];                                                                                             \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x), width = job.across.n, height = job.down.n;                            \
        if (x >= width) return;                                                                                                           \
        const int *start = tables + job.down.offset, *weights = start + height;                                                           \
        FOR_ROWS(height)                                                                                                                  \
        for (int c = 0; c < planes; ++c) {                                                                                                \
            const In *value = between + job.between + ((long long)c * job.rows + start[y] - job.first) * width + x;                       \
            int total = 1 << (job.down.precision - 1);                                                                                    \
            for (int k = 0; k < job.down.taps; ++k) total += weights[k * height + y] * (int)value[(long long)k * width];                  \
            out[(((long long)blockIdx.z * planes + c) * height + y) * width + x] =                                                        \
                (In)clamped(total >> job.down.precision, (1 << BITS) - 1);                                                                \
        }                                                                                                                                 \
    }                                                                                                                                     \
    DEVICE int warped_##In(const CropJob *job, const Plan *plan, int c, int y, int x, int base_height, int base_width) {                  \
        const FinishJob base = {job->source, (unsigned long long)plan->warp, 0, 0, 0};                                                    \
        const int k = (int)plan->doublings, side = 1 << k;                                                                                \
        long long total = k ? 1LL << (2 * k - 1) : 0;                                                                                     \
        for (int j = 0; j < side; ++j)                                                                                                    \
            for (int i = 0; i < side; ++i) {                                                                                              \
                const Spot at = spot_of(&base, x * side + i, y * side + j, BITS);                                                         \
                total += sampled_##In(&base, at, c, base_height, base_width);                                                             \
            }                                                                                                                             \
        return (int)(total >> (2 * k));                                                                                                   \
    }                                                                                                                                     \
    KERNEL vary_place_##In(const CropJob *__restrict__ jobs, const Plan *__restrict__ plans, const In *__restrict__ resized,              \
                           In *__restrict__ out, int planes, int base_height, int base_width, int height, int width) {                    \
        const CropJob job = jobs[blockIdx.z];                                                                                             \
        const Plan *plan = plans + blockIdx.z;                                                                                            \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x), odd = (int)plan->turns & 1;                                           \
        const int before_height = odd ? width : height, before_width = odd ? height : width;                                              \
        if (x >= width) return;                                                                                                           \
        FOR_ROWS(height) {                                                                                                                \
            const int i = plan->flips & 2 ? height - 1 - y : y, j = plan->flips & 1 ? width - 1 - x : x;                                  \
            const int row = plan->turns == 0 ? i : plan->turns == 1 ? j : plan->turns == 2 ? height - 1 - i : width - 1 - j;              \
            const int column = plan->turns == 0 ? j : plan->turns == 1 ? height - 1 - i : plan->turns == 2 ? width - 1 - j : i;           \
            int pixel[3] = {0, 0, 0};                                                                                                     \
            for (int c = 0; c < planes; ++c)                                                                                              \
                pixel[c] = plan->warped ? warped_##In(&job, plan, c, y, x, base_height, base_width)                                       \
                                        : (int)resized[(((long long)blockIdx.z * planes + c) * before_height + row) * before_width + column]; \
            for (int c = 0; c < planes; ++c)                                                                                              \
                out[(((long long)blockIdx.z * planes + c) * height + y) * width + x] =                                                    \
                    (In)(plan->coloured ? mixed(plan->colour, pixel, c, planes, PRECISION, (1 << BITS) - 1) : pixel[c]);                  \
        }                                                                                                                                 \
    }                                                                                                                                     \
    DEVICE In blurred_##In(const In *line, const long long *weights, int at, int count, long long step) {                                 \
        unsigned total = (1u << 14) + (unsigned)weights[0] * line[at * step];                                                             \
        for (int k = 1; k < 16; ++k) {                                                                                                    \
            const int low = at < k ? 0 : at - k, high = at + k < count ? at + k : count - 1;                                              \
            total += (unsigned)weights[k] * ((unsigned)line[low * step] + line[high * step]);                                             \
        }                                                                                                                                 \
        return (In)(total >> 15);                                                                                                         \
    }                                                                                                                                     \
    KERNEL blur_across_##In(const Plan *__restrict__ plans, const In *__restrict__ in, In *__restrict__ out, int planes, int height,      \
                            int width) {                                                                                                  \
        const long long *weights = plans[blockIdx.z].blur;                                                                                \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                                                       \
        if (x >= width) return;                                                                                                           \
        FOR_ROWS(planes *height) {                                                                                                        \
            const long long line = ((long long)blockIdx.z * planes * height + y) * width;                                                 \
            out[line + x] = weights[1] ? blurred_##In(in + line, weights, x, width, 1) : in[line + x];                                    \
        }                                                                                                                                 \
    }                                                                                                                                     \
    KERNEL blur_down_##In(const Plan *__restrict__ plans, const In *__restrict__ in, In *__restrict__ out, int planes, int height,        \
                          int width) {                                                                                                    \
        const long long *weights = plans[blockIdx.z].blur;                                                                                \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                                                       \
        if (x >= width) return;                                                                                                           \
        FOR_ROWS(planes *height) {                                                                                                        \
            const long long plane = ((long long)blockIdx.z * planes + y / height) * height * width + x, at = (long long)(y % height) * width; \
            out[plane + at] = weights[1] ? blurred_##In(in + plane, weights, y % height, height, width) : in[plane + at];                 \
        }                                                                                                                                 \
    }                                                                                                                                     \
    KERNEL vary_sharpen_##In(const Plan *__restrict__ plans, const In *__restrict__ in, In *__restrict__ out, int planes, int height,     \
                             int width) {                                                                                                 \
        const long long by = plans[blockIdx.z].sharpen;                                                                                   \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                                                       \
        if (x >= width) return;                                                                                                           \
        FOR_ROWS(planes *height) {                                                                                                        \
            const int row = y % height;                                                                                                   \
            const In *value = in + ((long long)blockIdx.z * planes * height + y) * width + x;                                             \
            long long result = *value;                                                                                                    \
            if (by && x > 0 && x < width - 1 && row > 0 && row < height - 1) {                                                            \
                long long around = 4 * result;                                                                                            \
                for (int j = -1; j < 2; ++j)                                                                                              \
                    for (int i = -1; i < 2; ++i) around += value[(long long)j * width + i];                                               \
                result += (by * (13 * result - around) + (1 << 15)) >> 16;                                                                \
            }                                                                                                                             \
            out[((long long)blockIdx.z * planes * height + y) * width + x] = (In)clamped(result, (1 << BITS) - 1);                        \
        }                                                                                                                                 \
    }                                                                                                                                     \
    /* extremes: unsigned [pictures, planes, 2], filled with 0: the largest complement (so the smallest value), and the largest value. */ \
    KERNEL vary_extremes_##In(const In *__restrict__ in, unsigned *__restrict__ extremes, int planes, int height, int width) {            \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                                                       \
        if (x >= width) return;                                                                                                           \
        FOR_ROWS(planes *height) {                                                                                                        \
            const unsigned value = in[((long long)blockIdx.z * planes * height + y) * width + x];                                         \
            unsigned *found = extremes + 2 * ((long long)blockIdx.z * planes + y / height);                                               \
            atomicMax(found, (1u << BITS) - 1u - value);                                                                                  \
            atomicMax(found + 1, value);                                                                                                  \
        }                                                                                                                                 \
    }                                                                                                                                     \
    KERNEL vary_values_##In(const CropJob *__restrict__ jobs, const Plan *__restrict__ plans, const unsigned *__restrict__ extremes,      \
                            const In *__restrict__ in, In *__restrict__ out, int planes, int height, int width) {                         \
        const Plan *plan = plans + blockIdx.z;                                                                                            \
        const long long starts = jobs[blockIdx.z].curve;                                                                                  \
        const In *curve = starts ? (const In *)((const u8 *)jobs + starts) : 0;                                                           \
        const int x = (int)(blockIdx.x * blockDim.x + threadIdx.x), top = (1 << BITS) - 1;                                                \
        if (x >= width) return;                                                                                                           \
        FOR_ROWS(planes *height) {                                                                                                        \
            const int c = y / height, row = y % height;                                                                                   \
            const long long at = ((long long)blockIdx.z * planes * height + y) * width + x;                                               \
            long long value = in[at];                                                                                                     \
            if (plan->autocontrast) {                                                                                                     \
                const unsigned *found = extremes + 2 * ((long long)blockIdx.z * planes + c);                                              \
                const long long low = top - (long long)found[0], high = found[1];                                                         \
                if (high > low) value = (2 * (long long)top * (value - low) + (high - low)) / (2 * (high - low));                         \
            }                                                                                                                             \
            if (curve) value = curve[value];                                                                                              \
            if (plan->noise) {                                                                                                            \
                const long long moved = plan->noise * noise_of(plan->origin, ((unsigned long long)c * height + row) * width + x);         \
                value = clamped(value + ((moved + (1 << 15)) >> 16), top);                                                                \
            }                                                                                                                             \
            const long long *box = plan->erased;                                                                                          \
            if (row >= box[0] && row < box[0] + box[2] && x >= box[1] && x < box[1] + box[3]) value = plan->fill[c];                      \
            out[at] = (In)value;                                                                                                          \
        }                                                                                                                                 \
    }

VARIED(u8, 8, 11)
VARIED(u16, 16, 20)
