/* One step for a tile of examples whose classes have the stride `inner` in memory, as in segmentation. See rows.c. */
#include "steps.h"

static int64_t tile_width(const Job *job) { /* the logits of a tile stay in the cache between its passes */
    int64_t width = 65536 / job->classes / LANES * LANES, needed = (job->inner + LANES - 1) / LANES * LANES;
    width = width < LANES ? LANES : width > SPAN ? SPAN : width;
    return width < needed ? width : needed;
}

/* Add the probabilities of a tile to the sums of the classes, except those of the most probable classes and labels. */
static void add_tile(const Job *job, int64_t first, int64_t width, int64_t wide, const REAL *values,
                     const INTEGER *label, const INTEGER *top, const Examples *of, double *sums) {
    double factor[SPAN];
    REAL by[SPAN] = {0};
    factors_of(job, first, width, factor);
    for (int64_t t = 0; t < width; t++) {
        double whole = (double)of->sum[t] + exp_of_double((double)of->own[t] - (double)of->peak[t]);
        by[t] = label[t] < 0 ? 0 : (REAL)(factor[t] / whole);
    }
    for (int64_t c = 0; c < job->classes; c++) {
        Lanes added = {0};
        for (int64_t t = 0; t < wide; t += LANES) {
            Flags tops;
            memcpy(&tops, top + t, sizeof tops);
            Lanes share = get(by + t), value = share * get(values + c * wide + t);
            added += choose((share == 0) | (tops == (INTEGER)c), (Lanes){0}, value);
        }
        sums[c] += ((double)total(added) + job->statistics->rounder) - job->statistics->rounder;
    }
}

static int tile(const Job *job, int64_t number, REAL *values, double *sums, int64_t *where) {
    int64_t wide = tile_width(job), tiles = (job->inner + wide - 1) / wide;
    int64_t outer = number / tiles, start = number % tiles * wide;
    int64_t width = job->inner - start < wide ? job->inner - start : wide;
    int64_t base = outer * job->classes * job->inner + start, first = outer * job->inner + start;
    const Lanes never = all(-INFINITY);
    Examples of = {0};
    REAL odd[SPAN] = {0};
    INTEGER label[SPAN], top[SPAN] = {0};
    for (int64_t t = 0; t < wide; t++) {
        int counts = t < width && job->labels[first + t] != job->ignore_index;
        label[t] = counts ? (INTEGER)job->labels[first + t] : -1;
        of.peak[t] = job->half && counts ? ((const REAL *)job->peak)[first + t] : -INFINITY;
    }
    int summed = are_summed(job);
    for (int64_t c = 0; c < job->classes; c++) {
        REAL *x = values + c * wide;
        load(summed ? job->out : job->logits, base + c * job->inner, width, job->dtype, x);
        if (summed) continue;
        for (int64_t t = 0; t < wide; t += LANES) {
            Flags labels, is_own;
            memcpy(&labels, label + t, sizeof labels);
            is_own = labels == (INTEGER)c;
            Lanes lanes = get(x + t);
            put(get(odd + t) + lanes * 0, odd + t);
            put(choose(is_own, lanes, get(of.own + t)), of.own + t);
            lanes = choose(is_own, never, lanes);
            put(lanes, x + t);
            if (job->half) continue;
            if (job->statistics) {
                Flags tops, higher = lanes > get(of.peak + t);
                memcpy(&tops, top + t, sizeof tops);
                tops = (higher & (INTEGER)c) | (~higher & tops);
                memcpy(top + t, &tops, sizeof tops);
            }
            put(larger(lanes, get(of.peak + t)), of.peak + t);
        }
    }
    for (int64_t t = 0; t < width; t++) {
        if (odd[t] != 0 && label[t] >= 0) { /* NaN */
            *where = first + t;
            return NOT_FINITE;
        }
    }
    for (int64_t t = 0; t < width && job->statistics; t++) {
        if (of.own[t] >= of.peak[t]) top[t] = label[t];
        of.top[t] = (int32_t)top[t];
    }
    for (int64_t c = 0; c < job->classes && !summed; c++) {
        REAL *x = values + c * wide;
        for (int64_t t = 0; t < wide; t += LANES) {
            Lanes value = exp_of(get(x + t) - get(of.peak + t));
            put(value, x + t);
            if (job->statistics) {
                Flags tops;
                memcpy(&tops, top + t, sizeof tops);
                value = choose(tops == (INTEGER)c, (Lanes){0}, value);
            }
            put(get(of.sum + t) + value, of.sum + t);
        }
    }
    for (int64_t t = 0; t < width; t++) {
        of.without[t] = of.sum[t];
        if (summed) of.sum[t] = ((const REAL *)job->sum)[first + t];
        if (job->statistics && top[t] != label[t]) of.sum[t] += 1;
        if (label[t] < 0) of.own[t] = of.peak[t] = 0, of.sum[t] = 1;
    }
    weighted_terms(job, first, width, &of, sums);
    for (int64_t t = 0; t < width; t++)
        if (label[t] < 0) ignore(job, first + t);
    if (job->statistics) {
        add_tile(job, first, width, wide, values, label, top, &of, sums);
        if (job->margins) memcpy((REAL *)job->sum + first, of.sum, width * sizeof(REAL));
        for (int64_t c = 0; c < job->classes && job->out; c++)
            store(values + c * wide, width, job->dtype, job->out, base + c * job->inner);
        return OK;
    }
    if (!job->out) return OK;
    for (int64_t t = 0; t < width; t++) {
        of.half[t] = label[t] < 0 ? 0 : of.half[t];
        of.peak[t] = label[t] < 0 ? 0 : of.half[t] / of.sum[t]; /* from here on, the factor of exp */
    }
    for (int64_t c = 0; c < job->classes; c++) {
        REAL *x = values + c * wide;
        for (int64_t t = 0; t < wide; t += LANES) {
            Flags labels;
            memcpy(&labels, label + t, sizeof labels);
            Lanes share = get(of.peak + t), other = choose(share == 0, (Lanes){0}, get(x + t) * share);
            put(choose(labels == (INTEGER)c, -get(of.half + t), other), x + t);
        }
        store(x, width, job->dtype, job->out, base + c * job->inner);
    }
    return OK;
}
