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
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

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
    float *loss, *margin, *peak, *sum;
    const float *half; /* given half weights: write the derivative from peak and sum */
    int64_t outer, classes, inner, ignore_index;
    double scale, loss_scale;
    int dtype;
} Job;

typedef struct {
    const Job *job;
    int64_t first, last; /* steps: tiles or groups of rows */
    int64_t where;       /* first example that is not finite, -1 for none */
    int status;
    pthread_t thread;
} Share;

/* --- elementary: vectorised by any compiler, so no call of libm ------------------------------------------------- */

/* Sixteen numbers at a time, in whatever vectors the processor has. */
enum { LANES = 16 };
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t Flags __attribute__((vector_size(64))); /* -1 or 0 */
typedef union { double value; int64_t bits; } Double;
static const Flags PLACES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline Lanes all(float x) { return x - (Lanes){0}; }

static inline Lanes get(const float *x) {
    Lanes lanes;
    memcpy(&lanes, x, sizeof lanes);
    return lanes;
}

static inline void put(Lanes lanes, float *x) { memcpy(x, &lanes, sizeof lanes); }

static inline Lanes choose(Flags yes, Lanes a, Lanes b) { return (Lanes)((yes & (Flags)a) | (~yes & (Flags)b)); }

static inline Lanes larger(Lanes a, Lanes b) { return choose(a > b, a, b); }

static inline float largest(Lanes lanes) {
    float x[LANES];
    put(lanes, x);
    for (int k = 0; k < 8; k++) x[k] = x[k] > x[k + 8] ? x[k] : x[k + 8];
    for (int k = 0; k < 4; k++) x[k] = x[k] > x[k + 4] ? x[k] : x[k + 4];
    float even = x[0] > x[2] ? x[0] : x[2], uneven = x[1] > x[3] ? x[1] : x[3];
    return even > uneven ? even : uneven;
}

static inline float total(Lanes lanes) {
    float x[LANES];
    put(lanes, x);
    for (int k = 0; k < 8; k++) x[k] += x[k + 8];
    for (int k = 0; k < 4; k++) x[k] += x[k + 4];
    return (x[0] + x[2]) + (x[1] + x[3]);
}

/* e^x for x <= 0, to 2e-7 where x > -1 and to the rounding of x elsewhere; 0 below the smallest normal number. */
static inline Lanes exp_of(Lanes x) {
    Lanes y = x * 1.44269504f, bounded = larger(y, all(-126.0f));
    Lanes shifted = bounded + 12582912.0f; /* its low bits hold round(y) */
    Lanes f = bounded - (shifted - 12582912.0f);
    Lanes poly = all(1.326472630e-3f); /* 2^f, minimax */
    poly = poly * f + 9.671513010e-3f;
    poly = poly * f + 5.550733749e-2f;
    poly = poly * f + 2.402224208e-1f;
    poly = poly * f + 6.931469776e-1f;
    poly = poly * f + 1.0f;
    return choose(y < -126.0f, (Lanes){0}, (Lanes)((Flags)poly + ((Flags)shifted << 23)));
}

/* e^x to 1e-11, x held within +-700. */
static inline double exp_of_double(double x) {
    x = x < -700.0 ? -700.0 : x > 700.0 ? 700.0 : x;
    Double shifted = {x * 1.4426950408889634 + 6755399441055744.0};
    double n = shifted.value - 6755399441055744.0;
    double r = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
    double poly = 1.0 / 3628800;
    poly = poly * r + 1.0 / 362880;
    poly = poly * r + 1.0 / 40320;
    poly = poly * r + 1.0 / 5040;
    poly = poly * r + 1.0 / 720;
    poly = poly * r + 1.0 / 120;
    poly = poly * r + 1.0 / 24;
    poly = poly * r + 1.0 / 6;
    poly = poly * r + 0.5;
    poly = poly * r + 1.0;
    Double power = {poly * r + 1.0};
    power.bits += (int64_t)((uint64_t)shifted.bits << 52);
    return power.value;
}

