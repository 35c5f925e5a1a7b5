/* Fused loss and derivative of examples on the CPU, called by native.py.
 *
 * For an example with label y and other classes j != y: the margin is u = z_y - logsumexp_j z_j, q_j is the softmax over
 * the other classes, and the derivative is dz_y = -w/2, dz_j = (w/2) q_j. Sums run over the other classes only, so that
 * nothing cancels where p is near 1. log w(u) and the loss L(u) are read from a table (MarginTable in
 * weighting/margin_table.py), so that this code does not depend on the family.
 *
 * logits are (outer, classes, inner), C-contiguous; an example is an index (outer, inner). Arithmetic is in float, or in
 * double for float64 logits; computations that are done once per example are in double.
 */
#define _GNU_SOURCE /* madvise */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "job.h"
#include "table.h"

enum { MAX_THREADS = 64 };
static const double SUM_ERROR = 1e-2; /* largest difference of the sum of a row of probabilities from 1 */

typedef struct {
    const Job *job;
    int64_t first, last; /* steps: tiles or groups of rows */
    int64_t where;       /* first example with an error, -1 for none */
    int status;
    double *sums; /* for statistics: the contribution of these steps to the sums of each class */
    pthread_t thread;
} Share;

/* --- all examples ------------------------------------------------------------------------------------------------ */

static int is_double(const Job *job) { return job->dtype == FLOAT64; }

static size_t real_size(const Job *job) { return is_double(job) ? sizeof(double) : sizeof(float); }

static size_t width_of(const Job *job) { return is_double(job) ? 8 : job->dtype == FLOAT32 ? 4 : 2; }

static int64_t span(const Job *job) { /* number of examples per step */
    if (job->inner > 1) return is_double(job) ? double_tile_width(job) : float_tile_width(job);
    /* The logits of a group, and the numbers computed from them, stay in the cache between its passes. */
    int64_t rows = (job->targets ? 16384 : 65536) / job->classes;
    if (job->statistics && rows < 16) rows = 16; /* statistics make one pass, and then sum over classes */
    return job->binary || rows > SPAN ? SPAN : rows < 1 ? 1 : rows;
}

static int64_t steps_of(const Job *job) {
    int64_t wide = span(job);
    return job->inner > 1 ? job->outer * ((job->inner + wide - 1) / wide) : (job->outer + wide - 1) / wide;
}

static int64_t scratch_size(const Job *job) { /* size of the scratch memory of a step, in numbers */
    if (job->binary) return SPAN;
    int64_t sums = job->statistics ? job->classes : 0;
    int is_half = job->dtype != FLOAT32 && job->dtype != FLOAT64;
    if (job->targets) return job->classes * (1 + (is_half ? 2 : job->out ? 0 : 1) * span(job)) + sums;
    return job->inner > 1 || is_half || (job->statistics && !job->out) ? job->classes * span(job) + sums : sums;
}

static void *work(void *argument) {
    Share *share = argument;
    const Job *job = share->job;
    int64_t wide = span(job), needed = job->scratch;
    void *scratch = needed ? calloc(needed, real_size(job)) : NULL;
    if (job->statistics) share->sums = calloc(job->classes, sizeof(double));
    if ((needed && !scratch) || (job->statistics && !share->sums)) share->status = NO_MEMORY;
    for (int64_t i = share->first; i < share->last && share->status == OK; i++) {
        int64_t first = job->inner > 1 ? i : i * wide, count = job->outer - first < wide ? job->outer - first : wide;
        share->status = (is_double(job) ? double_step : float_step)(job, first, count, scratch, share->sums, &share->where);
    }
    free(scratch);
    return NULL;
}

