/* What one step does with its examples: sum exponentials, look the weights up, write the derivative. See rows.c. */
#include "lanes.h"

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { OK, BAD_LABEL, NOT_FINITE, NO_MEMORY, UNSUPPORTED };
enum { MAX_THREADS = 64, TERMS = 9 };           /* TERMS: DEGREE + 1 of the table's polynomials */
static const double REACH = 10.596634733096073; /* asinh(2e4) */
static const double MARGIN_REACH = 2e4;

typedef struct {
    const void *logits;
    void *out; /* like logits, may be the same memory; NULL: no derivative */
    const int64_t *labels;
    const float *factor; /* of each example, or NULL for 1 */
    const double *table; /* NULL: margins only */
    double *log_w;       /* room for log w: margins and this only */
    float *loss, *margin, *peak, *sum;
    const float *half; /* given half weights: write the derivative from peak and sum */
    int64_t outer, classes, inner, ignore_index;
    double scale, loss_scale;
    int dtype;
} Job;

static void load(const void *source, int64_t at, int64_t n, int dtype, float *x) {
    if (dtype == BFLOAT16) {
        const uint16_t *halves = (const uint16_t *)source + at;
        for (int64_t j = 0; j < n; j++) {
            uint32_t bits = (uint32_t)halves[j] << 16;
            memcpy(x + j, &bits, 4);
        }
    } else {
#ifdef __FLT16_MANT_DIG__
        const _Float16 *halves = (const _Float16 *)source + at;
        for (int64_t j = 0; j < n; j++) x[j] = (float)halves[j];
#endif
    }
}

static void store(const float *x, int64_t n, int dtype, void *target, int64_t at) {
    if (dtype == BFLOAT16) {
        uint16_t *halves = (uint16_t *)target + at;
        for (int64_t j = 0; j < n; j++) { /* round to nearest even; no NaN comes here */
            uint32_t bits;
            memcpy(&bits, x + j, 4);
            halves[j] = (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        }
    } else {
#ifdef __FLT16_MANT_DIG__
        _Float16 *halves = (_Float16 *)target + at;
        for (int64_t j = 0; j < n; j++) halves[j] = (_Float16)x[j];
#endif
    }
}

enum { SPAN = 256, LONG = 65536 }; /* examples that a step takes at most; classes that a float sum takes */

/* --- what is done once per example -------------------------------------------------------------------------------- */

/* Examples first..first+n, not ignored ones among them: keep what is asked for; half := half their weights, with
 * factor and scale. */
static void weigh(const Job *job, int64_t first, int64_t n, const float *own, const float *peak, const float *sum,
                  float *half) {
    if (job->half) {
        memcpy(half, job->half + first, n * sizeof(float));
        return;
    }
    if (!job->table) {
        for (int64_t t = 0; t < n; t++) {
            job->margin[first + t] = (float)((double)own[t] - (double)peak[t] - log_of(sum[t]));
            job->peak[first + t] = peak[t];
            job->sum[first + t] = sum[t];
        }
        return;
    }
    /* MarginTable.__call__. Loops without a table look-up are vectorised, so that one stands alone. */
    const double *table = job->table;
    const double cells = table[0], max_margin = table[1], left = table[2], right = table[3];
    const double scale = 0.5 * job->scale, loss_scale = job->loss_scale;
    const double loss_left = table[4], loss_right = table[5], end = table[6 + 2 * TERMS * (int64_t)cells];
    double margin[SPAN], x[SPAN], log_w[SPAN], loss[SPAN], factor[SPAN];
    int32_t cell[SPAN];
    for (int64_t t = 0; t < n; t++) {
        margin[t] = (double)own[t] - (double)peak[t];
        x[t] = sum[t];
        factor[t] = job->factor ? job->factor[first + t] : 1.0;
    }
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        double u = margin[t] - log_of(x[t]);
        margin[t] = u;
        u = u > max_margin ? max_margin : u;
        double size = u < 0.0 ? -u : u;
        double bounded = size < MARGIN_REACH ? size : MARGIN_REACH;
        double arcsinh = log_of(bounded + sqrt(bounded * bounded + 1.0));
        double position = ((u < 0.0 ? -arcsinh : arcsinh) + REACH) * (cells / (2.0 * REACH));
        position = position < 0.0 ? 0.0 : position;
        int32_t index = (int32_t)(position < cells - 1.0 ? position : cells - 1.0);
        cell[t] = index;
        x[t] = 2.0 * (position - index) - 1.0;
    }
    for (int64_t t = 0; t < n; t++) {
        const double *row = table + 6 + 2 * TERMS * cell[t];
        double a = row[TERMS - 1], b = row[2 * TERMS - 1];
        for (int k = TERMS - 2; k >= 0; k--) {
            a = a * x[t] + row[k];
            b = b * x[t] + row[TERMS + k];
        }
        log_w[t] = a;
        loss[t] = b;
    }
    if (job->log_w) {
        for (int64_t t = 0; t < n; t++) {
            double beyond = margin[t] > MARGIN_REACH    ? right * (margin[t] - MARGIN_REACH)
                            : margin[t] < -MARGIN_REACH ? left * (margin[t] + MARGIN_REACH)
                                                        : 0.0;
            job->log_w[first + t] = margin[t] > max_margin ? -INFINITY : log_w[t] + beyond;
            job->margin[first + t] = (float)margin[t];
            job->peak[first + t] = peak[t];
            job->sum[first + t] = sum[t];
        }
        return;
    }
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        double u = margin[t] > max_margin ? max_margin : margin[t];
        double over = u > MARGIN_REACH ? u - MARGIN_REACH : 0.0, under = u < -MARGIN_REACH ? u + MARGIN_REACH : 0.0;
        double weight = exp_of_double(log_w[t] + under * left + over * right);
        double value = loss[t] + under * loss_left + over * loss_right;
        x[t] = margin[t] > max_margin ? 0.0 : scale * factor[t] * weight;
        value = margin[t] > max_margin ? end : value;
        loss[t] = factor[t] == 0.0 ? 0.0 : loss_scale * factor[t] * value;
    }
    for (int64_t t = 0; t < n; t++) {
        half[t] = (float)x[t];
        job->loss[first + t] = (float)loss[t];
    }
}

