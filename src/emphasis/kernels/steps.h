/* One step: sum exponentials, look up weights, and write the derivative of its examples. See rows.c.
 *
 * Included by steps_float.c and steps_double.c, which differ in REAL only.
 */
#include "job.h"
#include "lanes.h"
#include "sums.h"
#include "table.h"

static int is_plain(const Job *job) { return job->dtype == FLOAT32 || job->dtype == FLOAT64; }

static void load(const void *source, int64_t at, int64_t n, int dtype, REAL *x) {
    if (dtype == BFLOAT16) {
        const uint16_t *halves = (const uint16_t *)source + at;
        for (int64_t j = 0; j < n; j++) {
            uint32_t bits = (uint32_t)halves[j] << 16;
            float value;
            memcpy(&value, &bits, 4);
            x[j] = value;
        }
    } else if (dtype == FLOAT16) {
#ifdef __FLT16_MANT_DIG__
        const _Float16 *halves = (const _Float16 *)source + at;
        for (int64_t j = 0; j < n; j++) x[j] = (REAL)halves[j];
#endif
    } else {
        memcpy(x, (const REAL *)source + at, n * sizeof(REAL));
    }
}

static void store(const REAL *x, int64_t n, int dtype, void *target, int64_t at) {
    if (dtype == BFLOAT16) {
        uint16_t *halves = (uint16_t *)target + at;
        for (int64_t j = 0; j < n; j++) { /* round to nearest even; there is no NaN here */
            float value = (float)x[j];
            uint32_t bits;
            memcpy(&bits, &value, 4);
            halves[j] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        }
    } else if (dtype == FLOAT16) {
#ifdef __FLT16_MANT_DIG__
        _Float16 *halves = (_Float16 *)target + at;
        for (int64_t j = 0; j < n; j++) halves[j] = (_Float16)x[j];
#endif
    } else {
        memcpy((REAL *)target + at, x, n * sizeof(REAL));
    }
}

/* --- computations per example -------------------------------------------------------------------------------- */

/* half := half the weights of margins, value := their losses, both times the factor and the scales of the job. If
 * log-weights are requested, they are written instead. lead: the label's logit minus the largest other logit. */
static void weighted_margins(const Job *job, int64_t first, int64_t n, const double *margin, const double *lead,
                          const double *factor, REAL *half, double *value) {
    double log_w[SPAN], loss[SPAN], x[SPAN];
    int32_t cell[SPAN];
    look_up(job->table, n, margin, log_w, loss, cell, x);
    if (job->exponents) { /* cross-entropy, whose loss is -log p */
        const double *exponents = job->exponents + first;
#pragma omp simd
        for (int64_t t = 0; t < n; t++) {
            double trust = lead[t] < 0.0 ? exponents[t] * lead[t] : 0.0;
            log_w[t] += trust;
            loss[t] *= trust < -700.0 ? 0.0 : exp_of_double(trust);
        }
    }
    if (job->log_w) {
        memcpy(job->log_w + first, log_w, n * sizeof(double));
        return;
    }
    const double scale = 0.5 * job->scale, loss_scale = job->loss_scale;
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        double weight = log_w[t] < -700.0 ? 0.0 : exp_of_double(log_w[t]);
        half[t] = (REAL)(scale * factor[t] * weight);
        value[t] = factor[t] == 0.0 ? 0.0 : loss_scale * factor[t] * loss[t];
    }
}

static void factors_of(const Job *job, int64_t first, int64_t n, double *factor) {
    for (int64_t t = 0; t < n; t++) factor[t] = job->factor ? job->factor[first + t] / job->unit : 1.0;
}

/* For examples first..first+n that are not ignored: store the requested outputs; half := half their weights. */
static void weighted_terms(const Job *job, int64_t first, int64_t n, Examples *of, double *sums) {
    if (job->half) {
        memcpy(of->half, (const REAL *)job->half + first, n * sizeof(REAL));
        return;
    }
    double margin[SPAN], lead[SPAN], factor[SPAN], x[SPAN];
    if (job->exps_kept) { /* and their sums, by the pass for the statistics */
        memcpy(margin, job->margins + first, n * sizeof(double));
        memcpy(lead, job->leads + first, n * sizeof(double));
    } else {
        for (int64_t t = 0; t < n; t++) {
            lead[t] = (double)of->own[t] - (double)of->peak[t];
            x[t] = of->sum[t];
        }
#pragma omp simd
        for (int64_t t = 0; t < n; t++) margin[t] = lead[t] - log_of(x[t]);
    }
    if (job->margin) {
        for (int64_t t = 0; t < n; t++) {
            ((REAL *)job->margin)[first + t] = (REAL)margin[t];
            ((REAL *)job->peak)[first + t] = of->peak[t];
            ((REAL *)job->sum)[first + t] = of->sum[t];
        }
    }
    factors_of(job, first, n, factor);
    if (job->statistics) {
        if (job->margins) {
            memcpy(job->margins + first, margin, n * sizeof(double));
            memcpy(job->leads + first, lead, n * sizeof(double));
        }
        statistics_of_examples(job, first, n, margin, lead, factor, of, sums);
    } else if (job->table)
        weighted_margins(job, first, n, margin, lead, factor, of->half, job->log_w ? NULL : job->value + first);
}

