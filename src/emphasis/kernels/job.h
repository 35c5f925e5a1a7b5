/* What the steps of a loss are told, whatever their arithmetic is. See rows.c. */
#ifndef EMPHASIS_JOB_H
#define EMPHASIS_JOB_H
#include <stdint.h>

enum { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
enum { OK, BAD_LABEL, NOT_FINITE, NO_MEMORY, UNSUPPORTED, BAD_PROBABILITIES };
enum { SPAN = 256, LONG = 65536 }; /* examples that a step takes at most; classes that a float sum takes */

/* What a weighting that depends on the batch needs to know of it before anything is weighed: see statistics.h. An example
 * counts as much as its factor, times the sum of its target probabilities and class weights if it has any. */
typedef struct {
    double *doubt, *rest, *share; /* of each example: share times p_max - p, 1 - p_max, and how much it counts */
    int32_t *top;                 /* its likeliest class, -1 where the example is ignored */
    double *sums;                 /* of each class over all examples: share times p, where it is not the likeliest */
    double rounder;               /* a number added to it and taken off again is a multiple of the sums' last digit */
} Statistics;

/* REAL: float where dtype is float32 or a half, double where it is float64. */
typedef struct {
    const void *logits;
    void *out;                       /* like logits, may be the same memory; NULL: no derivative */
    const int64_t *labels;           /* of each example, or NULL with targets */
    const void *targets;             /* REAL: rows of probabilities, or with binary that of class 1 */
    const double *factor;            /* of each example, or NULL for 1 */
    const double *class_weight;      /* with targets: of each class, or NULL for 1 */
    const double *table;             /* NULL: margins only */
    const float *compact;            /* with targets: a second table, or NULL */
    double *log_w;                   /* room for log w, or with targets log of their weighted sum: this only */
    double *value;                   /* the loss of each example */
    const Statistics *statistics;    /* room for them: nothing else is computed then */
    double *margins, *leads;         /* of each example, whose exponentials are in out; with statistics, room for them */
    void *margin, *peak, *sum;       /* REAL, of each example: written, or with `half` read */
    const void *half;                /* REAL, given half weights: write the derivative from peak and sum */
    int64_t outer, classes, inner, ignore_index;
    double unit, scale, loss_scale;  /* factors are divided by `unit`, derivatives and losses multiplied */
    const double *exponents;         /* of p / p_max, by which each example's weight and loss are multiplied, or NULL */
    double log_share;                /* with targets: log of what a weight is a share of; the loss is cross-entropy then */
    int64_t scratch;                 /* numbers that a step has room for */
    int dtype, batch, binary;
} Job;

/* An example has no derivative where its log-weight is -inf. Each of these returns OK, or what is wrong with `where`. */
int float_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where);
int double_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where);
int64_t float_tile_width(const Job *job);
int64_t double_tile_width(const Job *job);
double float_sum_of_targets(const Job *job, int64_t at, double *weighted);
double double_sum_of_targets(const Job *job, int64_t at, double *weighted);
#endif
