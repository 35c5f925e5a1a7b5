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

enum { AHEAD = 4, LINE = 64 }; /* classes whose logits are fetched before they are used, and bytes of a cache line */

/* values := the logits of a class. Return 0 times their sum, which is NaN if one is not finite. `next` is fetched. */
static inline Lanes copy_class(const REAL *x, int64_t wide, const REAL *next, REAL *values) {
    Lanes odd = {0};
    for (int64_t t = 0; t < wide; t += LANES) {
        Lanes lanes = get(x + t);
        if (t % (LINE / (int64_t)sizeof(REAL)) == 0) __builtin_prefetch(next + t);
        put(lanes, values + t);
        odd += lanes * 0;
    }
    return odd;
}

/* values := the logits of a tile, or the exponentials kept in their place. Return 0, or NaN if one is not finite. */
static Lanes copy_tile(const Job *job, int64_t base, int64_t width, int64_t wide, REAL *values) {
    const void *source = job->exps_kept ? job->out : job->logits;
    const REAL *x = (const REAL *)source + base;
    int64_t classes = job->classes, end = job->outer * classes * job->inner - wide - base; /* last place of a vector */
    Lanes odd = {0};
    for (int64_t c = 0; c < classes; c++) {
        if (is_plain(job) && width == wide) {
            int64_t at = c + AHEAD < classes ? (c + AHEAD) * job->inner : (c + AHEAD - classes) * job->inner + wide;
            odd += copy_class(x + c * job->inner, wide, x + (at < end ? at : 0), values + c * wide);
            continue;
        }
        memset(values + c * wide, 0, wide * sizeof(REAL));
        load(source, base + c * job->inner, width, job->dtype, values + c * wide);
        for (int64_t t = 0; t < wide; t += LANES) odd += get(values + c * wide + t) * 0;
    }
    return odd;
}

/* For LANES examples: the largest of the values of all classes, and the class that has it. */
static inline Lanes largest_class(const REAL *x, int64_t classes, int64_t wide, Flags *top) {
    Lanes most = all(-INFINITY);
    Flags tops = {0};
    for (int64_t c = 0; c < classes; c++) {
        Lanes lanes = get(x + c * wide);
        if (top) {
            Flags higher = lanes > most;
            tops = (higher & (INTEGER)c) | (~higher & tops);
        }
        most = larger(lanes, most);
    }
    if (top) *top = tops;
    return most;
}

/* The values of LANES examples become their exponentials; return the sums, without those of the classes `top`. */
static inline Lanes sums_of_classes(REAL *x, int64_t classes, int64_t wide, Lanes peak, const Flags *top) {
    Lanes sum = {0};
    for (int64_t c = 0; c < classes; c++) {
        Lanes value = exp_of(get(x + c * wide) - peak);
        put(value, x + c * wide);
        if (top) value = choose(*top == (INTEGER)c, (Lanes){0}, value);
        sum += value;
    }
    return sum;
}

/* out := the values of a class times the share of each example, or minus half for its label. */
static inline void put_class(const REAL *x, int64_t c, int64_t wide, const INTEGER *label, const Examples *of, REAL *out) {
    for (int64_t t = 0; t < wide; t += LANES) {
        Flags labels;
        memcpy(&labels, label + t, sizeof labels);
        Lanes share = get(of->peak + t), other = choose(share == 0, (Lanes){0}, get(x + t) * share);
        put(choose(labels == (INTEGER)c, -get(of->half + t), other), out + t);
    }
}

/* The index of the first example of a tile with a logit that is not finite, or -1 if all of those are ignored. */
static int64_t index_of_odd(const REAL *values, const INTEGER *label, int64_t width, int64_t wide, int64_t classes) {
    for (int64_t t = 0; t < width; t++)
        for (int64_t c = 0; c < classes && label[t] >= 0; c++)
            if (values[c * wide + t] * 0 != 0) return t;
    return -1;
}

static int tile(const Job *job, int64_t number, REAL *values, double *sums, int64_t *where) {
    int64_t wide = job->span, tiles = (job->inner + wide - 1) / wide, classes = job->classes;
    int64_t outer = number / tiles, start = number % tiles * wide;
    int64_t width = job->inner - start < wide ? job->inner - start : wide;
    int64_t base = outer * classes * job->inner + start, first = outer * job->inner + start;
    Examples of = {0};
    INTEGER label[SPAN], top[SPAN] = {0};
    for (int64_t t = 0; t < wide; t++) {
        int counts = t < width && job->labels[first + t] != job->ignore_index;
        label[t] = counts ? (INTEGER)job->labels[first + t] : -1;
        of.peak[t] = job->half && counts ? ((const REAL *)job->peak)[first + t] : 0;
    }
    int summed = job->exps_kept, writes = job->out && !job->keep_exps;
    if (!summed || writes) {
        Lanes odd = copy_tile(job, base, width, wide, values);
        if (!summed && total(odd) != 0) {
            int64_t wrong = index_of_odd(values, label, width, wide, classes);
            *where = first + wrong;
            if (wrong >= 0) return NOT_FINITE;
        }
    }
    for (int64_t t = 0; t < width && !summed; t++) {
        if (label[t] < 0) continue;
        REAL *own = values + label[t] * wide + t;
        of.own[t] = *own, *own = -INFINITY;
    }
    for (int64_t t = 0; t < wide && !summed; t += LANES) {
        Flags tops = {0};
        Flags *likeliest = job->statistics ? &tops : NULL;
        Lanes peak = job->half ? get(of.peak + t) : largest_class(values + t, classes, wide, likeliest);
        put(peak, of.peak + t);
        put(sums_of_classes(values + t, classes, wide, peak, likeliest), of.sum + t);
        memcpy(top + t, &tops, sizeof tops);
    }
    for (int64_t t = 0; t < width; t++) {
        of.without[t] = of.sum[t];
        if (summed) of.sum[t] = ((const REAL *)job->sum)[first + t];
        if (job->statistics) {
            of.sum[t] += 1; /* of the most probable of the other classes */
            if (of.own[t] >= of.peak[t]) top[t] = label[t];
            of.top[t] = (int32_t)top[t];
        }
        if (label[t] < 0) of.own[t] = of.peak[t] = 0, of.sum[t] = 1;
    }
    weighted_terms(job, first, width, &of, sums);
    for (int64_t t = 0; t < width; t++)
        if (label[t] < 0) ignore(job, first + t);
    if (job->statistics) add_tile(job, first, width, wide, values, label, top, &of, sums);
    if (job->statistics && job->margins) memcpy((REAL *)job->sum + first, of.sum, width * sizeof(REAL));
    if (!job->out || (job->keep_exps && summed)) return OK;
    for (int64_t t = 0; t < width; t++) {
        of.half[t] = label[t] < 0 ? 0 : of.half[t];
        of.peak[t] = label[t] < 0 ? 0 : of.half[t] / of.sum[t]; /* from here on, the factor of exp */
    }
    for (int64_t c = 0; c < classes; c++) {
        REAL *x = values + c * wide;
        int64_t at = base + c * job->inner;
        if (writes && is_plain(job) && width == wide) {
            put_class(x, c, wide, label, &of, (REAL *)job->out + at);
            continue;
        }
        if (writes) put_class(x, c, wide, label, &of, x);
        store(x, width, job->dtype, job->out, at);
    }
    return OK;
}
