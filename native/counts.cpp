/* Quantiles of counts: compiled once for each instruction set.
 *
 * src/statecast/heads/counts.py and special.py are the reference, and name the sources of the formulas. Here
 * they are computed in float32 for LANES quantiles at once. A lane is computed alike whatever the others are.
 */
#include "functions.h"
#include "services.h"

namespace statecast {
namespace {

constexpr int L = LANES<float>;
constexpr int64_t BLOCK = 1024; /* quantiles of a task, whole vectors */
constexpr float LOW = -1.0f, SETTLED = 1e-4f, FINEST = 0x1p-24f;

/* (1 - t^2 + 2 t log t) / (1 - t)^2, t > 0 (Peizer and Pratt 1968). */
INLINE F peizer_pratt(F t) {
    const F e = most(all(-0.05f), least(all(0.05f), t - 1.0f));
    const F near = -e * (all(1.0f / 3) - e * (all(1.0f / 6) - e * (all(1.0f / 10) - e * all(1.0f / 15))));
    const F d = size_of(t - 1.0f) < 0.05f ? all(1.0f) : t - 1.0f, square = d * d;
    return size_of(t - 1.0f) < 0.05f ? near : (2.0f * deviance(d) - square) / square;
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
