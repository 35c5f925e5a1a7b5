/* Rows of probabilities t_k instead of labels. See rows.c.
 *
 * With rho = w / (2 (1-p)) of each class, the derivative is dz_j = p_j sum_k t_k rho_k - t_j rho_j. The most probable
 * class, whose 1-p may be too small to divide by, is treated separately. With the softmax q over the other classes and
 * the sum S of t rho over them,
 *     dz_j = q_j ((1-p_top) S + t_top w_top / 2) - t_j rho_j,    dz_top = p_top S - t_top w_top / 2.
 */
#include "tiles.h"

enum { COMPACT_TERMS = 11, COMPACT_CELLS = 8 };
static const double COMPACT_REACH = 127.0, LOG_2 = 0.6931471805599453;

typedef struct {
    const Job *job;
    const REAL *x, *t, *e;        /* logits, probabilities, and exp(z - peak) of the other classes, 0 for the top class */
    int64_t top;                  /* the most probable class */
    REAL peak, exponent;          /* largest logit of the other classes; exponent of p / p_max, which rho is multiplied by */
    double log_p_of_peak, p_of_e; /* log p of the class at the peak; p / e */
} Row;

/* Sums over the classes of a row, in units of e^unit: of t rho of the other classes, and of t w and t w times the loss of
 * all classes; the latter is the sum of t times the loss where weights are not shares of a batch. */
typedef struct {
    double unit, rho, weight, value;
} RowSums;

static inline Lanes block(const REAL *x, int64_t start, int64_t classes, REAL other) {
    return classes - start < LANES ? get_some(x + start, (int)(classes - start), other) : get(x + start);
}

static inline void put_block(Lanes lanes, int64_t start, int64_t classes, REAL *x) {
    if (classes - start < LANES)
        put_some(lanes, (int)(classes - start), x + start);
    else
        put(lanes, x + start);
}

/* The probabilities times the weights of the classes; 0 for the top class. */
static inline Lanes weighted_targets(const Row *row, int64_t start) {
    const Job *job = row->job;
    Lanes t = block(row->t, start, job->classes, 0);
    if (start <= row->top && row->top < start + LANES)
        t = choose(places() == (INTEGER)(row->top - start), (Lanes){0}, t);
    if (!job->class_weight) return t;
    REAL weights[LANES] = {0};
    for (int k = 0; k < LANES && start + k < job->classes; k++) weights[k] = (REAL)job->class_weight[start + k];
    return t * get(weights);
}

#ifndef REAL_IS_DOUBLE
static inline Lanes at_cell(const float *numbers, Flags cell) { /* the coefficients of all cells fit into a register */
#if VECTOR_BYTES == 64
    return _mm512_permutexvar_ps((__m512i)cell, _mm512_broadcast_f32x8(_mm256_loadu_ps(numbers)));
#elif VECTOR_BYTES == 32
    return _mm256_permutevar8x32_ps(get(numbers), (__m256i)cell);
#else
    Lanes found;
    for (int k = 0; k < LANES; k++) found[k] = numbers[cell[k]];
    return found;
#endif
}

static inline Lanes polynomial(const float *rows, Flags cell, Lanes x) {
    Lanes value = at_cell(rows + (COMPACT_TERMS - 1) * COMPACT_CELLS, cell);
    for (int k = COMPACT_TERMS - 2; k >= 0; k--) value = value * x + at_cell(rows + k * COMPACT_CELLS, cell);
    return value;
}
#endif

/* The same as `look_up_block` without the power, class by class. */
static __attribute__((noinline)) void look_up_each(const Row *row, int64_t start, const Flags *counts, Lanes *log_rho,
                                                   Lanes *loss) {
    const Job *job = row->job;
    *log_rho = *loss = (Lanes){0};
    for (int k = 0; k < LANES && start + k < job->classes; k++) {
        if (!(*counts)[k]) continue;
        double p = (double)row->e[start + k] * row->p_of_e, log_q = log1p(-(p < 0.5 ? p : 0.5)), log_w, value, at;
        double log_p = (double)row->x[start + k] - (double)row->peak + row->log_p_of_peak, margin = log_p - log_q;
        int32_t cell;
        look_up(job->table, 1, &margin, &log_w, &value, &cell, &at);
        (*log_rho)[k] = (REAL)(log_w - LOG_2 - log_q);
        (*loss)[k] = (REAL)(job->batch ? -log_p : value);
    }
}

/* What is the same for all blocks of a row, in registers: a write to memory might change what `Row` points to. */
typedef struct {
    const float *compact; /* NULL if it does not serve */
    Lanes peak, log_p;    /* logit and log p of the class at the peak; the first is subtracted first, which is exact */
    int64_t classes;
    int batch;
} Constants;

