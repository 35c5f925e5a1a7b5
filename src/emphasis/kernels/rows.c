/* Loss and derivative of examples in one go, on the CPU: see native.py for what calls this.
 *
 * Per example, with label y, others j != y: margin u = z_y - logsumexp_j z_j, softmax over the others q_j,
 * dz_y = -w/2, dz_j = (w/2) q_j. Sums run over the others alone, so nothing cancels where p is near 1.
 * log w(u) and the loss L(u) come from a table (MarginTable in weighting/margin_table.py): no family is known here.
 *
 * logits are (outer, classes, inner), C-contiguous; an example is one (outer, inner). Arithmetic is in float,
 * what is done once per example in double.
 */
#define _GNU_SOURCE /* madvise */
#include <pthread.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "steps.h"

typedef struct {
    const Job *job;
    int64_t first, last; /* steps: tiles or groups of rows */
    int64_t where;       /* first example that is not finite, -1 for none */
    int status;
    pthread_t thread;
} Share;

/* --- all examples ------------------------------------------------------------------------------------------------ */

static int64_t span(const Job *job) { /* examples that one step takes */
    return job->inner > 1 ? tile_width(job) : group_size(job);
}

static int64_t steps_of(const Job *job) {
    int64_t wide = span(job);
    return job->inner > 1 ? job->outer * ((job->inner + wide - 1) / wide) : (job->outer + wide - 1) / wide;
}

static void *work(void *argument) {
    Share *share = argument;
    const Job *job = share->job;
    int64_t wide = span(job);
    int64_t needed = job->inner > 1 || job->dtype != FLOAT32 ? job->classes * wide : 0;
    float *scratch = needed ? calloc(needed, sizeof(float)) : NULL;
    if (needed && !scratch) share->status = NO_MEMORY;
    for (int64_t i = share->first; i < share->last && share->status == OK; i++) {
        int64_t rows = job->outer - i * wide < wide ? job->outer - i * wide : wide;
        share->status = job->inner > 1 ? tile(job, i, scratch, &share->where)
                                       : group(job, i * wide, rows, scratch, &share->where);
    }
    free(scratch);
    return NULL;
}

/* Fresh memory is handed out in small pages, and first touching them takes longer than the loss: ask for large ones. */
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
    if (job->out && job->out != job->logits) ask_for_huge_pages(job->out, elements * (job->dtype == FLOAT32 ? 4 : 2));
    int64_t steps = steps_of(job);
    threads = threads > MAX_THREADS ? MAX_THREADS : threads;
    threads = threads > steps ? (int)steps : threads;
    /* A thread takes about as long to start as 100,000 elements to compute. */
    int64_t useful = 1 + (int64_t)elements / 500000;
    threads = threads > useful ? (int)useful : threads;
    Share shares[MAX_THREADS];
    int started = 0, status = OK;
    for (int k = 0; k < threads; k++) {
        shares[k] = (Share){job, steps * k / threads, steps * (k + 1) / threads, -1, OK, 0};
    }
    for (int k = 1; k < threads; k++, started++) {
        if (pthread_create(&shares[k].thread, NULL, work, &shares[k])) break;
    }
    for (int k = started + 1; k < threads; k++) work(&shares[k]); /* no more threads to be had */
    if (threads > 0) work(&shares[0]);
    for (int k = 1; k <= started; k++) pthread_join(shares[k].thread, NULL);
    for (int k = threads - 1; k >= 0; k--) {
        if (shares[k].status != OK) {
            status = shares[k].status;
            *where = shares[k].where;
        }
    }
    return status;
}

static int checked(const Job *job, int64_t examples, double *counted, int64_t *where) {
    *counted = 0.0;
    for (int64_t i = 0; i < examples; i++) {
        int64_t label = job->labels[i];
        if (label == job->ignore_index) continue;
        if (label < 0 || label >= job->classes) {
            *where = i;
            return BAD_LABEL;
        }
        *counted += job->factor ? job->factor[i] : 1.0;
    }
    return OK;
}

static int supported(int dtype) {
#ifdef __FLT16_MANT_DIG__
    (void)dtype;
    return 1;
#else
    return dtype != FLOAT16;
#endif
}

static double power_above(double scale) { /* the power of two next above it */
    int exponent;
    frexp(scale, &exponent);
    return ldexp(1.0, exponent);
}

/* Loss and derivative from a table. mean: divide both by the sum of the factors of the examples that count, the
 * derivative, if `defer`, to within a power of two, which *still is then. loss: one number per example if mean < 0,
 * else their sum. */
