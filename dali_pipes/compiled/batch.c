/* A batch that threads write while the interpreter goes on: dp_begin starts them, dp_wait waits for them. Each takes the next picture until
   none is left, so that a thread that is held up holds up nothing but its picture. writing.py calls these; whoever calls dp_begin keeps all
   that it was given until dp_wait has returned. Without POSIX threads there is nothing here, and Python's threads do the work. */

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define PASS(name, Out, In, ...) \
    void name(Out *const *out, const In *const *in, const uint8_t *flips, size_t pictures, size_t planes, size_t height, size_t width, ##__VA_ARGS__)
PASS(dp_copy_u8, uint8_t, uint8_t);
PASS(dp_copy_u16, uint16_t, uint16_t);
PASS(dp_normalise_u8, float, uint8_t, const float *m, const float *inv);
PASS(dp_normalise_u16, float, uint16_t, const float *m, const float *inv);

typedef struct {
    int wide; /* 16 bits */
    void *const *out;
    const void *const *in;
    const uint8_t *flips;
    size_t pictures, planes, height, width;
    const float *m, *inv; /* NULL where pictures are copied */
    atomic_size_t next, left;
    size_t threads;
    pthread_t thread[];
} batch;

static void write_one(const batch *b, size_t i) {
    void *const *out = b->out + i;
    const void *const *in = b->in + i;
    if (b->m && b->wide)
        dp_normalise_u16((float *const *)out, (const uint16_t *const *)in, b->flips + i, 1, b->planes, b->height, b->width, b->m, b->inv);
    else if (b->m)
        dp_normalise_u8((float *const *)out, (const uint8_t *const *)in, b->flips + i, 1, b->planes, b->height, b->width, b->m, b->inv);
    else if (b->wide)
        dp_copy_u16((uint16_t *const *)out, (const uint16_t *const *)in, b->flips + i, 1, b->planes, b->height, b->width);
    else
        dp_copy_u8((uint8_t *const *)out, (const uint8_t *const *)in, b->flips + i, 1, b->planes, b->height, b->width);
}

static void *work(void *given) {
    batch *b = given;
    for (size_t i; (i = atomic_fetch_add(&b->next, 1)) < b->pictures;) {
        write_one(b, i);
        atomic_fetch_sub(&b->left, 1);
    }
    return NULL;
}

/* NULL where no thread can be had. With 0 threads everything is written when this returns. */
void *dp_begin(int wide, void *const *out, const void *const *in, const uint8_t *flips, size_t pictures, size_t planes, size_t height,
               size_t width, const float *m, const float *inv, size_t threads) {
    batch *b = malloc(sizeof(batch) + threads * sizeof(pthread_t));
    if (!b) return NULL;
    *b = (batch){.wide = wide, .out = out, .in = in, .flips = flips, .pictures = pictures, .planes = planes, .height = height,
                 .width = width, .m = m, .inv = inv};
    atomic_init(&b->next, 0);
    atomic_init(&b->left, pictures);
    while (b->threads < threads && !pthread_create(&b->thread[b->threads], NULL, work, b)) b->threads++;
    if (!threads) work(b);
    if (threads && !b->threads) {
        free(b);
        return NULL;
    }
    return b;
}

/* Whether dp_wait would not wait. */
int dp_done(batch *b) { return !atomic_load(&b->left); }

void dp_wait(batch *b) {
    for (size_t i = 0; i < b->threads; ++i) pthread_join(b->thread[i], NULL);
    free(b);
}

#else
typedef int nothing; /* a file may not be empty */
#endif