static void ignore(const Job *job, int64_t example) {
    if (job->loss) job->loss[example] = 0.0f;
    if (job->log_w) job->log_w[example] = -INFINITY;
    if (job->margin && !job->half) {
        job->margin[example] = job->peak[example] = 0.0f;
        job->sum[example] = 1.0f;
    }
}

/* --- examples whose classes lie side by side (inner = 1), some rows at a time ------------------------------------- */

/* n < LANES numbers, 0 in the other places. */
static inline Lanes get_some(const float *x, int n) {
    float some[LANES];
#pragma omp simd
    for (int k = 0; k < LANES; k++) some[k] = k < n ? x[k] : 0.0f;
    return get(some);
}

static inline void put_some(Lanes lanes, int n, float *x) {
    float some[LANES];
    put(lanes, some);
#pragma omp simd
    for (int k = 0; k < LANES; k++)
        if (k < n) x[k] = some[k];
}

static inline void find_max(const float *x, int64_t first, int64_t last, Lanes *most, Lanes *odd) {
    Lanes a = *most, b = a, c = a, d = a, wrong = *odd, other = {0};
    int64_t j = first;
    for (; j + 4 * LANES <= last; j += 4 * LANES) {
        Lanes p = get(x + j), q = get(x + j + LANES), r = get(x + j + 2 * LANES), s = get(x + j + 3 * LANES);
        a = larger(p, a), b = larger(q, b), c = larger(r, c), d = larger(s, d);
        wrong += p * 0.0f + q * 0.0f;
        other += r * 0.0f + s * 0.0f;
    }
    for (; j < last; j += LANES) {
        Lanes p = get(x + j);
        a = larger(p, a);
        wrong += p * 0.0f;
    }
    *most = larger(larger(a, b), larger(c, d));
    *odd = wrong + other;
}

static inline Lanes add_exps(const float *x, float *e, int64_t first, int64_t last, Lanes peak, Lanes sum) {
    if (e)
        for (int64_t j = first; j < last; j += LANES) {
            Lanes value = exp_of(get(x + j) - peak);
            put(value, e + j);
            sum += value;
        }
    else
        for (int64_t j = first; j < last; j += LANES) sum += exp_of(get(x + j) - peak);
    return sum;
}

