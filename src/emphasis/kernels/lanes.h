/* Vectors of REAL (float, or double with REAL_IS_DOUBLE) of the width of the instruction set: 64 bytes with AVX-512, 32
 * with AVX2, 16 with SSE and NEON; and the exponential of such a vector. */
#ifndef EMPHASIS_LANES_H
#define EMPHASIS_LANES_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define VECTOR_BYTES 64
#define X86(name) JOIN(_mm512_##name##_, SUFFIX)
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define X86(name) JOIN(_mm256_##name##_, SUFFIX)
#else
#define VECTOR_BYTES 16
#define X86(name) JOIN(_mm_##name##_, SUFFIX)
#endif

#ifdef REAL_IS_DOUBLE
typedef double REAL;
typedef int64_t INTEGER;
#define SUFFIX pd
enum { MANTISSA_BITS = 52, LOWEST_POWER = -1022 };
#else
typedef float REAL;
typedef int32_t INTEGER;
#define SUFFIX ps
enum { MANTISSA_BITS = 23, LOWEST_POWER = -126 };
#endif

typedef REAL Lanes __attribute__((vector_size(VECTOR_BYTES)));
typedef INTEGER Flags __attribute__((vector_size(VECTOR_BYTES))); /* -1 or 0 */
enum { LANES = VECTOR_BYTES / sizeof(REAL) };

static inline Flags places(void) { /* 0, 1, 2, ... */
    static const INTEGER numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Flags flags;
    memcpy(&flags, numbers, sizeof flags);
    return flags;
}

static inline Lanes all(REAL x) { return x - (Lanes){0}; }

static inline Lanes get(const REAL *x) {
    Lanes lanes;
    memcpy(&lanes, x, sizeof lanes);
    return lanes;
}

static inline void put(Lanes lanes, REAL *x) { memcpy(x, &lanes, sizeof lanes); }

static inline Lanes choose(Flags yes, Lanes a, Lanes b) { return (Lanes)((yes & (Flags)a) | (~yes & (Flags)b)); }

/* n < LANES numbers, and `other` in the other lanes, whose memory is not accessed. */
static inline Lanes get_some(const REAL *x, int n, REAL other) {
#if VECTOR_BYTES == 64
    return X86(mask_loadu)(all(other), (1u << n) - 1u, x);
#elif VECTOR_BYTES == 32
    Flags there = places() < (INTEGER)n;
    return choose(there, X86(maskload)((const void *)x, (__m256i)there), all(other));
#else
    REAL some[LANES];
    for (int k = 0; k < LANES; k++) some[k] = k < n ? x[k] : other;
    return get(some);
#endif
}

static inline void put_some(Lanes lanes, int n, REAL *x) {
#if VECTOR_BYTES == 64
    X86(mask_storeu)(x, (1u << n) - 1u, lanes);
#elif VECTOR_BYTES == 32
    X86(maskstore)((void *)x, (__m256i)(places() < (INTEGER)n), lanes);
#else
    for (int k = 0; k < n; k++) x[k] = lanes[k];
#endif
}

static inline Lanes larger(Lanes a, Lanes b) { /* b if either is NaN on x86, so NaN is checked separately */
#ifdef __x86_64__
    return X86(max)(a, b);
#else
    return choose(a > b, a, b);
#endif
}

static inline Lanes smaller(Lanes a, Lanes b) { /* b if either is NaN on x86 */
#ifdef __x86_64__
    return X86(min)(a, b);
#else
    return choose(a < b, a, b);
#endif
}

static inline REAL largest(Lanes lanes) {
#if VECTOR_BYTES == 64
    return X86(reduce_max)(lanes);
#else
    REAL x[LANES];
    put(lanes, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) x[k] = x[k] > x[k + half] ? x[k] : x[k + half];
    return x[0];
#endif
}

static inline REAL total(Lanes lanes) {
#if VECTOR_BYTES == 64
    return X86(reduce_add)(lanes);
#else
    REAL x[LANES];
    put(lanes, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) x[k] += x[k + half];
    return x[0];
#endif
}

static inline int any(Flags flags) {
#if VECTOR_BYTES == 64
    return _mm512_test_epi32_mask((__m512i)flags, (__m512i)flags) != 0;
#elif VECTOR_BYTES == 32
    return !_mm256_testz_si256((__m256i)flags, (__m256i)flags);
#else
    INTEGER one = 0, each[LANES];
    memcpy(each, &flags, sizeof flags);
    for (int k = 0; k < LANES; k++) one |= each[k];
    return one != 0;
#endif
}

/* A bit for each lane. */
static inline unsigned bits_of(Flags flags) {
#if VECTOR_BYTES == 64 && defined(REAL_IS_DOUBLE)
    return _mm512_movepi64_mask((__m512i)flags);
#elif VECTOR_BYTES == 64
    return _mm512_movepi32_mask((__m512i)flags);
#elif defined(__x86_64__)
    return (unsigned)X86(movemask)((Lanes)flags);
#else
    unsigned bits = 0;
    for (int k = 0; k < LANES; k++) bits |= (unsigned)(flags[k] & 1) << k;
    return bits;
#endif
}

/* e^x for x < 700 in double and x < 88 in float, accurate to 1e-15 and 2e-7 or the rounding of x; 0 where e^x is not a
 * normal number. Subnormal lanes are masked and not computed, since they take a hundred times as long. */
static inline Lanes exp_of(Lanes x) {
#ifdef REAL_IS_DOUBLE
    const REAL magic = 6755399441055744.0; /* adding it leaves the rounded number in the low bits */
#else
    const REAL magic = 12582912.0f;
#endif
    Lanes y = x * (REAL)1.4426950408889634;
    Lanes bounded = larger(y, all(LOWEST_POWER));
#if VECTOR_BYTES == 64
    Lanes n = X86(roundscale)(bounded, 0);
    (void)magic;
#else
    Lanes shifted = bounded + magic, n = shifted - magic;
#endif
#ifdef REAL_IS_DOUBLE
    Lanes r = larger(x, all(LOWEST_POWER * 0.6931471805599453)) - n * 6.93147180369123816490e-01;
    r = r - n * 1.90821492927058770002e-10; /* e^r, |r| <= log(2) / 2 */
    Lanes power = all(1.0 / 6227020800);
    power = power * r + 1.0 / 479001600;
    power = power * r + 1.0 / 39916800;
    power = power * r + 1.0 / 3628800;
    power = power * r + 1.0 / 362880;
    power = power * r + 1.0 / 40320;
    power = power * r + 1.0 / 5040;
    power = power * r + 1.0 / 720;
    power = power * r + 1.0 / 120;
    power = power * r + 1.0 / 24;
    power = power * r + 1.0 / 6;
    power = power * r + 0.5;
    power = power * r + 1.0;
    power = power * r + 1.0;
#else
    Lanes f = bounded - n; /* 2^f for |f| <= 1/2, minimax polynomial accurate to 1e-7 */
    Lanes power = all(1.326472630e-3f);
    power = power * f + 9.671513010e-3f;
    power = power * f + 5.550733749e-2f;
    power = power * f + 2.402224208e-1f;
    power = power * f + 6.931469776e-1f;
    power = power * f + 1.0f;
#endif
#if VECTOR_BYTES == 64
    return X86(maskz_scalef)(JOIN(JOIN(_mm512_cmp_, SUFFIX), _mask)(y, bounded, _CMP_EQ_OQ), power, n);
#else
    return choose(y >= (REAL)LOWEST_POWER, (Lanes)((Flags)power + ((Flags)shifted << MANTISSA_BITS)), (Lanes){0});
#endif
}
#endif
