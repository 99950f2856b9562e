/* Quantiles of counts: compiled once for each instruction set.
 *
 * src/statecast/heads/counts.py and special.py are the reference, and name the sources of the formulas. Here
 * they are computed in float32 for LANES quantiles at once. A lane is computed alike whatever the others are.
 */
#include "services.h"
#include "simd.h"

namespace statecast {
namespace {

typedef V<float> F;
typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));

constexpr int L = LANES<float>;
constexpr int64_t BLOCK = 1024; /* quantiles of a task, whole vectors */
constexpr int SHIFT = 6;        /* steps of a recurrence, to arguments so large that a series holds */
constexpr float LOW = -1.0f, SETTLED = 1e-4f, FINEST = 0x1p-24f, HALF_LOG_2PI = 0.9189385332f;

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

/* (1 - t^2 + 2 t log t) / (1 - t)^2, t > 0 (Peizer and Pratt 1968). */
INLINE F peizer_pratt(F t) {
    const F e = most(all(-0.05f), least(all(0.05f), t - 1.0f));
    const F near = -e * (all(1.0f / 3) - e * (all(1.0f / 6) - e * (all(1.0f / 10) - e * all(1.0f / 15))));
    const F d = size_of(t - 1.0f) < 0.05f ? all(1.0f) : t - 1.0f, square = d * d;
    return size_of(t - 1.0f) < 0.05f ? near : (2.0f * deviance(d) - square) / square;
}

/* The normal distribution function (Cody 1969), in which e^(-z^2 / 2) is computed in one piece. */
INLINE F polynomial(F x, const float *c, int degree) {
    F p = all(c[0]);
    for (int i = 1; i <= degree; ++i) p = fma(p, x, all(c[i]));
    return p;
}
INLINE F normal_cdf(F z) {
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
    const F x = all(0.70710678f) * z, size = size_of(x), square = x * x;
    const F inner = least(all(0.46875f * 0.46875f), square);
    const F near = 0.5f + 0.5f * x * polynomial(inner, near_above, 4) / polynomial(inner, near_below, 4);
    const F outer = least(all(4.0f), size); /* beyond it is below every level */
    const F tail = 0.5f * exp_down(-square) * polynomial(outer, above, 8) / polynomial(outer, below, 8);
    return size <= 0.46875f ? near : x < 0.0f ? tail : 1.0f - tail;
}

/* The distribution of LANES cases, and its distribution function at b - 1, b > 0, continued between counts. */
struct Poisson {
    F mean, inverse, root;
    INLINE Poisson(F mean, F) : mean(mean), inverse(reciprocal(mean)), root(root_of(mean)) {}
    INLINE F ratio() const { return all(1.0f); } /* of the variance to the mean */
    INLINE F cdf(F b) const {
        F a = most(all(1e-6f), b);
        const F pmf = stirling_error(a) + mean * deviance((a - mean) * inverse) + 0.5f * log_of(a);
        F below = all(0.0f), term = exp_down(-pmf - HALF_LOG_2PI);
        for (int i = 0; i < SHIFT; ++i) {
            below += term;
            a += 1.0f;
            term = term * mean * reciprocal(a);
        }
        F z = (a - all(1.0f / 3) - mean + 0.02f * reciprocal(a)) / root;
        z = z * root_of(1.0f + peizer_pratt((a - 0.5f) * inverse));
        return normal_cdf(z) - below;
    }
};

struct NegativeBinomial {
    F mean, size, p, q, fixed; /* fixed: of the logarithm of the probability */
    INLINE NegativeBinomial(F mean, F size)
        : mean(mean),
          size(size),
          p(size / (size + mean)),
          q(mean / (size + mean)),
          fixed(0.5f * log_of(size) - stirling_error(size) - HALF_LOG_2PI) {}
    INLINE F ratio() const { return 1.0f + mean / size; }
    INLINE F cdf(F x) const {
        F a = size, b = most(all(1e-6f), x);
        const F whole = b + size, inverse = reciprocal(whole);
        const F pmf =
            stirling_error(whole) - stirling_error(b) + fixed - whole * p * deviance((mean - b) * inverse) -
            whole * q * deviance(size * (b - mean) * inverse / mean) - 0.5f * (log_of(b) + log_of(whole));
        F more = all(0.0f), term = exp_down(pmf);
        for (int i = 0; i < SHIFT; ++i) {
            const F over = reciprocal(a);
            more += term * b * over;
            term = term * p * (a + b) * over;
            a += 1.0f;
        }
        for (int i = 0; i < SHIFT; ++i) {
            more -= term;
            b += 1.0f;
            term = term * q * (a + b - 1.0f) * reciprocal(b);
        }
        const F n = a + b - 1.0f;
        F z = a - all(1.0f / 3) - (n + all(1.0f / 3)) * p + 0.02f * (q / a - p / b + (q - 0.5f) / (n + 1.0f));
        const F left = q * peizer_pratt((a - 0.5f) / (n * p)), right = p * peizer_pratt((b - 0.5f) / (n * q));
        z = z * root_of((1.0f + left + right) / ((n + all(1.0f / 6)) * p * q));
        return normal_cdf(-z) + more;
    }
};

