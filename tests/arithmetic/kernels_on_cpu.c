/* The kernels of portable.cu as functions of a shared object. */
#include "cuda_on_cpu.h"
#include "portable.cu"

void run_resize_across(const unsigned *grid, const void *jobs, const void *tables, void *between, int channels, int gray) {
    LAUNCH(grid, resize_across(jobs, tables, between, channels, gray));
}

#define DOWN(name)                                                                                                              \
    void run_##name(const unsigned *grid, const void *jobs, const void *tables, const void *between, void *out, int planes,     \
                    int height, int width, const void *m, const void *inv) {                                                    \
        LAUNCH(grid, name(jobs, tables, between, out, planes, height, width, m, inv));                                          \
    }
DOWN(resize_down_u8)
DOWN(resize_down_f32)
DOWN(resize_down_f16)

#define END(name)                                                                                                                \
    void run_##name(const unsigned *grid, const void *jobs, void *out, int planes, int height, int width, const void *m,        \
                    const void *inv) {                                                                                          \
        LAUNCH(grid, name(jobs, out, planes, height, width, m, inv));                                                           \
    }
END(finish_u8_u8)
END(finish_u8_f32)
END(finish_u8_f16)
END(finish_u16_u16)
END(finish_u16_f32)
END(finish_u16_f16)

unsigned size_of_resize_job(void) { return sizeof(ResizeJob); }
unsigned size_of_finish_job(void) { return sizeof(FinishJob); }
void half_of(const float *x, u16 *y, long n) {
    for (long i = 0; i < n; ++i) y[i] = half_bits(x[i]);
}
