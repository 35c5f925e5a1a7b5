/* One logit for two classes. See rows.c. */
#include "soft.h"

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
    if (job->binary) return binary(job, first, count, scratch, where);
    if (job->targets) return soft_rows(job, first, count, scratch, sums, where);
    return job->inner > 1 ? tile(job, first, scratch, sums, where) : group(job, first, count, scratch, sums, where);
}
