/* Sixteen floats at a time, their exponential, and double exponentials and logarithms that any compiler vectorises. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

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

static inline Lanes power_of_two(Lanes f) { /* 2^f, |f| <= 1/2, minimax: to 1e-7 */
    Lanes poly = all(1.326472630e-3f);
    poly = poly * f + 9.671513010e-3f;
    poly = poly * f + 5.550733749e-2f;
    poly = poly * f + 2.402224208e-1f;
    poly = poly * f + 6.931469776e-1f;
    return poly * f + 1.0f;
}

/* e^x for x <= 0, to 2e-7 where x > -1 and to the rounding of x elsewhere; below the smallest normal number 0 or less
 * than that number. */
static inline Lanes exp_of(Lanes x) {
    Lanes y = x * 1.44269504f;
#ifdef __AVX512F__ /* has instructions for the two halves of it */
    y = (Lanes)_mm512_max_ps((__m512)y, _mm512_set1_ps(-200.0f));
    Lanes n = (Lanes)_mm512_roundscale_ps((__m512)y, 0);
    return (Lanes)_mm512_scalef_ps((__m512)power_of_two(y - n), (__m512)n);
#else
    Lanes bounded = larger(y, all(-126.0f));
    Lanes shifted = bounded + 12582912.0f; /* its low bits hold round(y) */
    Lanes power = power_of_two(bounded - (shifted - 12582912.0f));
    return choose(y < -126.0f, (Lanes){0}, (Lanes)((Flags)power + ((Flags)shifted << 23)));
#endif
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