/* Max and sum of exp over the other classes; e := the exps, 0 for the label, unless NULL; e may be x. In whole blocks:
 * the block that holds the label, and a last one that is broken, are patched with -inf. */
static inline int sweep(const float *x, float *e, int64_t classes, int64_t label, const float *known, float *peak,
                        float *sum) {
    const Lanes never = all(-INFINITY);
    int64_t whole = classes / LANES * LANES, own = label / LANES * LANES;
    int rest = (int)(classes - whole), broken = rest > 0, own_is_last = own == whole;
    Lanes last = broken ? get_some(x + whole, rest) : never, at_own = own_is_last ? last : get(x + own);
    Lanes odd = at_own * 0.0f + (broken ? last * 0.0f : (Lanes){0});
    last = broken ? choose(PLACES < rest, last, never) : never;
    at_own = choose(PLACES == (int32_t)(label - own), never, own_is_last ? last : at_own);
    int64_t next = own_is_last ? whole : own + LANES;
    float highest;
    if (known) {
        highest = *known;
        odd = (Lanes){0};
    } else {
        Lanes most = own_is_last ? at_own : larger(at_own, last);
        find_max(x, 0, own, &most, &odd);
        find_max(x, next, whole, &most, &odd);
        highest = largest(most);
    }
    Lanes top = all(highest);
    at_own = exp_of(at_own - top);
    last = exp_of(last - top);
    Lanes sums = (own_is_last ? at_own : at_own + last) + odd; /* NaN if a number is not finite */
    double all_of_it = 0.0; /* a long sum in float would lose digits */
    int64_t bounds[] = {0, own, next, whole};
    for (int k = 0; k < 4; k += 2)
        for (int64_t start = bounds[k], stop; start < bounds[k + 1]; start = stop) {
            stop = bounds[k + 1] - start > LONG ? start + LONG : bounds[k + 1];
            if (start > bounds[k]) all_of_it += total(sums), sums = (Lanes){0};
            sums = add_exps(x, e, start, stop, top, sums);
        }
    all_of_it += total(sums);
    if (e) {
        if (own_is_last)
            put_some(at_own, rest, e + whole);
        else {
            put(at_own, e + own);
            if (broken) put_some(last, rest, e + whole);
        }
    }
    *peak = highest;
    *sum = (float)all_of_it;
    return all_of_it == all_of_it ? OK : NOT_FINITE;
}

static int64_t group_size(const Job *job) { /* a group's logits stay in the cache between its sweeps */
    int64_t rows = 65536 / job->classes;
    return rows < 1 ? 1 : rows > SPAN ? SPAN : rows;
}

static int group(const Job *job, int64_t first, int64_t rows, float *scratch, int64_t *where) {
    float own[SPAN] = {0}, peak[SPAN] = {0}, sum[SPAN] = {0}, half[SPAN];
    int64_t classes = job->classes;
    int plain = job->dtype == FLOAT32;
    for (int64_t t = 0; t < rows; t++) {
        int64_t label = job->labels[first + t], at = (first + t) * classes;
        own[t] = peak[t] = 0.0f;
        sum[t] = 1.0f;
        if (label == job->ignore_index) continue;
        float *values = scratch + t * classes;
        const float *x = plain ? (const float *)job->logits + at : values;
        if (!plain) load(job->logits, at, classes, job->dtype, values);
        float *e = job->out ? (plain ? (float *)job->out + at : values) : NULL;
        own[t] = x[label];
        int status = sweep(x, e, classes, label, job->half ? job->peak + first + t : NULL, peak + t, sum + t);
        if (status != OK) {
            *where = first + t;
            return status;
        }
    }
    weigh(job, first, rows, own, peak, sum, half);
    for (int64_t t = 0; t < rows; t++) {
        int64_t label = job->labels[first + t], at = (first + t) * classes, width = plain ? 4 : 2;
        if (label == job->ignore_index) {
            ignore(job, first + t);
            if (job->out) memset((char *)job->out + at * width, 0, classes * width);
            continue;
        }
        if (!job->out) continue;
        float *e = plain ? (float *)job->out + at : scratch + t * classes, share = half[t] / sum[t];
        for (int64_t j = 0; j < classes; j++) e[j] *= share;
        e[label] = -half[t];
        if (!plain) store(e, classes, job->dtype, job->out, at);
    }
    return OK;
}