static inline Constants constants_of(const Row *row) {
    const Job *job = row->job;
    return (Constants){job->compact && job->table[1] >= 0.0 ? job->compact : NULL,
                       all(row->peak), all((REAL)row->log_p_of_peak), job->classes, job->batch};
}

/* log rho, times (p / p_max)^exponent, and the losses of the classes that count, from `start` on, without the top class. */
static inline void look_up_block(const Row *row, Constants of, const REAL *x, int64_t start, Flags counts,
                                 Lanes *log_rho, Lanes *loss) {
    int done = 0;
#ifndef REAL_IS_DOUBLE
    Lanes log_p = block(x, start, of.classes, 0) - of.peak + of.log_p;
    if (of.compact && !any(counts & (log_p < (REAL)-COMPACT_REACH))) {
        Lanes number = larger((REAL)(1.0 - 2.0 * LOG_2) - 2.0f * log_p, all(1.0f));
        Flags cell = (((Flags)number >> 23) - 127) & (COMPACT_CELLS - 1); /* arbitrary for classes that do not count */
        Lanes place = 2.0f * (Lanes)(((Flags)number & 0x007fffff) | 0x3f800000) - 3.0f;
        *log_rho = polynomial(of.compact, cell, place);
        *loss = of.batch ? -log_p : polynomial(of.compact + COMPACT_TERMS * COMPACT_CELLS, cell, place);
        done = 1;
    }
#endif
    if (!done) look_up_each(row, start, &counts, log_rho, loss);
    if (row->exponent == 0) return;
    Lanes trust = row->exponent * (block(x, start, of.classes, x[row->top]) - x[row->top]);
    *log_rho += trust;
    if (!of.batch) *loss *= exp_of(trust);
}

/* t_rho := t rho of the other classes. */
static void sums_of_row(const Row *row, REAL *t_rho, RowSums *sums) {
    const Constants of = constants_of(row);
    const REAL *x = row->x;
    for (int64_t span = 0; span < of.classes; span += LONG) {
        int64_t end = of.classes - span < LONG ? of.classes : span + LONG;
        Lanes rho = {0}, value = {0};
        for (int64_t start = span; start < end; start += LANES) {
            Lanes t = weighted_targets(row, start), terms = {0};
            Flags counts = t != 0;
            if (any(counts)) {
                Lanes log_rho, loss;
                look_up_block(row, of, x, start, counts, &log_rho, &loss);
                terms = choose(counts, t * exp_of(log_rho), terms);
                rho += terms;
                value += choose(counts, t * loss, (Lanes){0});
            }
            put_block(terms, start, of.classes, t_rho);
        }
        sums->rho += total(rho);
        sums->value += total(value);
    }
}

/* The same for shares of a batch, whose weights may be of any size. */
static void sums_of_shares(const Row *row, REAL *t_rho, double log_of_top, RowSums *sums) {
    const Constants of = constants_of(row);
    const REAL *x = row->x, *e = row->e;
    const Lanes p_of_e = all((REAL)row->p_of_e);
    Lanes most = all(-INFINITY);
    for (int64_t start = 0; start < of.classes; start += LANES) {
        Flags counts = weighted_targets(row, start) != 0;
        Lanes found = all(-INFINITY), loss;
        if (any(counts)) {
            look_up_block(row, of, x, start, counts, &found, &loss);
            found = choose(counts, found, all(-INFINITY));
            most = larger(found, most);
        }
        put_block(found, start, of.classes, t_rho);
    }
    double peak = largest(most);
    sums->unit = peak = peak > log_of_top ? peak : log_of_top;
    for (int64_t span = 0; span < of.classes; span += LONG) {
        int64_t end = of.classes - span < LONG ? of.classes : span + LONG;
        Lanes rho = {0}, weight = {0}, value = {0};
        for (int64_t start = span; start < end; start += LANES) {
            Lanes log_rho = block(t_rho, start, of.classes, -INFINITY), terms = {0};
            if (peak > -INFINITY) terms = weighted_targets(row, start) * exp_of(log_rho - (REAL)peak);
            Lanes share = 2 * terms * (1 - block(e, start, of.classes, 0) * p_of_e);
            Lanes log_p = block(x, start, of.classes, 0) - of.peak + of.log_p;
            put_block(terms, start, of.classes, t_rho);
            rho += terms, weight += share, value -= share * log_p;
        }
        sums->rho += total(rho), sums->weight += total(weight), sums->value += total(value);
    }
}