static void ignore(const Job *job, int64_t example) {
    if (job->value) job->value[example] = 0.0;
    if (job->statistics) job->statistics->top[example] = -1;
    if (job->log_w) job->log_w[example] = -INFINITY;
    if (job->margin && !job->half) {
        ((REAL *)job->margin)[example] = ((REAL *)job->peak)[example] = 0;
        ((REAL *)job->sum)[example] = 1;
    }
}

/* --- examples with contiguous classes (inner = 1), several rows at a time ------------------------------------- */

static inline void find_max(const REAL *x, int64_t first, int64_t last, Lanes *most, Lanes *odd) {
    Lanes a = *most, b = a, c = a, d = a, wrong = *odd, other = {0};
    int64_t j = first;
    for (; j + 4 * LANES <= last; j += 4 * LANES) {
        Lanes p = get(x + j), q = get(x + j + LANES), r = get(x + j + 2 * LANES), s = get(x + j + 3 * LANES);
        a = larger(p, a), b = larger(q, b), c = larger(r, c), d = larger(s, d);
        wrong += p * 0 + q * 0;
        other += r * 0 + s * 0;
    }
    for (; j < last; j += LANES) {
        Lanes p = get(x + j);
        a = larger(p, a);
        wrong += p * 0;
    }
    *most = larger(larger(a, b), larger(c, d));
    *odd = wrong + other;
}

static inline Lanes add_exps(const REAL *x, REAL *e, int64_t first, int64_t last, Lanes peak, Lanes sum) {
    if (e)
        for (int64_t j = first; j < last; j += LANES) {
            Lanes value = exp_of(get(x + j) - peak);
            put(value, e + j);
            sum += value;
        }
    else
        for (int64_t j = first; j < last; j += LANES) sum += exp_of(get(x + j) - peak);
    return sum;
}

/* Maximum and sum of exp over the other classes. e := the exponentials, 0 for the label, unless e is NULL; e may be x.
 * Blocks are complete: the block of the label, and an incomplete last block, have -inf where there is no other class.
 * top := the most probable class, unless NULL. */
static inline int sweep(const REAL *x, REAL *e, int64_t classes, int64_t label, const REAL *known, REAL *peak,
                        REAL *sum, int32_t *top) {
    const Lanes never = all(-INFINITY);
    int64_t whole = classes / LANES * LANES, own = label / LANES * LANES;
    int rest = (int)(classes - whole), broken = rest > 0, own_is_last = own == whole;
    Lanes last = broken ? get_some(x + whole, rest, 0) : (Lanes){0}, at_own = own_is_last ? last : get(x + own);
    Lanes odd = at_own * 0 + last * 0;
    last = choose(places() < (INTEGER)rest, last, never);
    at_own = choose(places() == (INTEGER)(label - own), never, own_is_last ? last : at_own);
    int64_t next = own_is_last ? whole : own + LANES;
    REAL highest;
    if (known) {
        highest = *known;
        odd = (Lanes){0};
    } else {
        Lanes most = own_is_last ? at_own : larger(at_own, last);
        if (own > 0) find_max(x, 0, own, &most, &odd);
        if (next < whole) find_max(x, next, whole, &most, &odd);
        highest = largest(most);
    }
    if (top) *top = (int32_t)(x[label] < highest ? index_of(x, classes, highest) : label);
    Lanes highests = all(highest);
    at_own = exp_of(at_own - highests);
    Lanes sums = at_own + odd; /* NaN if a number is not finite */
    if (!own_is_last && broken) {
        last = exp_of(last - highests);
        sums += last;
    }
    double all_of_it = 0.0; /* a long sum in float would lose precision */
    int64_t bounds[] = {0, own, next, whole};
    for (int k = 0; k < 4; k += 2)
        for (int64_t start = bounds[k], stop; start < bounds[k + 1]; start = stop) {
            stop = bounds[k + 1] - start > LONG ? start + LONG : bounds[k + 1];
            if (start > bounds[k]) all_of_it += total(sums), sums = (Lanes){0};
            sums = add_exps(x, e, start, stop, highests, sums);
        }
    all_of_it += total(sums);
    if (e) {
        if (own_is_last)
            put_some(at_own, rest, e + whole);
        else {
            put(at_own, e + own);
            if (broken) put_some(last, rest, e + whole);
        }
    }
    *peak = highest;
    *sum = (REAL)all_of_it;
    return all_of_it == all_of_it ? OK : NOT_FINITE;
}

