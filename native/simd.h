/* Vectors of the instruction set that the translation unit is compiled for.
 *
 * Arithmetic and comparison are the compiler's vector extension; this file has everything else. Every
 * multiply-add is written out (contraction is off), so that the operations on a row are the same in any
 * tile.
 */
#ifndef STATECAST_SIMD_H
#define STATECAST_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(STATECAST_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
#if defined(__AMX_BF16__)
#define STATECAST_INSTRUCTIONS amx
#elif defined(__AVX512BF16__)
#define STATECAST_INSTRUCTIONS avx512_bf16
#else
#define STATECAST_INSTRUCTIONS avx512
#endif
constexpr int VECTOR_BYTES = 64, TILE_ROWS = 6;
#elif defined(__AVX2__)
#define STATECAST_INSTRUCTIONS avx2
constexpr int VECTOR_BYTES = 32, TILE_ROWS = 3;
#elif defined(STATECAST_NEON)
#define STATECAST_INSTRUCTIONS neon
constexpr int VECTOR_BYTES = 16, TILE_ROWS = 6;
#else
#define STATECAST_INSTRUCTIONS portable
constexpr int VECTOR_BYTES = 16, TILE_ROWS = 2;
#endif

template <class T>
struct Vector;
template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(VECTOR_BYTES)));
    typedef float loose __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(VECTOR_BYTES)));
    typedef double loose __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
};
template <class T>
using V = typename Vector<T>::type;
template <class T>
constexpr int LANES = VECTOR_BYTES / (int)sizeof(T);

constexpr int LINE = 64; /* bytes of a line of the cache */

#define INLINE inline __attribute__((always_inline))
/* A loop over registers is compiled alone, so that the code around it takes no registers from it. */
#define APART __attribute__((noinline))
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
/* A loop over 0 to n - 1, unrolled. */
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

template <class T>
INLINE V<T> load(const T *p) {
    return *(const typename Vector<T>::loose *)p;
}
template <class T>
INLINE void store(T *p, V<T> v) {
    *(typename Vector<T>::loose *)p = v;
}
INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }
INLINE void prefetch_to_write(const void *p) { __builtin_prefetch(p, 1, 3); }
/* The first n lanes; the others are zero. */
template <class T>
INLINE V<T> load(const T *p, int n) {
    if (n >= LANES<T>) return load(p);
    V<T> v = {};
    memcpy(&v, p, (size_t)n * sizeof(T));
    return v;
}

