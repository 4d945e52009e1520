/* The kernels of portable.cu as functions of a shared object. */
#include "cuda_on_cpu.h"
#include "portable.cu"
#include "varied.cu"

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

#define PLANNED(In)                                                                                                              \
    void run_crop_across_##In(const unsigned *grid, const void *jobs, const void *plans, const void *tables, void *between,      \
                              int planes, int base_height, int base_width) {                                                     \
        LAUNCH(grid, crop_across_##In(jobs, plans, tables, between, planes, base_height, base_width));                           \
    }                                                                                                                            \
    void run_crop_down_##In(const unsigned *grid, const void *jobs, const void *tables, const void *between, void *out,          \
                            int planes) {                                                                                        \
        LAUNCH(grid, crop_down_##In(jobs, tables, between, out, planes));                                                        \
    }                                                                                                                            \
    void run_vary_place_##In(const unsigned *grid, const void *jobs, const void *plans, const void *resized, void *out,          \
                             int planes, int base_height, int base_width, int height, int width) {                               \
        LAUNCH(grid, vary_place_##In(jobs, plans, resized, out, planes, base_height, base_width, height, width));                \
    }                                                                                                                            \
    void run_blur_across_##In(const unsigned *grid, const void *plans, const void *in, void *out, int planes, int height,        \
                              int width) {                                                                                       \
        LAUNCH(grid, blur_across_##In(plans, in, out, planes, height, width));                                                   \
    }                                                                                                                            \
    void run_blur_down_##In(const unsigned *grid, const void *plans, const void *in, void *out, int planes, int height,          \
                            int width) {                                                                                         \
        LAUNCH(grid, blur_down_##In(plans, in, out, planes, height, width));                                                     \
    }                                                                                                                            \
    void run_vary_sharpen_##In(const unsigned *grid, const void *plans, const void *in, void *out, int planes, int height,       \
                               int width) {                                                                                      \
        LAUNCH(grid, vary_sharpen_##In(plans, in, out, planes, height, width));                                                  \
    }                                                                                                                            \
    void run_vary_extremes_##In(const unsigned *grid, const void *in, void *extremes, int planes, int height, int width) {       \
        LAUNCH(grid, vary_extremes_##In(in, extremes, planes, height, width));                                                   \
    }                                                                                                                            \
    void run_vary_values_##In(const unsigned *grid, const void *jobs, const void *plans, const void *extremes, const void *in,   \
                              void *out, int planes, int height, int width) {                                                    \
        LAUNCH(grid, vary_values_##In(jobs, plans, extremes, in, out, planes, height, width));                                   \
    }
PLANNED(u8)
PLANNED(u16)

unsigned size_of_plan(void) { return sizeof(Plan); }
unsigned size_of_crop_job(void) { return sizeof(CropJob); }
