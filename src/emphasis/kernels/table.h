/* A weighting as a table of the margin, read from `packed` of MarginTable in weighting/margin_table.py; and exponentials
 * and logarithms in double that any compiler vectorizes. */
#ifndef EMPHASIS_TABLE_H
#define EMPHASIS_TABLE_H
#include <math.h>
#include <stdint.h>

enum { TERMS = 9, OCTAVES = 15, HEADER = 8, POWER = 6, LEVEL = 7 }; /* TERMS: DEGREE + 1 of the polynomials */
static const double MARGIN_REACH = 2e4;
typedef union { double value; uint64_t bits; } Double;

/* e^x accurate to 1e-15, with x clamped to +-700. */
static inline double exp_of_double(double x) {
    x = x < -700.0 ? -700.0 : x > 700.0 ? 700.0 : x;
    Double shifted = {x * 1.4426950408889634 + 6755399441055744.0};
    double n = shifted.value - 6755399441055744.0;
    double r = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
    double poly = 1.0 / 6227020800;
    poly = poly * r + 1.0 / 479001600;
    poly = poly * r + 1.0 / 39916800;
    poly = poly * r + 1.0 / 3628800;
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
    power.bits += shifted.bits << 52;
    return power.value;
}

/* log x of a positive normal number x, accurate to 1e-16, in absolute terms where |log x| < 1. */
static inline double log_of(double x) {
    Double mantissa = {x}, exponent = {x};
    exponent.bits = exponent.bits >> 52 | 0x4330000000000000; /* 2^52 + exponent, as a double */
    double e = exponent.value - (4503599627370496.0 + 1023.0);
    mantissa.bits = (mantissa.bits & 0x000fffffffffffff) | 0x3ff0000000000000;
    double m = mantissa.value;
    e = m > 1.4142135623730951 ? e + 1.0 : e;
    m = m > 1.4142135623730951 ? 0.5 * m : m;
    double f = (m - 1.0) / (m + 1.0), g = f * f;
    double poly = 1.0 / 21;
    poly = poly * g + 1.0 / 19;
    poly = poly * g + 1.0 / 17;
    poly = poly * g + 1.0 / 15;
    poly = poly * g + 1.0 / 13;
    poly = poly * g + 1.0 / 11;
    poly = poly * g + 1.0 / 9;
    poly = poly * g + 1.0 / 7;
    poly = poly * g + 1.0 / 5;
    poly = poly * g + 1.0 / 3;
    return e * 0.6931471805599453 + (2.0 * f + 2.0 * f * g * poly);
}

/* log(1 + e^-|x|), to full relative precision where it is small. */
static inline double log_one_plus_exp(double x) {
    double e = exp_of_double(x < 0.0 ? x : -x);
    return e < 1e-5 ? e - 0.5 * e * e : log_of(1.0 + e);
}

/* p_max, the largest probability. lead: the label's logit minus the largest other logit, 0 if that is positive. */
static inline double largest_probability(double log_p, double lead) { return exp_of_double(log_p - lead); }

/* The cell of a margin, and the position of the margin in the cell, from -1 to 1. */
static inline int32_t cell_of(double margin, uint64_t splits, double *x) {
    double size = margin < 0.0 ? -margin : margin;
    Double number = {1.0 + (size < MARGIN_REACH ? size : MARGIN_REACH)}, rest;
    uint64_t cell = (number.bits >> (52 - splits)) - (1023ull << splits);
    rest.bits = (number.bits << splits & 0x000fffffffffffff) | 0x3ff0000000000000; /* 1 to 2 */
    *x = 2.0 * rest.value - 3.0;
    return (int32_t)(margin < 0.0 ? cell + ((uint64_t)OCTAVES << splits) : cell);
}

/* The loss beyond the largest margin. */
static inline double end_of(const double *table) {
    return table[HEADER + 2 * TERMS * ((int64_t)2 * OCTAVES << (uint64_t)table[0])];
}

/* Look up n margins. log_w := log w, and -inf beyond the largest margin; value := the loss. Both are continued linearly
 * beyond the reach of the table. `cell` and `x` are scratch memory for n numbers. */
static inline void look_up(const double *table, int64_t n, const double *margin, double *log_w, double *value,
                           int32_t *cell, double *x) {
    const uint64_t splits = (uint64_t)table[0];
    const double max_margin = table[1], left = table[2], right = table[3], value_left = table[4], value_right = table[5];
    const double end = end_of(table);
#pragma omp simd
    for (int64_t t = 0; t < n; t++) cell[t] = cell_of(margin[t] > max_margin ? max_margin : margin[t], splits, x + t);
    for (int64_t t = 0; t < n; t++) { /* separate loop, since loops without look-ups are vectorized */
        const double *row = table + HEADER + 2 * TERMS * cell[t];
        double a = row[TERMS - 1], b = row[2 * TERMS - 1];
        for (int k = TERMS - 2; k >= 0; k--) {
            a = a * x[t] + row[k];
            b = b * x[t] + row[TERMS + k];
        }
        log_w[t] = a;
        value[t] = b;
    }
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        double u = margin[t] > max_margin ? max_margin : margin[t];
        double over = u > MARGIN_REACH ? u - MARGIN_REACH : 0.0, under = u < -MARGIN_REACH ? u + MARGIN_REACH : 0.0;
        log_w[t] = margin[t] > max_margin ? -INFINITY : log_w[t] + under * left + over * right;
        value[t] = margin[t] > max_margin ? end : value[t] + under * value_left + over * value_right;
    }
}
#endif
