/* The steps in float, for float32, bfloat16 and float16 logits. */
#include "binary.h"

int float_step(const Job *job, int64_t first, int64_t count, void *scratch, double *sums, int64_t *where) {
    return one_step(job, first, count, scratch, sums, where);
}

int64_t float_tile_width(const Job *job) { return tile_width(job); }

double float_sum_of_targets(const Job *job, int64_t at, double *weighted) { return sum_of_targets(job, at, weighted); }