/* least and most are NaN where x is: x86's instructions then return their second operand. */
#if defined(__AVX512F__)
INLINE V<float> all(float s) { return _mm512_set1_ps(s); }
INLINE V<double> all(double s) { return _mm512_set1_pd(s); }
INLINE V<float> fma(V<float> a, V<float> b, V<float> c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V<double> fma(V<double> a, V<double> b, V<double> c) { return _mm512_fmadd_pd(a, b, c); }
INLINE V<float> least(V<float> edge, V<float> x) { return _mm512_maskz_min_ps((__mmask16)-1, edge, x); }
INLINE V<float> most(V<float> edge, V<float> x) { return _mm512_maskz_max_ps((__mmask16)-1, edge, x); }
INLINE V<float> quotient(V<float> n, V<float> d) { /* by a reciprocal of 14 bits and one Newton step */
    const V<float> r = _mm512_maskz_rcp14_ps((__mmask16)-1, d), q = n * r;
    return _mm512_fmadd_ps(q, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(1.0f)), q);
}
INLINE V<float> root_of(V<float> x) { return _mm512_maskz_sqrt_ps((__mmask16)-1, x); }
#elif defined(__AVX2__)
INLINE V<float> all(float s) { return _mm256_set1_ps(s); }
INLINE V<double> all(double s) { return _mm256_set1_pd(s); }
INLINE V<float> fma(V<float> a, V<float> b, V<float> c) { return _mm256_fmadd_ps(a, b, c); }
INLINE V<double> fma(V<double> a, V<double> b, V<double> c) { return _mm256_fmadd_pd(a, b, c); }
INLINE V<float> least(V<float> edge, V<float> x) { return _mm256_min_ps(edge, x); }
INLINE V<float> most(V<float> edge, V<float> x) { return _mm256_max_ps(edge, x); }
INLINE V<float> quotient(V<float> n, V<float> d) { return n / d; }
INLINE V<float> root_of(V<float> x) { return _mm256_sqrt_ps(x); }
#elif defined(STATECAST_NEON)
INLINE V<float> all(float s) { return vdupq_n_f32(s); }
INLINE V<double> all(double s) { return vdupq_n_f64(s); }
INLINE V<float> fma(V<float> a, V<float> b, V<float> c) { return vfmaq_f32(c, a, b); }
INLINE V<double> fma(V<double> a, V<double> b, V<double> c) { return vfmaq_f64(c, a, b); }
INLINE V<float> least(V<float> edge, V<float> x) { return x > edge ? edge : x; }
INLINE V<float> most(V<float> edge, V<float> x) { return x < edge ? edge : x; }
INLINE V<float> quotient(V<float> n, V<float> d) { return n / d; }
INLINE V<float> root_of(V<float> x) { return vsqrtq_f32(x); }
#else
INLINE V<float> all(float s) { return V<float>{s, s, s, s}; }
INLINE V<double> all(double s) { return V<double>{s, s}; }
INLINE V<float> fma(V<float> a, V<float> b, V<float> c) { return a * b + c; }
INLINE V<double> fma(V<double> a, V<double> b, V<double> c) { return a * b + c; }
INLINE V<float> least(V<float> edge, V<float> x) { return x > edge ? edge : x; }
INLINE V<float> most(V<float> edge, V<float> x) { return x < edge ? edge : x; }
INLINE V<float> quotient(V<float> n, V<float> d) { return n / d; }
INLINE V<float> root_of(V<float> x) {
    for (int i = 0; i < LANES<float>; ++i) x[i] = ::sqrtf(x[i]);
    return x;
}
#endif

INLINE V<float> reciprocal(V<float> d) { return quotient(all(1.0f), d); }
constexpr int least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

/* Whether a comparison holds in any lane. */
template <class Mask>
INLINE bool any(Mask mask) {
    auto some = mask[0];
    for (int i = 1; i < (int)(sizeof mask / sizeof mask[0]); ++i) some |= mask[i];
    return some != 0;
}

/* Runs body<R>(row) over `rows` rows, R of 1, 2, 3, 4 and MOST at once. Parts are of nearly equal height, since
 * a small one takes nearly as long as a large one. */
template <template <int> class Body, int MOST = TILE_ROWS, class... Arguments>
INLINE void by_rows(int64_t rows, const Arguments &...arguments) {
    for (int64_t r = 0; r < rows;) {
        const int64_t left = rows - r, parts = (left + MOST - 1) / MOST;
        int64_t height = (left + parts - 1) / parts;
        if (height > 4) height = left == 5 ? 3 : MOST;
        if (height == MOST)
            Body<MOST>::run(r, arguments...);
        else if (MOST > 4 && height == 4)
            Body<least(4, MOST)>::run(r, arguments...);
        else if (MOST > 3 && height == 3)
            Body<least(3, MOST)>::run(r, arguments...);
        else if (MOST > 2 && height == 2)
            Body<least(2, MOST)>::run(r, arguments...);
        else
            Body<1>::run(r, arguments...);
        r += height;
    }
}

template <class T>
INLINE T *offset(const T *p, int64_t n) {
    return p ? const_cast<T *>(p) + n : nullptr;
}
template <class T>
INLINE T *of(const void *p) {
    return static_cast<T *>(const_cast<void *>(p));
}
/* Packed weights start at a line of the cache, for any alignment of the caller's memory. */
template <class T>
INLINE T *aligned(const void *packed) {
    return reinterpret_cast<T *>(((uintptr_t)packed + LINE - 1) / LINE * LINE);
}
/* tanh(x) / x = P(x^2) / Q(x^2) on [-9.02, 9.02], beyond which tanh is 1 in float32: the rational fit with
 * the least maximal relative error, 2.1e-8. With HALVED it is tanh(x / 2) / 2; the factors of the coefficients
 * are powers of two. */