/* Request huge pages for new memory, since first access to many small pages takes longer than the loss. */
static void ask_for_huge_pages(const void *memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t huge = (uintptr_t)1 << 21;
    uintptr_t first = ((uintptr_t)memory + huge - 1) & ~(huge - 1), last = ((uintptr_t)memory + bytes) & ~(huge - 1);
    if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

static int run(const Job *job, int threads, int64_t *where) {
    size_t elements = (size_t)job->outer * job->classes * job->inner;
    if (job->out && job->out != job->logits) ask_for_huge_pages(job->out, elements * width_of(job));
    int64_t steps = steps_of(job);
    Job sized = *job;
    sized.span = span(job), sized.scratch = scratch_size(job);
    threads = threads > MAX_THREADS ? MAX_THREADS : threads;
    threads = threads > steps ? (int)steps : threads;
    /* To start a thread takes as long as so many elements do; those of soft labels take four times as long. */
    int64_t useful = 1 + (int64_t)elements / (job->targets ? 350000 : 1250000);
    threads = threads > useful ? (int)useful : threads;
    Share shares[MAX_THREADS];
    int started = 0, status = OK;
    for (int k = 0; k < threads; k++) {
        shares[k] = (Share){&sized, steps * k / threads, steps * (k + 1) / threads, -1, OK, NULL, 0};
    }
    for (int k = 1; k < threads; k++, started++) {
        if (pthread_create(&shares[k].thread, NULL, work, &shares[k])) break;
    }
    for (int k = started + 1; k < threads; k++) work(&shares[k]); /* no further thread could be created */
    if (threads > 0) work(&shares[0]);
    for (int k = 1; k <= started; k++) pthread_join(shares[k].thread, NULL);
    for (int k = threads - 1; k >= 0; k--) {
        if (shares[k].status != OK) {
            status = shares[k].status;
            *where = shares[k].where;
        }
        for (int64_t c = 0; shares[k].sums && c < job->classes; c++) job->statistics->sums[c] += shares[k].sums[c];
        free(shares[k].sums);
    }
    return status;
}

/* --- checks and sums over all examples ---------------------------------------------------------------------------- */

static int supported(int dtype) {
#ifdef __FLT16_MANT_DIG__
    (void)dtype;
    return 1;
#else
    return dtype != FLOAT16;
#endif
}

static double power_above(double scale) { /* the smallest power of two above scale */
    int exponent;
    frexp(scale, &exponent);
    return ldexp(1.0, exponent);
}

/* counted := the denominator of a mean, divided by `unit`; unit := the largest factor of an example that counts. */
static int sum_of_factors(const Job *job, double *counted, double *unit, int64_t *where) {
    int64_t examples = job->outer * job->inner;
    double sum = 0.0, most = 0.0;
    if (job->labels && !job->factor && !job->class_weight) { /* a loop that compilers vectorize */
        int64_t numbers = 0, wrong = 0, classes = job->binary ? 2 : job->classes, ignored = job->ignore_index;
#pragma omp simd reduction(+ : numbers, wrong)
        for (int64_t i = 0; i < examples; i++) {
            int64_t label = job->labels[i], counts = label != ignored;
            numbers += counts;
            wrong += counts & ((label < 0) | (label >= classes));
        }
        *unit = 1.0, *counted = (double)numbers;
        if (!wrong) return OK;
    }
    for (int64_t i = 0; i < examples; i++) {
        double of_example = 1.0, factor;
        if (job->labels) {
            int64_t label = job->labels[i], classes = job->binary ? 2 : job->classes;
            if (label == job->ignore_index) continue;
            if (label < 0 || label >= classes) {
                *where = i;
                return BAD_LABEL;
            }
            if (job->class_weight) of_example = job->class_weight[label];
        } else if (job->binary) {
            double one = is_double(job) ? ((const double *)job->targets)[i] : ((const float *)job->targets)[i];
            *where = i;
            if (!(one >= 0.0 && one <= 1.0)) return BAD_PROBABILITIES;
            if (job->class_weight) of_example = one * job->class_weight[1] + (1.0 - one) * job->class_weight[0];
        } else {
            double row = (is_double(job) ? double_sum_of_targets : float_sum_of_targets)(job, i, &of_example);
            *where = i;
            if (!(fabs(row - 1.0) <= SUM_ERROR)) return BAD_PROBABILITIES;
        }
        factor = job->factor ? job->factor[i] : 1.0;
        most = factor > most ? factor : most;
        sum += factor * of_example;
    }
    *unit = most > 0.0 ? most : 1.0;
    *counted = sum / *unit;
    return OK;
}

/* Set the factors of derivatives and losses, and return the scale that the caller must apply to derivatives. With
 * `defer_scale`, this is the division by the denominator of a mean, rounded to a power of two, since small shares would
 * otherwise leave the range of float16. */
static double set_scales(Job *job, int mean, int defer_scale, double counted, double unit) {
    double scale = mean > 0 && counted > 0.0 ? 1.0 / counted : 1.0;
    double pending_scale = defer_scale && mean > 0 ? power_above(scale) : 1.0;
    job->unit = mean > 0 ? unit : 1.0;
    job->scale = scale / pending_scale;
    job->loss_scale = scale;
    return pending_scale;
}

static void put_number(void *numbers, int64_t at, int dtype, double value) {
    if (dtype == FLOAT64)
        ((double *)numbers)[at] = value;
    else
        ((float *)numbers)[at] = (float)value;
}

/* loss := the loss of each example if mean < 0, otherwise the sum of the losses. */
static void put_loss(const Job *job, const double *value, int mean, void *loss) {
    int64_t examples = job->outer * job->inner;
    double sum = 0.0;
    if (mean < 0) {
        for (int64_t i = 0; i < examples; i++) put_number(loss, i, job->dtype, value[i]);
        return;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < examples; i++) sum += value[i];
    put_number(loss, 0, job->dtype, sum);
}

/* The log of the sum of exp(log_w), which weights are shares of; *peak := the largest log_w. */
static double log_sum_exp(const double *log_w, int64_t n, double *peak) {
    double highest = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n; i++) highest = log_w[i] > highest ? log_w[i] : highest;
    *peak = highest;
    if (highest == -INFINITY) return -INFINITY;
    for (int64_t i = 0; i < n; i++) sum += log_w[i] - highest < -700.0 ? 0.0 : exp_of_double(log_w[i] - highest);
    return highest + log(sum);
}