/* The sum of the probabilities of a row, without and with the weights of classes; NaN if they are not probabilities. */
static double sum_of_targets(const Job *job, int64_t at, double *weighted) {
    const int64_t classes = job->classes;
    Row row = {.job = job, .t = (const REAL *)job->targets + at * classes, .top = -LANES};
    const REAL limit = (REAL)(1.0 + 1e-3);
    Lanes beyond = all(-limit); /* greater than 0 where t < 0 or t > limit; sums are NaN or infinite where t is */
    double sum = 0.0;
    *weighted = 0.0;
    for (int64_t span = 0; span < classes; span += LONG / 16) {
        int64_t end = classes - span < LONG / 16 ? classes : span + LONG / 16, start = span;
        Lanes sums = {0}, others = {0}, sums_weighted = {0};
        for (; start + 2 * LANES <= end; start += 2 * LANES) {
            Lanes a = get(row.t + start), b = get(row.t + start + LANES);
            sums += a, others += b;
            beyond = larger(larger(larger(-a, a - limit), larger(-b, b - limit)), beyond);
        }
        for (; start < end; start += LANES) {
            Lanes a = block(row.t, start, classes, 0);
            sums += a;
            beyond = larger(larger(-a, a - limit), beyond);
        }
        if (job->class_weight)
            for (start = span; start < end; start += LANES) sums_weighted += weighted_targets(&row, start);
        sum += total(sums + others);
        *weighted += total(sums_weighted);
    }
    if (!job->class_weight) *weighted = sum;
    return largest(beyond) <= 0 ? sum : NAN;
}

/* The sum over classes of t (p_max - p). */
static double doubt_of(const Row *row, double p_max) {
    double sum = 0.0;
    for (int64_t start = 0; start < row->job->classes; start += LANES) {
        Lanes p = block(row->e, start, row->job->classes, 0) * (REAL)row->p_of_e;
        sum += total(weighted_targets(row, start) * ((REAL)p_max - p));
    }
    return sum;
}

/* top := the index of the largest number, *second := the largest of the others. Return whether all are finite. */
static inline int two_largest(const REAL *x, int64_t n, int64_t *top, REAL *second) {
    Lanes a = all(-INFINITY), b = a, c = a, d = a, odd = {0}; /* a and b, and c and d: the largest two of some blocks */
    int64_t start = 0;
    for (; start + 2 * LANES <= n; start += 2 * LANES) {
        Lanes p = get(x + start), q = get(x + start + LANES);
        b = larger(smaller(a, p), b), a = larger(p, a);
        d = larger(smaller(c, q), d), c = larger(q, c);
        odd += p * 0 + q * 0;
    }
    for (; start < n; start += LANES) {
        int rest = n - start < LANES ? (int)(n - start) : LANES;
        Lanes p = block(x, start, n, 0);
        odd += p * 0;
        p = choose(places() < (INTEGER)rest, p, all(-INFINITY));
        b = larger(smaller(a, p), b), a = larger(p, a);
    }
    b = larger(larger(b, d), smaller(a, c)), a = larger(a, c);
    *top = index_of(x, n, largest(a));
    *second = largest(choose(places() == (INTEGER)(*top % LANES), b, a));
    return total(odd) == 0;
}

/* What is computed once for each row of a step, in double. */
typedef struct {
    double lead[SPAN], margin[SPAN], log_p[SPAN], p[SPAN], q[SPAN], log_w[SPAN], loss[SPAN], factor[SPAN];
    int64_t top[SPAN];
} Tops;

static void find_weights_of_tops(const Job *job, int64_t first, int64_t n, const Examples *of, Tops *tops) {
    double x[SPAN];
    int32_t cell[SPAN];
    for (int64_t t = 0; t < n; t++) x[t] = of->sum[t];
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        double log_sum = log_of(x[t]), margin = tops->lead[t] - log_sum;
        double log_p = -log_one_plus_exp(margin) + (margin < 0.0 ? margin : 0.0), log_q = log_p - margin;
        tops->margin[t] = margin, tops->log_p[t] = log_p, tops->p[t] = exp_of_double(log_p);
        tops->q[t] = log_q < -700.0 ? 0.0 : exp_of_double(log_q);
        tops->lead[t] = log_q - log_sum; /* from here on, log p of the class at the peak */
    }
    look_up(job->table, n, tops->margin, tops->log_w, tops->loss, cell, x);
    factors_of(job, first, n, tops->factor);
}

static void store_statistics_of_row(const Row *row, int64_t at, double factor, double p, double q, REAL *of_step) {
    const Statistics *statistics = row->job->statistics;
    double weighted;
    sum_of_targets(row->job, at, &weighted);
    statistics->share[at] = factor * weighted, statistics->doubt[at] = factor * doubt_of(row, p);
    statistics->rest[at] = q, statistics->top[at] = (int32_t)row->top;
    add_row(row->e, (REAL)(statistics->share[at] * row->p_of_e), row->job->classes, of_step);
}

/* The loss of a row, and its derivative in place of e. For shares of a batch, both are divided by the weight of the row,
 * whose log is written; the derivative is multiplied by `half`, which is the share, if that is known. */
