/* Functions of probability in float32, for LANES numbers at once: those of src/statecast/heads/special.py, which
 * names their sources, and their slopes. A lane is computed alike whatever the others are.
 *
 * log_of() reads the bits of a number, so that NaN would become one: callers add the NaN of their arguments.
 */
#ifndef STATECAST_FUNCTIONS_H
#define STATECAST_FUNCTIONS_H

#include "simd.h"

namespace {

typedef V<float> F;
typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));

constexpr int SHIFT = 6; /* steps of a recurrence, to arguments so large that a series holds */
constexpr float HALF_LOG_2PI = 0.9189385332f;

/* The logarithm of positive normal numbers: 2 artanh(z) of the mantissa, which is around 1. */
INLINE F log_of(F x) {
    const Bits bits = (Bits)x, exponent = (bits - 0x3f3504f3) >> 23;
    const F m = (F)(bits - (exponent << 23)), e = __builtin_convertvector(exponent, F);
    const F z = (m - 1.0f) * reciprocal(m + 1.0f), q = z * z;
    F p = fma(q, all(2.0f / 9), all(2.0f / 7));
    p = fma(p, q, all(2.0f / 5));
    p = fma(p, q, all(2.0f / 3));
    return fma(e, all(0.693359375f), fma(e, all(-2.12194440e-4f), fma(p * q, z, z + z)));
}
INLINE F exp_of(F x) {
    const F down = exp_down(x < 0.0f ? x : -x);
    return x < 0.0f ? down : 1.0f / down;
}
INLINE F size_of(F x) { return x < 0.0f ? -x : x; }

/* The error of Stirling's formula, x > 0. */
INLINE F stirling_series(F x) {
    const F inverse = reciprocal(x), square = inverse * inverse;
    return inverse * (all(1.0f / 12) - square * (all(1.0f / 360) - square * all(1.0f / 1260)));
}
INLINE F stirling_error(F x) {
    const F small = least(all(8.0f), x), far = small + (float)SHIFT;
    /* In terms below 10: differences of larger ones have a larger rounding error. */
    F rising = small, power = far;
    for (int i = 1; i < SHIFT; ++i) {
        rising = rising * (small + (float)i);
        power = power * far;
    }
    const F near =
        (small - 0.5f) * log_of(far / small) + log_of(power / rising) - (float)SHIFT + stirling_series(far);
    return x < 8.0f ? near : stirling_series(most(all(8.0f), x));
}

/* (1 + d) log(1 + d) - d, d >= -1. */
INLINE F deviance(F d) {
    const F small = most(all(-0.1f), least(all(0.1f), d));
    F p = all(0.0f); /* of small^n (-1)^n / (n (n - 1)), from n = 8 down */
    for (int n = 8; n >= 2; --n) p = fma(p, small, all((n % 2 ? -1.0f : 1.0f) / (float)(n * (n - 1))));
    const F up = most(all(1e-30f), d + 1.0f);
    return size_of(d) < 0.1f ? p * small * small : fma(up, log_of(up), -d);
}

/* The error and normal distribution functions (Cody 1969), in which e^(-z^2 / 2) is computed in one piece. */
INLINE F polynomial(F x, const float *c, int degree) {
    F p = all(c[0]);
    for (int i = 1; i <= degree; ++i) p = fma(p, x, all(c[i]));
    return p;
}
/* The error function of x, and of its size the complement, from one evaluation. */
INLINE F error_function(F x, F &complement) {
    static const float near_above[] = {1.85777706184603153e-1f, 3.16112374387056560f, 1.13864154151050156e2f,
                                       3.77485237685302021e2f, 3.20937758913846947e3f};
    static const float near_below[] = {1.0f, 2.36012909523441209e1f, 2.44024637934444173e2f,
                                       1.28261652607737228e3f, 2.84423683343917062e3f};
    static const float above[] = {2.15311535474403846e-8f, 5.64188496988670089e-1f, 8.88314979438837594f,
                                  6.61191906371416295e1f,  2.98635138197400131e2f,  8.81952221241769090e2f,
                                  1.71204761263407058e3f,  2.05107837782607147e3f,  1.23033935479799725e3f};
    static const float below[] = {1.0f,
                                  1.57449261107098347e1f,
                                  1.17693950891312499e2f,
                                  5.37181101862009858e2f,
                                  1.62138957456669019e3f,
                                  3.29079923573345963e3f,
                                  4.36261909014324716e3f,
                                  3.43936767414372164e3f,
                                  1.23033935480374942e3f};
    const F size = size_of(x), square = x * x;
    const F inner = least(all(0.46875f * 0.46875f), square);
    const F near = x * polynomial(inner, near_above, 4) / polynomial(inner, near_below, 4);
    const F outer = least(all(4.0f), size); /* beyond it the complement is below every level */
    const F far = exp_down(-square) * polynomial(outer, above, 8) / polynomial(outer, below, 8);
    complement = size <= 0.46875f ? 1.0f - size_of(near) : far;
    return size <= 0.46875f ? near : x < 0.0f ? far - 1.0f : 1.0f - far;
}
INLINE F normal_cdf(F z) {
    F complement;
    const F x = all(0.70710678f) * z, whole = error_function(x, complement);
    return size_of(x) <= 0.46875f ? 0.5f + 0.5f * whole
           : x < 0.0f             ? 0.5f * complement
                                  : 1.0f - 0.5f * complement;
}

/* x - log(1 + x) from x and 1 + x, which the caller may know to more digits. */
INLINE F log_excess(F x, F more) {
    const F small = most(all(-0.1f), least(all(0.1f), x));
    F p = all(0.0f); /* of small^n (-1)^n / n, from n = 8 down */
    for (int n = 8; n >= 2; --n) p = fma(p, small, all((n % 2 ? -1.0f : 1.0f) / (float)n));
    return size_of(x) < 0.1f ? p * small * small : x - log_of(more);
}
/* log(1 + x), x >= 0. */
INLINE F log1p_of(F x) { return x < 0.1f ? x - log_excess(x, x) : log_of(1.0f + x); }
/* e^x - 1, x >= 0. */
INLINE F expm1_of(F x) {
    const F small = least(all(0.4f), x);
    F p = all(1.0f); /* of small^(n - 1) / n!, from n = 8 down */
    for (int n = 8; n >= 2; --n) p = fma(p * small, all(1.0f / (float)n), all(1.0f));
    return x < 0.4f ? p * small : exp_of(x) - 1.0f;
}

/* log(x) less the digamma function, x > 0: its series, for small x after the recurrence. */
INLINE F log_less_digamma(F x) {
    const F far = most(all(8.0f), x), near = least(all(8.0f), x);
    const auto series = [](F x) {
        const F inverse = reciprocal(x), square = inverse * inverse;
        const F p = all(1.0f / 12) - square * (all(1.0f / 120) - square * all(1.0f / 252));
        return inverse * (0.5f + inverse * p);
    };
    F sum = all(0.0f);
    for (int i = 0; i < SHIFT; ++i) sum += reciprocal(near + (float)i);
    return x < 8.0f ? series(near + (float)SHIFT) - log_of((near + (float)SHIFT) / near) + sum : series(far);
}

} // namespace
#endif