/* log x to 1e-13, x a positive normal number. */
static inline double log_of(double x) {
    Double mantissa = {x}, exponent = {x};
    exponent.bits = (int64_t)((uint64_t)exponent.bits >> 52) | 0x4330000000000000; /* 2^52 + exponent, as a double */
    double e = exponent.value - (4503599627370496.0 + 1023.0);
    mantissa.bits = (mantissa.bits & 0x000fffffffffffff) | 0x3ff0000000000000;
    double m = mantissa.value;
    e = m > 1.4142135623730951 ? e + 1.0 : e;
    m = m > 1.4142135623730951 ? 0.5 * m : m;
    double f = (m - 1.0) / (m + 1.0), g = f * f;
    double poly = 1.0 / 17;
    poly = poly * g + 1.0 / 15;
    poly = poly * g + 1.0 / 13;
    poly = poly * g + 1.0 / 11;
    poly = poly * g + 1.0 / 9;
    poly = poly * g + 1.0 / 7;
    poly = poly * g + 1.0 / 5;
    poly = poly * g + 1.0 / 3;
    return e * 0.6931471805599453 + 2.0 * f * (poly * g + 1.0);
}

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

enum { SPAN = 256 }; /* examples that a step takes at most */

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
    for (int64_t start = 0; start < own; start += 65536, sums = (Lanes){0}) {
        int64_t stop = own - start > 65536 ? start + 65536 : own;
        all_of_it += total(add_exps(x, e, start, stop, top, sums));
    }
    for (int64_t start = next; start < whole; start += 65536, sums = (Lanes){0}) {
        int64_t stop = whole - start > 65536 ? start + 65536 : whole;
        all_of_it += total(add_exps(x, e, start, stop, top, sums));
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
    int64_t needed = job->inner > 1 ? job->classes * wide : job->dtype == FLOAT32 ? 0 : job->classes * wide;
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

static int run(const Job *job, int threads, int64_t *where) {
    int64_t steps = steps_of(job);
    threads = threads > MAX_THREADS ? MAX_THREADS : threads;
    threads = threads > steps ? (int)steps : threads;
    /* A thread takes about as long to start as 100,000 elements to compute. */
    int64_t useful = 1 + job->outer * job->classes * job->inner / 500000;
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
    *still = 1.0;
    if (defer) {
        int exponent;
        frexp(scale, &exponent);
        *still = ldexp(1.0, exponent);
    }
    job.scale = scale / *still;
    job.loss_scale = scale;
    if (mean >= 0 && !(job.loss = malloc(examples * sizeof(float)))) return NO_MEMORY;
    if (out && out != logits) ask_for_huge_pages(out, (size_t)examples * classes * (dtype == FLOAT32 ? 4 : 2));
    status = run(&job, threads, where);
    if (mean >= 0) {
        for (int64_t i = 0; i < examples && status == OK; i++) sum += job.loss[i];
        *loss = (float)sum;
        free(job.loss);
    }
    return status;
}

/* Margins, and what emphasis_write needs of each example. */
int emphasis_margins(const void *logits, const int64_t *labels, float *margin, float *peak, float *sum, int64_t outer,
                     int64_t classes, int64_t inner, int64_t ignore_index, int dtype, int threads, int64_t *where) {
    if (!supported(dtype)) return UNSUPPORTED;
    double counted;
    Job job = {.logits = logits, .labels = labels, .margin = margin, .peak = peak, .sum = sum, .outer = outer, .classes = classes,
               .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    int status = checked(&job, outer * inner, &counted, where);
    return status == OK ? run(&job, threads, where) : status;
}

/* The derivative from half weights, of logits that emphasis_margins has seen. */
int emphasis_write(const void *logits, void *out, const int64_t *labels, const float *half, float *peak, float *sum,
                   int64_t outer, int64_t classes, int64_t inner, int64_t ignore_index, int dtype, int threads) {
    int64_t where;
    Job job = {.logits = logits, .out = out, .labels = labels, .half = half, .peak = peak, .sum = sum,
               .outer = outer, .classes = classes, .inner = inner, .ignore_index = ignore_index, .dtype = dtype};
    if (out != logits) ask_for_huge_pages(out, (size_t)outer * inner * classes * (dtype == FLOAT32 ? 4 : 2));
    return run(&job, threads, &where);
}