static void loss_of_row(const Row *row, int64_t at, const Tops *tops, int64_t t, REAL sum, REAL *t_rho, REAL *e) {
    const Job *job = row->job;
    double t_top = (double)row->t[row->top] * (job->class_weight ? job->class_weight[row->top] : 1.0), scale, weight;
    RowSums sums = {0};
    if (job->batch) {
        sums_of_shares(row, t_rho, t_top > 0.0 ? tops->log_w[t] + log(t_top) : -INFINITY, &sums);
        double log_of_top = tops->log_w[t] - sums.unit;
        weight = t_top > 0.0 && log_of_top > -700.0 ? t_top * exp_of_double(log_of_top) : 0.0;
        sums.weight += weight, sums.value -= weight * tops->log_p[t];
        scale = sums.weight > 0.0 ? 1.0 / sums.weight : 0.0;
        if (job->log_w) job->log_w[at] = sums.weight > 0.0 ? sums.unit + log(sums.weight) : -INFINITY;
        if (job->value) job->value[at] = sums.value * scale;
        if (job->half) scale *= ((const REAL *)job->half)[at];
    } else {
        double factor = tops->factor[t];
        sums_of_row(row, t_rho, &sums);
        scale = job->scale * factor;
        weight = tops->log_w[t] < -700.0 ? 0.0 : t_top * exp_of_double(tops->log_w[t]);
        if (t_top > 0.0) sums.value += t_top * tops->loss[t];
        job->value[at] = factor == 0.0 ? 0.0 : job->loss_scale * factor * sums.value;
    }
    if (!job->out) return;
    REAL share = (REAL)(scale * (tops->q[t] * sums.rho + 0.5 * weight) / (double)sum), by = (REAL)scale;
    int64_t start = 0;
    for (; start + LANES <= job->classes; start += LANES) put(get(e + start) * share - get(t_rho + start) * by, e + start);
    if (start < job->classes)
        put_block(block(e, start, job->classes, 0) * share - block(t_rho, start, job->classes, 0) * by, start, job->classes, e);
    e[row->top] = (REAL)(scale * (tops->p[t] * sums.rho - 0.5 * weight));
}

static int soft_rows(const Job *job, int64_t first, int64_t count, REAL *scratch, double *sums, int64_t *where) {
    int64_t classes = job->classes;
    int plain = is_plain(job), keeps = plain && job->out;
    REAL *out = (REAL *)job->out + first * classes, *t_rho = scratch, *exps = keeps ? out : scratch + classes;
    if (job->half && plain) { /* the derivatives of all rows by themselves have been written */
        for (int64_t t = 0; t < count; t++) multiply(out + t * classes, classes, ((const REAL *)job->half)[first + t]);
        return OK;
    }
    REAL *loaded = scratch + (1 + job->span) * classes; /* of halves, whose exponentials are in scratch memory too */
    REAL *of_step = job->statistics ? sums_of_step(job, scratch) : NULL;
    Examples of = {0};
    Tops tops;
    for (int64_t t = 0; t < count; t++) {
        const REAL *x = plain ? (const REAL *)job->logits + (first + t) * classes : loaded + t * classes;
        if (!plain) load(job->logits, (first + t) * classes, classes, job->dtype, loaded + t * classes);
        REAL second;
        int finite = two_largest(x, classes, tops.top + t, &second);
        *where = first + t;
        if (!finite) return NOT_FINITE;
        int status = sweep(x, exps + t * classes, classes, tops.top[t], &second, of.peak + t, of.sum + t, NULL);
        if (status != OK) return status;
        tops.lead[t] = (double)x[tops.top[t]] - (double)second;
    }
    find_weights_of_tops(job, first, count, &of, &tops);
    for (int64_t t = 0; t < count; t++) {
        int64_t at = first + t;
        Row row = {.job = job, .t = (const REAL *)job->targets + at * classes, .e = exps + t * classes,
                   .x = plain ? (const REAL *)job->logits + at * classes : loaded + t * classes, .top = tops.top[t],
                   .peak = of.peak[t], .exponent = job->exponents ? (REAL)job->exponents[at] : 0,
                   .log_p_of_peak = tops.lead[t], .p_of_e = tops.q[t] / (double)of.sum[t]};
        if (job->statistics) {
            store_statistics_of_row(&row, at, tops.factor[t], tops.p[t], tops.q[t], of_step);
            continue;
        }
        loss_of_row(&row, at, &tops, t, of.sum[t], t_rho, exps + t * classes);
        if (!plain && job->out) store(exps + t * classes, classes, job->dtype, job->out, at * classes);
    }
    if (job->statistics) add_rounded(of_step, classes, sums, job->statistics->rounder);
    return OK;
}
