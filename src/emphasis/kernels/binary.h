/* One logit for two classes. See rows.c. */
#include "soft.h"

enum { NEAR_CELLS = 16 };
static const double NEAR_REACH = 15.0;

#if !defined(REAL_IS_DOUBLE) && VECTOR_BYTES >= 32
static inline Lanes at_near_cell(const float *numbers, Flags cell, Flags is_negative) {
#if VECTOR_BYTES == 64
    (void)is_negative; /* which the fourth bit of the cell is */
    return _mm512_permutexvar_ps((__m512i)cell, get(numbers));
#else
    return choose(is_negative, at_cell(numbers + 8, cell), at_cell(numbers, cell));
#endif
}

static inline Lanes near_polynomial(const float *rows, int last, Flags cell, Flags is_negative, Lanes x) {
    Lanes value = at_near_cell(rows + COMPACT_TERMS * NEAR_CELLS - NEAR_CELLS, cell, is_negative);
    for (int k = COMPACT_TERMS - 2; k >= last; k--)
        value = value * x + at_near_cell(rows + k * NEAR_CELLS, cell, is_negative);
    return value;
}

/* Weights and losses of margins, in float, if the table for margins that are not large serves. The arrays are filled up
 * to a multiple of LANES. Return whether it does. */
static int look_up_near(const float *table, int64_t n, const REAL *margin, REAL *weight, REAL *loss) {
    Flags far = {0};
    for (int64_t t = 0; t < n; t += LANES) {
        Lanes u = get(margin + t), size = larger(u, -u), number = size + 1.0f;
        Flags is_negative = u < 0, cell = ((((Flags)number >> 22) - 254) & 7) | (is_negative & 8);
        Lanes x = 2.0f * (Lanes)((((Flags)number << 1) & 0x007fffff) | 0x3f800000) - 3.0f;
        Lanes rise = x * near_polynomial(table, 1, cell, is_negative, x);
        far |= size >= (REAL)NEAR_REACH;
        put(at_near_cell(table, cell, is_negative) * exp_of(rise), weight + t);
        put(near_polynomial(table + COMPACT_TERMS * NEAR_CELLS, 0, cell, is_negative, x), loss + t);
    }
    return !any(far);
}
#else
static int look_up_near(const float *table, int64_t n, const REAL *margin, REAL *weight, REAL *loss) {
    (void)table, (void)n, (void)margin, (void)weight, (void)loss;
    return 0;
}
#endif

/* The same as `weighted_margins`, from the smaller table if possible. */
static void weighted_logits(const Job *job, int64_t first, int64_t n, const REAL *u, const double *factor, REAL *half,
                            double *value) {
    REAL weight[SPAN], loss[SPAN];
    double margin[SPAN];
    for (int64_t t = 0; t < n; t++) margin[t] = (double)u[t];
    if (!job->compact || job->exponents || !look_up_near(job->compact, n, u, weight, loss)) {
        weighted_margins(job, first, n, margin, margin, factor, half, value);
        return;
    }
    const double scale = 0.5 * job->scale, loss_scale = job->loss_scale, max_margin = job->table[1];
    const double end = end_of(job->table);
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        int ends = margin[t] > max_margin;
        half[t] = (REAL)(scale * factor[t] * (ends ? 0.0 : (double)weight[t]));
        value[t] = loss_scale * factor[t] * (ends ? end : (double)loss[t]);
    }
}

static void statistics_of_logits(const Job *job, int64_t first, int64_t n, const REAL *u, const REAL *sign,
                                 const double *factor) {
    const Statistics *statistics = job->statistics;
    for (int64_t t = 0; t < n; t++) { /* p_max - p of the less probable class, times its target probability */
        double margin = (double)u[t];
        statistics->share[first + t] += factor[t];
        if (margin < 0.0) statistics->doubt[first + t] += factor[t] * -tanh(0.5 * margin);
        statistics->top[first + t] = (margin > 0.0) == (sign[t] > 0);
        statistics->rest[first + t] = exp_of_double(-log_one_plus_exp(margin) - fabs(margin));
    }
}

/* sign := 1 for class 1, -1 for class 0, 0 for ignored examples; factor *= the probability of the class, for `targets`. */
static void signs_of(const Job *job, int64_t first, int64_t n, REAL side, REAL *sign, double *factor) {
    if (job->labels) {
        const int64_t *labels = job->labels + first, ignored = job->ignore_index;
#pragma omp simd
        for (int64_t t = 0; t < n; t++) sign[t] = labels[t] == ignored ? (REAL)0 : labels[t] == 1 ? (REAL)1 : (REAL)-1;
        return;
    }
    const REAL *one = (const REAL *)job->targets + first;
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        sign[t] = side;
        factor[t] *= side > 0 ? (double)one[t] : 1.0 - (double)one[t];
    }
}

/* One logit z of two classes with margins z and -z: dz = -t w(z) / 2 + (1-t) w(-z) / 2. */
static int binary(const Job *job, int64_t first, int64_t n, REAL *z, int64_t *where) {
    const double *weights = job->class_weight, of_zero = weights ? weights[0] : 1.0, of_one = weights ? weights[1] : 1.0;
    double factor[SPAN], value[SPAN], sum[SPAN] = {0};
    REAL half[SPAN], gradient[SPAN] = {0}, margin[SPAN] = {0}, sign[SPAN];
    load(job->logits, first, n, job->dtype, z);
    if (job->statistics)
        memset(job->statistics->doubt + first, 0, n * sizeof(double)), memset(job->statistics->share + first, 0, n * sizeof(double));
    for (int side = job->labels ? 1 : -1; side <= 1; side += 2) { /* class labels need one pass, probabilities two */
        REAL odd = 0;
        double needed = 0.0;
        factors_of(job, first, n, factor);
        signs_of(job, first, n, (REAL)side, sign, factor);
#pragma omp simd reduction(+ : odd, needed)
        for (int64_t t = 0; t < n; t++) {
            factor[t] *= sign[t] > 0 ? of_one : sign[t] < 0 ? of_zero : 0.0;
            margin[t] = sign[t] == 0 ? 0 : sign[t] * z[t];
            odd += margin[t] * 0;
            needed += factor[t];
        }
        if (odd != 0) {
            for (*where = first; margin[*where - first] * 0 == 0;) ++*where;
            return NOT_FINITE;
        }
        if (needed == 0.0) continue;
        if (job->statistics) {
            statistics_of_logits(job, first, n, margin, sign, factor);
            continue;
        }
        weighted_logits(job, first, n, margin, factor, half, value);
#pragma omp simd
        for (int64_t t = 0; t < n; t++) {
            gradient[t] -= sign[t] * half[t];
            sum[t] += value[t];
        }
    }
    if (job->statistics) return OK;
    memcpy(job->value + first, sum, n * sizeof(double));
    if (job->out) store(gradient, n, job->dtype, job->out, first);
    return OK;
}

static int one_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where) {
    if (job->binary) return binary(job, first, count, scratch, where);
    if (job->targets) return soft_rows(job, first, count, scratch, sums, where);
    return job->inner > 1 ? tile(job, first, scratch, sums, where) : group(job, first, count, scratch, sums, where);
}