template <int HALVED>
INLINE V<float> tanh_fit(V<float> x) {
    constexpr float s = HALVED ? 0.5f : 1.0f, s2 = s * s, s4 = s2 * s2;
    const V<float> edge = all(9.02f / s);
    x = most(-edge, least(edge, x));
    const V<float> q = x * x;
    V<float> p = fma(q, all(1.3319128810359891e-08f * s4 * s4 * s2), all(2.0583525536229656e-05f * s4 * s4));
    p = fma(p, q, all(3.4940373534968891e-03f * s4 * s2));
    p = fma(p, q, all(1.3379720315971441e-01f * s4));
    p = fma(p, q, all(s2));
    V<float> d = fma(q, all(7.7620437346182900e-07f * s4 * s4), all(3.2830973428961651e-04f * s4 * s2));
    d = fma(d, q, all(2.5871083906485015e-02f * s4));
    d = fma(d, q, all(4.6713035556198285e-01f * s2));
    d = fma(d, q, all(1.0f));
    return quotient(x * p, d);
}
INLINE V<float> tanh_of(V<float> x) { return tanh_fit<0>(x); }
INLINE V<float> sigmoid(V<float> x) { return tanh_fit<1>(x) + 0.5f; } /* (1 + tanh(x / 2)) / 2 */
/* float64 is for checks, and need not be fast. */
INLINE V<double> tanh_of(V<double> x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = ::tanh(x[i]);
    return x;
}
INLINE V<double> sigmoid(V<double> x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = 0.5 * (::tanh(0.5 * x[i]) + 1.0);
    return x;
}

/* e^x for x <= 0: 2^n e^r, from the bits of the exponent and the series of e^r to 2e-8. Below -87 it is
 * e^-87. */
INLINE V<float> exp_down(V<float> x) {
    typedef uint32_t bits __attribute__((vector_size(VECTOR_BYTES)));
    const V<float> down = most(all(-87.0f), x);
    const V<float> shift = all(12582912.0f + 127.0f); /* 1.5 * 2^23: rounds, n + 127 in the low bits */
    const V<float> rounded = fma(down, all(1.44269504f), shift), n = rounded - shift;
    const V<float> r = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), down));
    V<float> t = fma(r, all(1.0f / 5040), all(1.0f / 720));
    t = fma(t, r, all(1.0f / 120));
    t = fma(t, r, all(1.0f / 24));
    t = fma(t, r, all(1.0f / 6));
    t = fma(t, r, all(0.5f));
    t = fma(t, r, all(1.0f));
    return fma(t, r, all(1.0f)) * (V<float>)((bits)rounded << 23);
}

/* log(1 + e^x) = max(x, 0) + log(1 + t) with t = e^-|x|, and its slope, the sigmoid of x.
 * log(1 + t) = 2 artanh(t / (2 + t)), whose argument is at most 1/3, by its series to 2e-8. */
INLINE V<float> softplus(V<float> x, V<float> &slope) {
    const V<float> t = exp_down(x < 0.0f ? x : -x);
    const V<float> z = t * reciprocal(t + 2.0f), q = z * z;
    V<float> p = fma(q, all(2.0f / 13), all(2.0f / 11));
    p = fma(p, q, all(2.0f / 9));
    p = fma(p, q, all(2.0f / 7));
    p = fma(p, q, all(2.0f / 5));
    p = fma(p, q, all(2.0f / 3));
    p = fma(p, q, all(2.0f));
    slope = (x < 0.0f ? t : all(1.0f)) * reciprocal(t + 1.0f);
    return fma(p, z, most(all(0.0f), x));
}
INLINE V<double> softplus(V<double> x, V<double> &slope) {
    V<double> value = {}, sigmoid = {};
    for (int i = 0; i < LANES<double>; ++i) {
        const double t = ::exp(x[i] < 0 ? x[i] : -x[i]);
        sigmoid[i] = (x[i] < 0 ? t : 1.0) / (1.0 + t);
        value[i] = (x[i] < 0 ? 0.0 : x[i]) + ::log1p(t);
    }
    slope = sigmoid;
    return value;
}

} // namespace
#endif
