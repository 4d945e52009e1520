/* Lets gcc compile portable.cu: threads and blocks as loops, PTX and intrinsics as C. Compile with -ffp-contract=off. */
#include <string.h>

#define KERNEL static void
#define DEVICE static inline

typedef struct {
    unsigned x, y, z;
} Dim3;

static _Thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline float subtracted(float a, float b) { return a - b; }
static inline float multiplied(float a, float b) { return a * b; }
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline unsigned atomicMax(unsigned *address, unsigned value) {
    const unsigned before = *address;
    if (value > before) *address = value;
    return before;
}

/* Runs `call` once for every thread of `grid`: {columns, rows, pictures, threads across, threads down}. */
#define LAUNCH(grid, call)                                                                     \
    do {                                                                                       \
        gridDim = (Dim3){grid[0], grid[1], grid[2]}, blockDim = (Dim3){grid[3], grid[4], 1};   \
        for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)                             \
            for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)                         \
                for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)                     \
                    for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)             \
                        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) call;   \
    } while (0)