/* Where the distribution function has the value `level`, on the scale of log(count - LOW + 1): by Chandrupatla's
 * method from a guess, as _block_root in special.py. */
template <class Family>
INLINE F root(const Family &family, F level, F deviate) {
    const F mean = family.mean, ratio = family.ratio();
    const F high = mean + 6.0f * root_of(mean * ratio) + 30.0f * ratio;
    const F width = log_of(high - LOW + 1.0f);
    const F spread = root_of(log_of(1.0f + ratio / mean));
    F at = log_of(most(all(1.0f), (mean + 1.0f) * exp_of(deviate * spread) - LOW));
    F found = most(all(0.0f), least(width, at));
    at = most(all(0.02f) * width, least(all(0.98f) * width, at));
    const F infinite = all(INFINITY);
    F b = all(0.0f), a = width, fb = -infinite, fa = infinite; /* the ends are not evaluated */
    Bits live = level == level;
    for (;;) {
        const F value = family.cdf(exp_of(at) - 1.0f);
        const F f = most(all(0.0f), least(all(1.0f), value)) - level;
        const Bits same = ~((f > 0.0f) ^ (fa > 0.0f));
        const F c = same ? a : b, fc = same ? fa : fb;
        b = same ? b : a, fb = same ? fb : fa;
        a = at, fa = f;
        const F span = b - a, xi = (a - b) / (c - b), phi = (fa - fb) / (fc - fb);
        F inverse = fa / (fb - fa) * fc / (fb - fc);
        inverse += (c - a) / span * fa / (fc - fa) * fb / (fc - fb);
        const Bits fits = (phi * phi < xi) & ((1.0f - phi) * (1.0f - phi) < 1.0f - xi) &
                          (size_of(inverse) < infinite) & (size_of(fb) < infinite);
        const F shortest = width * FINEST / size_of(span);
        const F edge = shortest < 0.5f ? shortest : all(0.5f);
        const F part = most(edge, least(1.0f - edge, fits ? inverse : all(0.5f)));
        at = a + part * span;
        found = live ? (fa == 0.0f ? a : at) : found;
        live &= (shortest < 0.5f) & (fa != 0.0f) & ~(fits & (size_of(at - a) < SETTLED));
        live &= (at != a) & (at != b); /* else no number is left between the two */
        if (!any(live)) return found;
    }
}

template <class Family>
void task(void *context, int64_t item) {
    const statecast_counts_args &a = *static_cast<const statecast_counts_args *>(context);
    const int64_t end = a.cases * a.levels, stop = (item + 1) * BLOCK < end ? (item + 1) * BLOCK : end;
    for (int64_t first = item * BLOCK; first < stop; first += L) {
        F mean = all(1.0f), size = all(1.0f), level = all(0.5f), deviate = {};
        const int count = least(L, stop - first);
        for (int i = 0; i < count; ++i) {
            const int64_t row = (first + i) / a.levels, own = a.apart ? first + i : (first + i) % a.levels;
            mean[i] = of<float>(a.mean)[row];
            if (a.size) size[i] = of<float>(a.size)[row];
            level[i] = of<float>(a.level)[own];
            deviate[i] = of<float>(a.deviate)[own];
        }
        /* The logarithm reads the bits, so that NaN would become a number. */
        const F valid = (mean - mean) + (size - size) + (level - level);
        const F result = exp_of(root(Family(mean, size), level, deviate)) - 1.0f + LOW + valid;
        memcpy(of<float>(a.count) + first, &result, (size_t)count * sizeof(float));
    }
}

int quantiles(const statecast_counts_args *a) {
    const int64_t items = (a->cases * a->levels + BLOCK - 1) / BLOCK;
    parallel(items, a->size ? task<NegativeBinomial> : task<Poisson>, const_cast<statecast_counts_args *>(a),
             {a->threads, a->openmp});
    return STATECAST_OK;
}

} // namespace

extern const Counts JOIN(counts_, STATECAST_INSTRUCTIONS) = {quantiles};

} // namespace statecast