int emphasis_loss_and_derivative(const void *logits, void *out, const int64_t *labels, const float *factor,
                                 const double *table, float *loss, double *still, int64_t *where, int64_t outer,
                                 int64_t classes, int64_t inner, int64_t ignore_index, int dtype, int mean, int defer,
                                 int threads) {
    if (!supported(dtype)) return UNSUPPORTED;
    int64_t examples = outer * inner;
    double counted, scale = 1.0, sum = 0.0;
    Job job = {.logits = logits, .out = out, .labels = labels, .factor = factor, .table = table, .loss = loss,
               .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    int status = checked(&job, examples, &counted, where);
    if (status != OK) return status;
    if (mean > 0 && counted != 0.0) scale = 1.0 / counted;
    *still = defer ? power_above(scale) : 1.0;
    job.scale = scale / *still;
    job.loss_scale = scale;
    if (mean >= 0 && !(job.loss = malloc(examples * sizeof(float)))) return NO_MEMORY;
    status = run(&job, threads, where);
    if (mean >= 0) {
        for (int64_t i = 0; i < examples && status == OK; i++) sum += job.loss[i];
        *loss = (float)sum;
        free(job.loss);
    }
    return status;
}

/* The same where weights are shares of the batch's sum: all log-weights first, then the derivative. The loss is the
 * weighted cross-entropy. */
int emphasis_batch(const void *logits, void *out, const int64_t *labels, const float *factor, const double *table,
                   float *loss, double *still, int64_t *where, int64_t outer, int64_t classes, int64_t inner,
                   int64_t ignore_index, int dtype, int mean, int defer, int threads) {
    if (!supported(dtype)) return UNSUPPORTED;
    int64_t examples = outer * inner;
    double counted, highest = -INFINITY, shares = 0.0, value = 0.0;
    double *log_w = malloc(examples * (sizeof(double) + 4 * sizeof(float)));
    if (!log_w) return NO_MEMORY;
    float *margin = (float *)(log_w + examples), *peak = margin + examples, *sum = peak + examples;
    float *half = sum + examples;
    Job job = {.logits = logits, .labels = labels, .factor = factor, .table = table, .log_w = log_w, .margin = margin,
               .peak = peak, .sum = sum, .outer = outer, .classes = classes, .inner = inner,
               .ignore_index = ignore_index, .dtype = dtype};
    int status = checked(&job, examples, &counted, where);
    if (status == OK) status = run(&job, threads, where);
    if (status == OK) {
        *still = defer ? power_above(counted > 1.0 ? 1.0 / counted : 1.0) : 1.0;
        for (int64_t i = 0; i < examples; i++) {
            if (factor) log_w[i] += log(factor[i]);
            highest = log_w[i] > highest ? log_w[i] : highest;
        }
        for (int64_t i = 0; i < examples; i++) {
            log_w[i] = log_w[i] == -INFINITY ? 0.0 : exp_of_double(log_w[i] - highest);
            shares += log_w[i];
        }
        for (int64_t i = 0; i < examples; i++) {
            double u = margin[i], share = shares > 0.0 ? log_w[i] / shares : 0.0;
            double own = share > 0.0 ? share * (log1p(exp(-fabs(u))) + (u < 0.0 ? -u : 0.0)) : 0.0;
            half[i] = (float)(0.5 * share / *still);
            value += own;
            if (mean < 0) loss[i] = (float)own;
        }
        if (mean >= 0) *loss = (float)value;
        Job write = {.logits = logits, .out = out, .labels = labels, .half = half, .peak = peak, .sum = sum,
                     .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
        if (out) status = run(&write, threads, where);
    }
    free(log_w);
    return status;
}

/* Margins, and what emphasis_write needs of each example. */
int emphasis_margins(const void *logits, const int64_t *labels, float *margin, float *peak, float *sum, int64_t outer,
                     int64_t classes, int64_t inner, int64_t ignore_index, int dtype, int threads, int64_t *where) {
    if (!supported(dtype)) return UNSUPPORTED;
    double counted;
    Job job = {.logits = logits, .labels = labels, .margin = margin, .peak = peak, .sum = sum,
               .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    int status = checked(&job, outer * inner, &counted, where);
    return status == OK ? run(&job, threads, where) : status;
}

/* The derivative from half weights, of logits that emphasis_margins has seen. */
int emphasis_write(const void *logits, void *out, const int64_t *labels, const float *half, float *peak, float *sum,
                   int64_t outer, int64_t classes, int64_t inner, int64_t ignore_index, int dtype, int threads) {
    int64_t where;
    Job job = {.logits = logits, .out = out, .labels = labels, .half = half, .peak = peak, .sum = sum,
               .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    return run(&job, threads, &where);
}
