/* Sums of the probabilities of each class over examples, for the statistics of a batch; see statistics.h. Included by
 * steps.h. */
#ifndef EMPHASIS_SUMS_H
#define EMPHASIS_SUMS_H
#include "job.h"
#include "lanes.h"
#include "table.h"

/* Partial sums over the classes for the examples of one step. */
typedef struct {
    REAL own[SPAN], peak[SPAN], sum[SPAN]; /* logit of the label; largest logit and sum of exp of the other classes */
    REAL without[SPAN];                    /* for statistics: the sum without the most probable class */
    int32_t top[SPAN];                     /* for statistics: the most probable class */
    REAL half[SPAN];                       /* half the weights */
} Examples;

/* Index of the first of n numbers that equals `value`; 0 if there is none. */
static int64_t index_of(const REAL *x, int64_t n, REAL value) {
    int64_t start = 0;
    for (; start + 4 * LANES <= n; start += 4 * LANES) {
        const REAL *at = x + start;
        if (any((get(at) == value) | (get(at + LANES) == value) | (get(at + 2 * LANES) == value) |
                (get(at + 3 * LANES) == value)))
            break;
    }
    for (; start < n; start += LANES) {
        Lanes found = n - start < LANES ? get_some(x + start, (int)(n - start), NAN) : get(x + start);
        unsigned bits = bits_of(found == value);
        if (bits) return start + __builtin_ctz(bits);
    }
    return 0;
}

static REAL sum_of(const REAL *x, int64_t n) {
    double sum = 0.0; /* a long sum in float would lose precision */
    for (int64_t start = 0, stop; start < n; start = stop) {
        stop = n - start > LONG ? start + LONG : n;
        Lanes a = {0}, b = {0}, c = {0}, d = {0};
        int64_t j = start;
        for (; j + 4 * LANES <= stop; j += 4 * LANES)
            a += get(x + j), b += get(x + j + LANES), c += get(x + j + 2 * LANES), d += get(x + j + 3 * LANES);
        for (; j + LANES <= stop; j += LANES) a += get(x + j);
        if (j < stop) b += get_some(x + j, (int)(stop - j), 0);
        sum += total((a + b) + (c + d));
    }
    return (REAL)sum;
}

/* sums += by * row */
static void add_row(const REAL *row, REAL by, int64_t classes, REAL *sums) {
    int64_t j = 0;
    for (; j + LANES <= classes; j += LANES) put(get(sums + j) + by * get(row + j), sums + j);
    int rest = (int)(classes - j);
    if (rest) put_some(get_some(sums + j, rest, 0) + by * get_some(row + j, rest, 0), rest, sums + j);
}

/* Add the sums of a step to those of a thread, rounded to a digit that all sums have. The additions are thus exact, and do
 * not depend on the distribution of the steps over threads. */
static void add_rounded(const REAL *of_step, int64_t classes, double *sums, double rounder) {
#pragma omp simd
    for (int64_t j = 0; j < classes; j++) sums[j] += ((double)of_step[j] + rounder) - rounder;
}

/* Store the statistics of examples first..first+n, and add the probabilities of the labels to the sums of the classes. */
static void statistics_of_examples(const Job *job, int64_t first, int64_t n, const double *margin, const double *lead,
                            const double *factor, const Examples *of, double *sums) {
    const Statistics *statistics = job->statistics;
    double *doubt = statistics->doubt + first, *rest = statistics->rest + first;
    double p[SPAN];
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        double log_p = -log_one_plus_exp(margin[t]) + (margin[t] < 0.0 ? margin[t] : 0.0);
        double below = lead[t] < 0.0 ? lead[t] : 0.0, own = exp_of_double(below);
        p[t] = exp_of_double(log_p);
        doubt[t] = factor[t] * (lead[t] < 0.0 ? largest_probability(log_p, below) - p[t] : 0.0);
        rest[t] = lead[t] < 0.0 ? ((double)of->without[t] + own) / ((double)of->sum[t] + own) : exp_of_double(log_p - margin[t]);
    }
    memcpy(statistics->share + first, factor, n * sizeof(double));
    memcpy(statistics->top + first, of->top, n * sizeof(int32_t));
    for (int64_t t = 0; t < n; t++) /* lead is 0 for ignored examples */
        if (lead[t] < 0.0) sums[job->labels[first + t]] += (factor[t] * p[t] + statistics->rounder) - statistics->rounder;
}
#endif
