/* Rows of probabilities t_k instead of labels, and one logit for two classes. See rows.c.
 *
 * With rho = w / (2 (1-p)) of each class, the derivative is dz_j = p_j sum_k t_k rho_k - t_j rho_j. The most probable
 * class, whose 1-p may be too small to divide by, is treated separately. With the softmax q over the other classes and
 * the sum S of t rho over them,
 *     dz_j = q_j ((1-p_top) S + t_top w_top / 2) - t_j rho_j,    dz_top = p_top S - t_top w_top / 2.
 */
#include "tiles.h"

enum { COMPACT_TERMS = 6, COMPACT_CELLS = 32 };
static const double COMPACT_REACH = 127.0, LOG_2 = 0.6931471805599453;

typedef struct {
    const Job *job;
    const REAL *x, *t, *e; /* logits, probabilities, and exp(z - peak) of the other classes, 0 for the top class */
    int64_t top;           /* the most probable class */
    REAL peak, sum;        /* largest logit of the other classes, and their sum of e */
    double margin;         /* margin of the top class */
    double log_p_of_peak, p_of_e; /* log p of the class at the peak; p / e */
    double scale, shift;          /* t rho is multiplied by scale, and shift is added to log rho */
    REAL exponent;                /* exponent of p / p_max, whose power multiplies rho */
} Row;

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
static inline Lanes at_cell(const float *numbers, Flags cell) {
#if VECTOR_BYTES == 64 /* the coefficients of all cells fit into two registers */
    return _mm512_permutex2var_ps(get(numbers), (__m512i)cell, get(numbers + 16));
#elif VECTOR_BYTES == 32
    return _mm256_i32gather_ps(numbers, (__m256i)cell, 4);
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

/* Shifted log rho, and the losses of the classes that count, from `start` on, without the top class. */
static inline void look_up_block_of_agreed(const Row *row, int64_t start, Flags counts, Lanes *log_rho, Lanes *loss) {
    const Job *job = row->job;
#ifndef REAL_IS_DOUBLE
    Lanes log_p = block(row->x, start, job->classes, row->peak) - row->peak + (REAL)row->log_p_of_peak;
    if (job->compact && job->table[1] >= 0.0 && !any(counts & (log_p < (REAL)-COMPACT_REACH))) {
        Lanes number = larger((REAL)(1.0 - 2.0 * LOG_2) - 2.0f * log_p, all(1.0f));
        Flags cell = ((Flags)number >> 21) - (127 << 2);
        cell = cell & (COMPACT_CELLS - 1); /* arbitrary for classes that do not count */
        Lanes x = 2.0f * (Lanes)((((Flags)number << 2) & 0x007fffff) | 0x3f800000) - 3.0f;
        *log_rho = polynomial(job->compact, cell, x) + (REAL)row->shift;
        *loss = job->batch ? -log_p : polynomial(job->compact + COMPACT_TERMS * COMPACT_CELLS, cell, x);
        return;
    }
#endif
    *log_rho = *loss = (Lanes){0};
    for (int k = 0; k < LANES && start + k < job->classes; k++) {
        if (!counts[k]) continue;
        double p = (double)row->e[start + k] * row->p_of_e, log_q = log1p(-(p < 0.5 ? p : 0.5)), log_w, value, at;
        double log_p = (double)row->x[start + k] - (double)row->peak + row->log_p_of_peak, margin = log_p - log_q;
        int32_t cell;
        look_up(job->table, 1, &margin, &log_w, &value, &cell, &at);
        (*log_rho)[k] = (REAL)(log_w - LOG_2 - log_q + row->shift);
        (*loss)[k] = (REAL)(job->batch ? -log_p : value);
    }
}

/* The same, times (p / p_max)^exponent. */
static inline void look_up_block(const Row *row, int64_t start, Flags counts, Lanes *log_rho, Lanes *loss) {
    look_up_block_of_agreed(row, start, counts, log_rho, loss);
    if (row->exponent == 0) return;
    Lanes trust = row->exponent * (block(row->x, start, row->job->classes, row->x[row->top]) - row->x[row->top]);
    *log_rho += trust;
    if (!row->job->batch) *loss *= exp_of(trust);
}

/* t_rho := t rho scale of the other classes; return their sum. *value += the sum of t loss, or of w loss for "batch". */
static double weighted_others(const Row *row, REAL *t_rho, double *value) {
    const Job *job = row->job;
    double sum = 0.0, losses = 0.0;
    for (int64_t span = 0; span < job->classes; span += LONG) {
        int64_t end = job->classes - span < LONG ? job->classes : span + LONG;
        Lanes sums = {0}, values = {0};
        for (int64_t start = span; start < end; start += LANES) {
            Lanes t = weighted_targets(row, start), terms = {0};
            Flags counts = t != 0;
            if (any(counts)) {
                Lanes log_rho, loss;
                look_up_block(row, start, counts, &log_rho, &loss);
                terms = choose(counts, t * exp_of(log_rho) * (REAL)row->scale, terms);
                Lanes share = t;
                if (job->batch) share = 2 * terms * (1 - block(row->e, start, job->classes, 0) * (REAL)row->p_of_e);
                sums += terms;
                values += choose(counts, share * loss, (Lanes){0});
            }
            put_block(terms, start, job->classes, t_rho);
        }
        sum += total(sums);
        losses += total(values);
    }
    *value += losses;
    return sum;
}

/* log of the sum of t w over all classes; log_rho is scratch memory. */
static double log_sum_of_weights(const Row *row, REAL *log_rho, double log_of_top) {
    const Job *job = row->job;
    Lanes most = all(-INFINITY);
    for (int64_t start = 0; start < job->classes; start += LANES) {
        Flags counts = weighted_targets(row, start) != 0;
        Lanes found = all(-INFINITY), loss;
        if (any(counts)) {
            look_up_block(row, start, counts, &found, &loss);
            found = choose(counts, found, all(-INFINITY));
            most = larger(found, most);
        }
        put_block(found, start, job->classes, log_rho);
    }
    double peak = largest(most), sum = 0.0;
    peak = peak > log_of_top ? peak : log_of_top;
    if (peak == -INFINITY) return peak;
    for (int64_t start = 0; start < job->classes; start += LANES) {
        Lanes one_minus_p = 1 - block(row->e, start, job->classes, 0) * (REAL)row->p_of_e;
        Lanes rho = exp_of(block(log_rho, start, job->classes, -INFINITY) - (REAL)peak);
        sum += 2.0 * total(weighted_targets(row, start) * rho * one_minus_p);
    }
    return peak + log(sum + (log_of_top == -INFINITY ? 0.0 : exp(log_of_top - peak)));
}

/* The sum of the probabilities of a row, without and with the weights of classes; NaN if they are not probabilities. */
static double sum_of_targets(const Job *job, int64_t at, double *weighted) {
    Row row = {.job = job, .t = (const REAL *)job->targets + at * job->classes, .top = -LANES};
    Lanes least = {0}, most = {0}, odd = {0};
    double sum = 0.0;
    *weighted = 0.0;
    for (int64_t span = 0; span < job->classes; span += LONG / 16) {
        Lanes sums = {0}, sums_weighted = {0};
        for (int64_t start = span; start < job->classes && start < span + LONG / 16; start += LANES) {
            Lanes t = block(row.t, start, job->classes, 0);
            sums += t;
            odd += t * 0;
            most = larger(t, most);
            least = larger(-t, least);
            if (job->class_weight) sums_weighted += weighted_targets(&row, start);
        }
        sum += total(sums);
        *weighted += total(sums_weighted);
    }
    if (!job->class_weight) *weighted = sum;
    int good = total(odd) == 0 && largest(least) <= 0 && largest(most) <= (REAL)(1.0 + 1e-3);
    return good ? sum : NAN;
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

static int64_t index_of_largest(const REAL *x, int64_t n) {
    Lanes lanes = all(x[0]);
    for (int64_t start = 0; start < n; start += LANES) lanes = larger(block(x, start, n, x[0]), lanes);
    return index_of(x, n, largest(lanes)); /* NaN is detected later */
}

static int soft_row(const Job *job, int64_t at, REAL *scratch, REAL *of_step, int64_t *where) {
    int64_t classes = job->classes, first = at * classes;
    int plain = is_plain(job);
    REAL *loaded = scratch, *e = scratch + classes, *t_rho = scratch + 2 * classes;
    if (plain && job->out) e = (REAL *)job->out + first;
    if (!plain) load(job->logits, first, classes, job->dtype, loaded);
    Row row = {.job = job, .x = plain ? (const REAL *)job->logits + first : loaded, .e = e};
    row.t = (const REAL *)job->targets + first;
    row.top = index_of_largest(row.x, classes);
    int status = sweep(row.x, e, classes, row.top, NULL, &row.peak, &row.sum, NULL);
    if (status != OK) {
        *where = at;
        return status;
    }
#ifdef REAL_IS_DOUBLE
    double log_sum = log(row.sum);
#else
    double log_sum = log_of(row.sum);
#endif
    row.margin = (double)row.x[row.top] - (double)row.peak - log_sum;
    double log_p = -log_one_plus_exp(row.margin) + (row.margin < 0.0 ? row.margin : 0.0), log_q = log_p - row.margin;
    double p = exp_of_double(log_p), q = log_q < -700.0 ? 0.0 : exp_of_double(log_q);
    row.log_p_of_peak = log_q - log_sum;
    row.p_of_e = q / (double)row.sum;
    row.exponent = job->exponents ? (REAL)job->exponents[at] : 0;
    double factor, log_w, loss, x, value = 0.0;
    int32_t cell;
    factors_of(job, at, 1, &factor);
    if (job->statistics) {
        const Statistics *statistics = job->statistics;
        double weighted;
        sum_of_targets(job, at, &weighted);
        statistics->share[at] = factor * weighted, statistics->doubt[at] = factor * doubt_of(&row, p);
        statistics->rest[at] = q, statistics->top[at] = (int32_t)row.top;
        add_row(e, (REAL)(statistics->share[at] * row.p_of_e), classes, of_step);
        return OK;
    }
    look_up(job->table, 1, &row.margin, &log_w, &loss, &cell, &x);
    double t_top = (double)row.t[row.top] * (job->class_weight ? job->class_weight[row.top] : 1.0);
    if (job->log_w) {
        double log_of_top = t_top > 0.0 ? log_w + log(t_top) : -INFINITY;
        job->log_w[at] = factor > 0.0 ? log_sum_of_weights(&row, t_rho, log_of_top) + log(factor) : -INFINITY;
        return OK;
    }
    row.scale = job->batch ? job->scale : job->scale * factor;
    row.shift = job->batch ? (factor > 0.0 ? log(factor) - job->log_share : -INFINITY) : 0.0;
    double weight = log_w + row.shift < -700.0 ? 0.0 : t_top * row.scale * exp_of_double(log_w + row.shift);
    double sum = weighted_others(&row, t_rho, &value);
    if (t_top > 0.0) value += job->batch ? weight * -log_p : t_top * loss;
    if (job->batch)
        job->value[at] = value / job->scale;
    else
        job->value[at] = factor == 0.0 ? 0.0 : job->loss_scale * factor * value;
    if (!job->out) return OK;
    REAL share = (REAL)((q * sum + 0.5 * weight) / (double)row.sum);
    for (int64_t start = 0; start < classes; start += LANES)
        put_block(block(e, start, classes, 0) * share - block(t_rho, start, classes, 0), start, classes, e);
    e[row.top] = (REAL)(p * sum - 0.5 * weight);
    if (!plain) store(e, classes, job->dtype, job->out, first);
    return OK;
}

/* One logit z of two classes with margins z and -z: dz = -t w(z) / 2 + (1-t) w(-z) / 2. */
static int binary(const Job *job, int64_t first, int64_t n, REAL *z, int64_t *where) {
    double margin[SPAN], factor[SPAN], given[SPAN], value[SPAN];
    REAL half[SPAN], gradient[SPAN] = {0};
    load(job->logits, first, n, job->dtype, z);
    factors_of(job, first, n, given);
    if (job->statistics)
        memset(job->statistics->doubt + first, 0, n * sizeof(double)), memset(job->statistics->share + first, 0, n * sizeof(double));
    else
        memset(job->value + first, 0, n * sizeof(double));
    for (int own = 0; own < 2; own++) {
        int needed = 0;
        double of_class = job->class_weight ? job->class_weight[own] : 1.0;
        for (int64_t t = 0; t < n; t++) {
            int ignored = job->labels && job->labels[first + t] == job->ignore_index;
            double is_one = job->labels ? (double)job->labels[first + t] : (double)((const REAL *)job->targets)[first + t];
            factor[t] = ignored ? 0.0 : given[t] * of_class * (own ? is_one : 1.0 - is_one);
            margin[t] = ignored ? 0.0 : own ? (double)z[t] : -(double)z[t];
            needed |= factor[t] != 0.0;
            if (!(margin[t] - margin[t] == 0.0)) {
                *where = first + t;
                return NOT_FINITE;
            }
        }
        if (!needed) continue;
        if (job->statistics) { /* p_max - p of the less probable class, times its target probability */
            for (int64_t t = 0; t < n; t++) {
                job->statistics->share[first + t] += factor[t];
                if (margin[t] < 0.0) job->statistics->doubt[first + t] += factor[t] * -tanh(0.5 * margin[t]);
                job->statistics->top[first + t] = (margin[t] > 0.0) == own;
                job->statistics->rest[first + t] = exp_of_double(-log_one_plus_exp(margin[t]) - fabs(margin[t]));
            }
            continue;
        }
        weighted_margins(job, first, n, margin, margin, factor, half, value);
        for (int64_t t = 0; t < n; t++) {
            gradient[t] += own ? -half[t] : half[t];
            job->value[first + t] += value[t];
        }
    }
    if (job->out) store(gradient, n, job->dtype, job->out, first);
    return OK;
}

static int one_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where) {
    int status = OK;
    if (job->binary) return binary(job, first, count, scratch, where);
    if (job->targets) {
        REAL *of_step = job->statistics ? sums_of_step(job, scratch) : NULL;
        for (int64_t t = 0; t < count && status == OK; t++) status = soft_row(job, first + t, scratch, of_step, where);
        if (job->statistics) add_rounded(of_step, job->classes, sums, job->statistics->rounder);
        return status;
    }
    return job->inner > 1 ? tile(job, first, scratch, sums, where) : group(job, first, count, scratch, sums, where);
}