/* Whether a pass can leave its exponentials for the next where the derivative will be. */
static int can_keep(const Job *job) {
    return job->out && job->labels && !job->binary && (job->dtype == FLOAT32 || job->dtype == FLOAT64);
}

#include "statistics.h"

static int loss_of_table(Job *job, void *loss, double *pending_scale, int64_t *where, int mean, int defer_scale,
                         int threads) {
    double counted, unit;
    int status = sum_of_factors(job, &counted, &unit, where);
    if (status != OK) return status;
    job->unit = unit;
    void *kept = NULL;
    status = find_exponents(job, counted, where, threads, &kept);
    *pending_scale = set_scales(job, mean, defer_scale, counted, unit);
    job->value = malloc((job->outer * job->inner + 1) * sizeof(double));
    if (status == OK) status = job->value ? run(job, threads, where) : NO_MEMORY;
    if (status == OK) put_loss(job, job->value, mean, loss);
    free(job->value);
    free(kept);
    return status;
}

/* Weights are shares of the sum over the batch: all log-weights are computed first, then the derivative. The loss is the
 * weighted cross-entropy. */
static int loss_of_batch(Job *job, void *loss, double *pending_scale, int64_t *where, int mean, int defer_scale,
                         int threads) {
    int64_t examples = job->outer * job->inner;
    size_t width = real_size(job);
    double counted, peak;
    int status = sum_of_factors(job, &counted, &job->unit, where);
    if (status != OK) return status;
    void *kept = NULL;
    status = find_exponents(job, counted, where, threads, &kept);
    double *log_w = malloc((examples + 1) * (2 * sizeof(double) + 4 * width)), *value = log_w + examples;
    if (!log_w || status != OK) {
        free(log_w);
        free(kept);
        return status == OK ? NO_MEMORY : status;
    }
    char *margin = (char *)(value + examples), *peaks = margin + examples * width, *sums = peaks + examples * width;
    char *half = sums + examples * width;
    Job first = *job;
    first.log_w = log_w, first.scale = first.loss_scale = 1.0;
    if (job->labels) {
        first.margin = margin, first.peak = peaks, first.sum = job->exps_kept ? job->sum : sums;
        first.keep_exps = can_keep(job), first.out = first.keep_exps ? job->out : NULL;
    } else
        first.value = value, first.out = width == width_of(job) ? job->out : NULL;
    status = run(&first, threads, where);
    if (status == OK && job->factor)
        for (int64_t i = 0; i < examples; i++) log_w[i] += log(job->factor[i] / job->unit);
    double log_sum = log_sum_exp(log_w, examples, &peak);
    double largest_share = log_sum == -INFINITY ? 1.0 : exp(peak - log_sum);
    *pending_scale = defer_scale ? power_above(largest_share) : 1.0;
    if (status == OK) {
#pragma omp simd
        for (int64_t i = 0; i < examples; i++) {
            double share = log_w[i] - log_sum > -700.0 ? exp_of_double(log_w[i] - log_sum) : 0.0;
            if (job->labels) {
                double u = is_double(job) ? ((const double *)margin)[i] : ((const float *)margin)[i];
                value[i] = log_one_plus_exp(u) + (u < 0.0 ? -u : 0.0);
            }
            value[i] = share > 0.0 ? share * value[i] : 0.0;
            log_w[i] = (job->labels ? 0.5 : 1.0) * share / *pending_scale;
        }
        for (int64_t i = 0; i < examples; i++) put_number(half, i, job->dtype, log_w[i]);
        Job write = *job;
        write.half = half;
        if (job->labels) write.peak = peaks, write.sum = first.sum, write.exps_kept = first.keep_exps;
        if (job->out) status = run(&write, threads, where);
    }
    if (status == OK) put_loss(job, value, mean, loss);
    free(log_w);
    free(kept);
    return status;
}

/* --- functions called from Python ----------------------------------------------------------------------------------- */