/* --- a tile of examples whose classes lie `inner` apart ---------------------------------------------------------- */

static int64_t tile_width(const Job *job) { /* a tile's logits stay in the cache between its sweeps */
    int64_t width = 65536 / job->classes / LANES * LANES, needed = (job->inner + LANES - 1) / LANES * LANES;
    width = width < LANES ? LANES : width > SPAN ? SPAN : width;
    return width < needed ? width : needed;
}

static int tile(const Job *job, int64_t number, float *values, int64_t *where) {
    int64_t wide = tile_width(job), tiles = (job->inner + wide - 1) / wide;
    int64_t outer = number / tiles, start = number % tiles * wide;
    int64_t width = job->inner - start < wide ? job->inner - start : wide;
    int64_t base = outer * job->classes * job->inner + start, first = outer * job->inner + start;
    int plain = job->dtype == FLOAT32;
    const Lanes never = all(-INFINITY);
    float own[SPAN] = {0}, peak[SPAN] = {0}, sum[SPAN] = {0}, half[SPAN] = {0}, odd[SPAN] = {0};
    int32_t label[SPAN];
    for (int64_t t = 0; t < wide; t++) {
        int counts = t < width && job->labels[first + t] != job->ignore_index;
        label[t] = counts ? (int32_t)job->labels[first + t] : -1;
        peak[t] = job->half && counts ? job->peak[first + t] : -INFINITY;
    }
    for (int64_t c = 0; c < job->classes; c++) {
        int64_t at = base + c * job->inner;
        float *x = values + c * wide;
        if (plain)
            memcpy(x, (const float *)job->logits + at, width * sizeof(float));
        else
            load(job->logits, at, width, job->dtype, x);
        for (int64_t t = 0; t < wide; t += LANES) {
            Flags labels, is_own;
            memcpy(&labels, label + t, sizeof labels);
            is_own = labels == (int32_t)c;
            Lanes lanes = get(x + t);
            put(get(odd + t) + lanes * 0.0f, odd + t);
            put(choose(is_own, lanes, get(own + t)), own + t);
            lanes = choose(is_own, never, lanes);
            put(lanes, x + t);
            if (!job->half) put(larger(lanes, get(peak + t)), peak + t);
        }
    }
    for (int64_t t = 0; t < width; t++) {
        if (odd[t] != 0.0f && label[t] >= 0) { /* NaN */
            *where = first + t;
            return NOT_FINITE;
        }
    }
    for (int64_t c = 0; c < job->classes; c++) {
        float *x = values + c * wide;
        for (int64_t t = 0; t < wide; t += LANES) {
            Lanes value = exp_of(get(x + t) - get(peak + t));
            put(value, x + t);
            put(get(sum + t) + value, sum + t);
        }
    }
    for (int64_t t = 0; t < width; t++) {
        if (label[t] < 0) own[t] = peak[t] = 0.0f, sum[t] = 1.0f;
    }
    weigh(job, first, width, own, peak, sum, half);
    for (int64_t t = 0; t < width; t++) {
        if (label[t] < 0) ignore(job, first + t);
        half[t] = label[t] < 0 ? 0.0f : half[t];
        peak[t] = label[t] < 0 ? 0.0f : half[t] / sum[t]; /* from here on: the share of each unit of exp */
    }
    if (!job->out) return OK;
    for (int64_t c = 0; c < job->classes; c++) {
        int64_t at = base + c * job->inner;
        float *x = values + c * wide;
        for (int64_t t = 0; t < wide; t += LANES) {
            Flags labels;
            memcpy(&labels, label + t, sizeof labels);
            Lanes share = get(peak + t), other = choose(share == 0.0f, (Lanes){0}, get(x + t) * share);
            put(choose(labels == (int32_t)c, -get(half + t), other), x + t);
        }
        if (plain)
            memcpy((float *)job->out + at, x, width * sizeof(float));
        else
            store(x, width, job->dtype, job->out, at);
    }
    return OK;
}
