/* The steps in double, for float64 logits. */
#define REAL_IS_DOUBLE
#include "binary.h"

int double_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where) {
    return one_step(job, first, count, scratch, sums, where);
}

int64_t double_tile_width(const Job *job) { return tile_width(job); }

double double_sum_of_targets(const Job *job, int64_t at, double *weighted) { return sum_of_targets(job, at, weighted); }
