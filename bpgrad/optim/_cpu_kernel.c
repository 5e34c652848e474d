/* One BPGrad step on the CPU in two passes over memory: the norm, then the update.
 *
 * Plain C, called through ctypes (_fused.py): nothing of Python or torch is needed to build it.
 * Squares are summed in double, block by block, and the blocks in their order, so that the norm is
 * right for 1e8 float32 elements and does not depend on the number of threads.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 16384     /* elements whose squares are summed by themselves */
#define RUN 32          /* blocks of one tensor that are updated in one go */
#define LANES 32        /* independent sums: enough to hide the latency of an addition */
#define SERIAL 32768    /* fewer elements than this are not worth waking a thread for */

/* The widest vectors of the machine that runs it, not of the one that compiled it. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

typedef uint16_t bfloat16;

static inline float from_bfloat16(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline bfloat16 to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0; /* NaN */
    return (bfloat16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to nearest, ties to even */
}

static inline float same_float(float x) { return x; }
static inline double same_double(double x) { return x; }

/* T: as stored, R: as computed with. */
#define KERNELS(NAME, T, R, LOAD, STORE)                                                           \
    WIDEST static double squares_##NAME(const T *g, const T *w, R decay, int64_t n) {              \
        double lane[LANES] = {0}, sum = 0;                                                         \
        int64_t i = 0;                                                                             \
        if (decay == 0) {                                                                          \
            for (; i + LANES <= n; i += LANES)                                                     \
                for (int k = 0; k < LANES; k++) {                                                  \
                    double x = LOAD(g[i + k]);                                                     \
                    lane[k] += x * x;                                                              \
                }                                                                                  \
        } else {                                                                                   \
            for (; i + LANES <= n; i += LANES)                                                     \
                for (int k = 0; k < LANES; k++) {                                                  \
                    double x = (R)(LOAD(g[i + k]) + decay * LOAD(w[i + k]));                       \
                    lane[k] += x * x;                                                              \
                }                                                                                  \
        }                                                                                          \
        for (; i < n; i++) {                                                                       \
            double x = decay == 0 ? LOAD(g[i]) : (R)(LOAD(g[i]) + decay * LOAD(w[i]));             \
            lane[0] += x * x;                                                                      \
        }                                                                                          \
        for (int k = 0; k < LANES; k++) sum += lane[k];                                            \
        return sum;                                                                                \
    }                                                                                              \
    /* v <- mu v + scale (g + lambda w), w <- w + reach v */                                       \
    WIDEST static void update_##NAME(T *restrict w, const T *restrict g, T *restrict v, R decay,   \
                                     R momentum, R scale, R reach, int64_t n) {                    \
        if (decay == 0) {                                                                          \
            for (int64_t i = 0; i < n; i++) {                                                      \
                v[i] = STORE(momentum * LOAD(v[i]) + scale * LOAD(g[i]));                          \
                w[i] = STORE(LOAD(w[i]) + reach * LOAD(v[i]));                                     \
            }                                                                                      \
        } else {                                                                                   \
            for (int64_t i = 0; i < n; i++) {                                                      \
                v[i] = STORE(momentum * LOAD(v[i]) + scale * (LOAD(g[i]) + decay * LOAD(w[i])));   \
                w[i] = STORE(LOAD(w[i]) + reach * LOAD(v[i]));                                     \
            }                                                                                      \
        }                                                                                          \
    }

KERNELS(float, float, float, same_float, same_float)
KERNELS(double, double, double, same_double, same_double)
KERNELS(bfloat16, bfloat16, float, from_bfloat16, to_bfloat16)

enum { FLOAT, DOUBLE, BFLOAT16 }; /* NUMBER in _fused.py */

/* The layouts below are those of the arrays that _fused.py packs: 8 bytes a field. */
typedef struct {
    int64_t numel, dtype, group;
} tensor_row;

typedef struct {
    double lipschitz, momentum, weight_decay; /* lipschitz 0: the estimate */
} group_row;

typedef struct {
    const double *lr;
    double *step_size;
} group_scalars;

typedef struct {
    const double *loss;
    double *f_min, *grad_norm, *max_grad_norm, *lipschitz_estimate;
    int64_t *step, *skipped_steps, *negative_losses, *exceeded_steps;
} global_scalars;

typedef struct {
    char *param, *grad, *velocity; /* of its whole tensor */
    int64_t start, count, dtype, group;
} block;

static double block_squares(const block *b, double decay) {
    switch (b->dtype) {
#define CASE(KIND, NAME, T)                                                                        \
    case KIND:                                                                                     \
        return squares_##NAME((const T *)b->grad + b->start, (const T *)b->param + b->start,       \
                              decay, b->count);
        CASE(FLOAT, float, float)
        CASE(DOUBLE, double, double)
        CASE(BFLOAT16, bfloat16, bfloat16)
#undef CASE
    }
    return NAN;
}

