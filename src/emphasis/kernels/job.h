/* Arguments of the steps of a loss, for both kinds of arithmetic. See rows.c. */
#ifndef EMPHASIS_JOB_H
#define EMPHASIS_JOB_H
#include <stdint.h>

enum { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
enum { OK, BAD_LABEL, NOT_FINITE, NO_MEMORY, UNSUPPORTED, BAD_PROBABILITIES };
enum { SPAN = 256, LONG = 65536 }; /* maximum numbers of examples per step, and of classes in a float sum */

/* Statistics of the batch, which are required before weights are computed if the weighting depends on the batch; see
 * statistics.h. The share of an example is its factor, times the sum of its target probabilities and class weights if
 * there are any. */
typedef struct {
    double *doubt, *rest, *share; /* of each example: share times p_max - p, 1 - p_max, and its share */
    int32_t *top;                 /* its most probable class, -1 if the example is ignored */
    double *sums;                 /* of each class: sum of share times p over examples whose most probable class is another */
    double rounder;               /* adding and subtracting it rounds a number to a multiple of the last digit of the sums */
} Statistics;

/* REAL: float where dtype is float32 or a half, double where it is float64. */
typedef struct {
    const void *logits;
    void *out;                       /* derivative, shaped like logits, which it may share memory with; NULL for none */
    const int64_t *labels;           /* label of each example, or NULL with targets */
    const void *targets;             /* REAL: rows of probabilities, or with `binary` the probability of class 1 */
    const double *factor;            /* factor of each example, or NULL for 1 */
    const double *class_weight;      /* with targets: weight of each class, or NULL for 1 */
    const double *table;             /* table of the weighting; NULL to compute margins only */
    const float *compact;            /* with targets, `compact`, and with `binary`, `near` of MarginTable, or NULL */
    double *log_w;                   /* output: log w, or with targets the log of their weighted sum; nothing else is computed */
    double *value;                   /* the loss of each example */
    const Statistics *statistics;    /* output: statistics; nothing else is computed */
    double *margins, *leads;         /* of each example, if exponentials are kept; with statistics, an output */
    void *margin, *peak, *sum;       /* REAL, of each example: output, or input with `half` */
    const void *half;                /* REAL: half the weights, from which, peak and sum the derivative is written */
    int64_t outer, classes, inner, ignore_index;
    double unit, scale, loss_scale;  /* factors are divided by `unit`, derivatives and losses multiplied */
    const double *exponents;         /* of p / p_max; its power multiplies the weight and loss of each example; or NULL */
    int64_t span, scratch;           /* number of examples of a step, and size of its scratch memory, in numbers */
    int keep_exps, exps_kept;        /* exponentials are written to `out` instead of the derivative; have been */
    int dtype, batch, binary;
} Job;

/* The derivative of an example is 0 if its log-weight is -inf. Each step returns OK, or the error of example `where`. */
int float_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where);
int double_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where);
int64_t float_tile_width(const Job *job);
int64_t double_tile_width(const Job *job);
double float_sum_of_targets(const Job *job, int64_t at, double *weighted);
double double_sum_of_targets(const Job *job, int64_t at, double *weighted);
#endif