int emphasis_supports(int dtype) { return supported(dtype); }

/* Loss and derivative for labels. mean: 1 divides both by the sum of the factors of the examples that count, 0 does not,
 * -1 returns one loss per example. *pending_scale: factor that the caller must multiply `out` by; 1 without
 * `defer_scale`. */
int emphasis_labels(const void *logits, void *out, const int64_t *labels, const double *factor, const double *table,
                    void *loss, double *pending_scale, int64_t *where, int64_t outer, int64_t classes, int64_t inner,
                    int64_t ignore_index, int dtype, int mean, int batch, int defer_scale, int threads) {
    if (!supported(dtype)) return UNSUPPORTED;
    Job job = {.logits = logits, .out = out, .labels = labels, .factor = factor, .table = table, .outer = outer,
               .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype, .batch = batch};
    return (batch ? loss_of_batch : loss_of_table)(&job, loss, pending_scale, where, mean, defer_scale, threads);
}

/* The same for rows of probabilities, which are multiplied by class_weight. */
int emphasis_targets(const void *logits, void *out, const void *targets, const double *class_weight,
                     const double *factor, const double *table, const float *compact, void *loss, double *pending_scale,
                     int64_t *where, int64_t rows, int64_t classes, int dtype, int mean, int batch, int defer_scale,
                     int threads) {
    if (!supported(dtype)) return UNSUPPORTED;
    Job job = {.logits = logits, .out = out, .targets = targets, .class_weight = class_weight, .factor = factor,
               .table = table, .compact = compact, .outer = rows, .classes = classes, .inner = 1, .dtype = dtype,
               .batch = batch};
    return (batch ? loss_of_batch : loss_of_table)(&job, loss, pending_scale, where, mean, defer_scale, threads);
}

/* The same for one logit of two classes, with labels 0 and 1, or targets, which are the probabilities of class 1. */
int emphasis_binary(const void *logits, void *out, const int64_t *labels, const void *targets,
                    const double *class_weight, const double *factor, const double *table, const float *near,
                    void *loss, double *pending_scale, int64_t *where, int64_t examples, int64_t ignore_index,
                    int dtype, int mean, int defer_scale, int threads) {
    if (!supported(dtype)) return UNSUPPORTED;
    Job job = {.logits = logits, .out = out, .labels = labels, .targets = targets, .class_weight = class_weight,
               .factor = factor, .table = table, .compact = near, .outer = examples, .classes = 1, .inner = 1,
               .ignore_index = ignore_index, .dtype = dtype, .binary = 1};
    return loss_of_table(&job, loss, pending_scale, where, mean, defer_scale, threads);
}

/* Margins, and the inputs of emphasis_write for each example, in double for float64, otherwise in float. With `top`, also
 * statistics: the most probable class of each example (-1 if it is ignored) and 1 - p_max, and for each class the sum over
 * examples of factor (1 - p). */
int emphasis_margins(const void *logits, const int64_t *labels, const double *factor, void *margin, void *peak, void *sum,
                     int32_t *top, double *rest, double *rests, int64_t *where, int64_t outer, int64_t classes,
                     int64_t inner, int64_t ignore_index, int dtype, int threads) {
    if (!supported(dtype)) return UNSUPPORTED;
    double counted, doubt, *of_classes;
    int64_t n = outer * inner;
    Job job = {.logits = logits, .labels = labels, .factor = factor, .margin = margin, .peak = peak, .sum = sum,
               .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    int status = sum_of_factors(&job, &counted, &job.unit, where);
    if (status != OK || !top) return status == OK ? run(&job, threads, where) : status;
    Statistics statistics = {.rounder = 3.0 * power_above(counted)};
    double *room = room_for_statistics(&job, n, 0, &statistics);
    if (!room) return NO_MEMORY;
    job.statistics = &statistics;
    status = run(&job, threads, where);
    if (status == OK) {
        sums_of_statistics(&job, n, &of_classes, &doubt);
        for (int64_t k = 0; k < classes; k++) rests[k] = of_classes[k] * job.unit;
        memcpy(top, statistics.top, n * sizeof(int32_t));
        memcpy(rest, statistics.rest, n * sizeof(double));
    }
    free(room);
    return status;
}

/* The derivative from half the weights, for logits that emphasis_margins was called with. */
int emphasis_write(const void *logits, void *out, const int64_t *labels, const void *half, void *peak, void *sum,
                   int64_t outer, int64_t classes, int64_t inner, int64_t ignore_index, int dtype, int threads) {
    int64_t where;
    Job job = {.logits = logits, .out = out, .labels = labels, .half = half, .peak = peak, .sum = sum,
               .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    return run(&job, threads, &where);
}