static void block_update(const block *b, const group_row *group, double scale, double reach) {
    /* Over a subnormal norm the scale would be infinite in float. */
    if (b->dtype != DOUBLE) scale = fmax(scale, -3.4028234663852886e38);
    switch (b->dtype) {
#define CASE(KIND, NAME, T, R)                                                                     \
    case KIND:                                                                                     \
        update_##NAME((T *)b->param + b->start, (const T *)b->grad + b->start,                     \
                      (T *)b->velocity + b->start, (R)group->weight_decay, (R)group->momentum,     \
                      (R)scale, (R)reach, b->count);                                               \
        break;
        CASE(FLOAT, float, float, float)
        CASE(DOUBLE, double, double, double)
        CASE(BFLOAT16, bfloat16, bfloat16, float)
#undef CASE
    }
}

/* Blocks [*first, *last) are this thread's, in both passes: they are in its cache. */
static void share(int64_t blocks, int64_t *first, int64_t *last) {
    int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    *first = blocks * thread / threads;
    *last = blocks * (thread + 1) / threads;
}

/* The scalars of the step; 0 if it is to be skipped. */
static int take_scalars(double norm, int64_t groups, const group_row *group,
                        const group_scalars *scalars, const global_scalars *global, double rho,
                        double margin, double memory) {
    double f = *global->loss;
    if (!(fabs(f) + norm < INFINITY)) { /* a NaN compares as false */
        ++*global->skipped_steps;
        return 0;
    }
    *global->f_min = fmin(*global->f_min, f);
    *global->grad_norm = norm;
    *global->max_grad_norm = fmax(*global->max_grad_norm, norm);
    double estimate = fmax(margin * norm, memory * *global->lipschitz_estimate);
    *global->lipschitz_estimate = estimate;
    ++*global->step;
    *global->negative_losses += f < 0;
    double gap = fmax(f - rho * *global->f_min, 0), smallest = INFINITY;
    for (int64_t k = 0; k < groups; k++) {
        double lipschitz = group[k].lipschitz > 0 ? group[k].lipschitz : estimate;
        *scalars[k].step_size = lipschitz > 0 ? gap * *scalars[k].lr / lipschitz : 0;
        smallest = fmin(smallest, lipschitz);
    }
    *global->exceeded_steps += norm > smallest;
    return 1;
}

/* Returns 0, or 1 where there is no memory for the list of blocks. The addresses are those of all
 * parameters, of all gradients, of all velocities. The number in the name goes up whenever the
 * arguments change, so that a library that was built before is not called. */
int bpgrad_step_3(int64_t tensors, const tensor_row *tensor, char *const *address, int64_t groups,
                  const group_row *group, const group_scalars *scalars,
                  const global_scalars *global, double rho, double margin, double memory,
                  int64_t paper) {
    int64_t blocks = 0, elements = 0;
    for (int64_t t = 0; t < tensors; t++) {
        blocks += (tensor[t].numel + BLOCK - 1) / BLOCK;
        elements += tensor[t].numel;
    }
    block *list = malloc((size_t)(blocks + 1) * sizeof *list);
    double *partial = malloc((size_t)(blocks + 1) * sizeof *partial);
    if (!list || !partial) {
        free(list);
        free(partial);
        return 1;
    }
    int64_t filled = 0;
    for (int64_t t = 0; t < tensors; t++)
        for (int64_t start = 0; start < tensor[t].numel; start += BLOCK) {
            int64_t left = tensor[t].numel - start;
            list[filled++] = (block){
                address[t],   address[tensors + t],       address[2 * tensors + t],
                start,        left < BLOCK ? left : BLOCK, tensor[t].dtype,
                tensor[t].group,
            };
        }

    double norm = 0;
    int skipped = 0;
#pragma omp parallel if (elements > SERIAL)
    {
        int64_t first, last;
        share(blocks, &first, &last);
        for (int64_t b = first; b < last; b++) {
            double decay = paper ? group[list[b].group].weight_decay : 0;
            partial[b] = block_squares(&list[b], decay);
        }
#pragma omp barrier
#pragma omp single
        {
            for (int64_t b = 0; b < blocks; b++) norm += partial[b];
            norm = sqrt(norm);
            skipped = !take_scalars(norm, groups, group, scalars, global, rho, margin, memory);
        } /* and here the threads wait for each other again */
        /* Last run first: what the norm has read last is still in the cache. But upwards within a
         * run, and runs are long, since that is how the processor reads ahead. */
        for (int64_t end = last, b; end > first && !skipped; end = b) {
            b = end - 1;
            block run = list[b];
            while (b > first && run.start > 0 && end - b < RUN) {
                run.start = list[--b].start;
                run.count += list[b].count;
            }
            double eta = *scalars[run.group].step_size;
            double scale = norm > 0 ? -(paper ? eta : 1) / norm : 0; /* d = 0 for a zero norm */
            block_update(&run, &group[run.group], scale, paper ? 1 : eta);
        }
    }
    free(list);
    free(partial);
    return 0;
}