/* x *= share, in complete blocks and an incomplete last block. */
static inline void multiply(REAL *x, int64_t n, REAL share) {
    Lanes by = all(share);
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) put(get(x + j) * by, x + j);
    if (j < n) put_some(get_some(x + j, (int)(n - j), 0) * by, (int)(n - j), x + j);
}

/* Memory for the sums of a step over its examples, after its other scratch memory; initialized with 0. */
static REAL *sums_of_step(const Job *job, REAL *scratch) {
    REAL *sums = scratch + job->scratch - job->classes;
    memset(sums, 0, job->classes * sizeof(REAL));
    return sums;
}

static int group(const Job *job, int64_t first, int64_t count, REAL *scratch, double *sums, int64_t *where) {
    Examples of = {0};
    int64_t classes = job->classes;
    double factor[SPAN];
    /* Exponentials are written where the derivative will be, or to scratch memory of this step. */
    int plain = is_plain(job);
    REAL *exps = plain && job->out ? (REAL *)job->out + first * classes : job->out || job->statistics ? scratch : NULL;
    REAL *of_step = job->statistics ? sums_of_step(job, scratch) : NULL;
    if (job->statistics) factors_of(job, first, count, factor);
    for (int64_t t = 0; t < count; t++) {
        int64_t label = job->labels[first + t], at = (first + t) * classes;
        of.sum[t] = 1;
        if (label == job->ignore_index) continue;
        if (job->exps_kept) {
            of.sum[t] = ((const REAL *)job->sum)[first + t];
            continue;
        }
        const REAL *x = plain ? (const REAL *)job->logits + at : scratch + t * classes;
        if (!plain) load(job->logits, at, classes, job->dtype, scratch + t * classes);
        of.own[t] = x[label];
        const REAL *known = job->half ? (const REAL *)job->peak + first + t : NULL;
        REAL *e = exps ? exps + t * classes : NULL;
        int status = sweep(x, e, classes, label, known, of.peak + t, of.sum + t, job->statistics ? of.top + t : NULL);
        if (status != OK) {
            *where = first + t;
            return status;
        }
        if (!job->statistics) continue;
        REAL by = (REAL)(factor[t] / ((double)of.sum[t] + exp_of_double((double)of.own[t] - (double)of.peak[t])));
        REAL of_likeliest = of_step[of.top[t]]; /* its exponential is 1 and is not part of the sums */
        if (by != 0) add_row(e, by, classes, of_step);
        of_step[of.top[t]] = of_likeliest;
        if (of.top[t] == label) continue;
        of.without[t] = of.sum[t] - 1;
        if (of.sum[t] < 2) e[of.top[t]] = 0, of.without[t] = sum_of(e, classes), e[of.top[t]] = 1;
    }
    weighted_terms(job, first, count, &of, sums);
    if (job->statistics) {
        add_rounded(of_step, classes, sums, job->statistics->rounder);
        if (job->margins) memcpy((REAL *)job->sum + first, of.sum, count * sizeof(REAL));
    }
    for (int64_t t = 0; t < count; t++) {
        int64_t label = job->labels[first + t], at = (first + t) * classes;
        if (label == job->ignore_index) {
            ignore(job, first + t);
            int64_t width = plain ? (int64_t)sizeof(REAL) : 2;
            if (job->out) memset((char *)job->out + at * width, 0, classes * width);
            continue;
        }
        if (!job->out) continue;
        REAL *e = exps + t * classes;
        if (job->keep_exps) continue;
        multiply(e, classes, of.half[t] / of.sum[t]);
        e[label] = -of.half[t];
        if (!plain) store(e, classes, job->dtype, job->out, at);
    }
    return OK;
}
