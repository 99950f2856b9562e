/* Quantiles of weighted samples: compiled once for each instruction set.
 *
 * A sample is not sorted. The weight below each value is summed over all values, at LANES steps at once; for the
 * hundred values of a sample this takes less time than sorting them. */
#include "services.h"
#include "simd.h"

namespace statecast {
namespace {

typedef V<float> F;
typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
constexpr int L = LANES<float>, GROUP = 4; /* values whose sums are on registers */
constexpr float LEAST = 1e-9f;             /* added to each weight: at some steps all weights are tiny */

struct Samples {
    const statecast_weighted_args &a;

    /* Of LANES steps: values, weights, the weight below each value. */
    size_t memory() const { return (size_t)(3 * (a.near + GROUP) * L) * sizeof(float); }
    static void task(void *self, int64_t item) { static_cast<const Samples *>(self)->row(item); }

    void row(int64_t row) const {
        const int64_t size = (a.near + GROUP) * L, *item = a.item + row * a.near;
        float *value = static_cast<float *>(scratch(TASK, memory())), *share = value + size,
              *level = share + size;
        const float *weight = of<float>(a.weight) + row * a.near;
        float *out = of<float>(a.out) + row * (a.steps - a.first) * a.levels;
        for (int64_t step = a.first; step < a.steps; step += L) {
            const int count = least(L, a.steps - step);
            F total = {};
            for (int64_t i = 0; i < a.near; ++i) {
                const F each = load(of<float>(a.values) + item[i] * a.stride + step, count);
                const Bits there = (each == each) & (all(weight[i]) > 0.0f);
                const F own = there ? all(weight[i] + LEAST) : F{};
                store(value + i * L, there ? each : all(INFINITY));
                store(share + i * L, own);
                total += own;
            }
            for (int64_t j = 0; j < a.near; j += GROUP) below(value, share, j, level);
            const F scale = 1.0f / most(all(1e-30f), total);
            for (int64_t i = 0; i < a.near * L; i += L) store(level + i, load(level + i) * scale);
            for (int64_t q = 0; q < a.levels; ++q) {
                const F found = at(value, level, all(of<float>(a.level)[q]));
                for (int l = 0; l < count; ++l)
                    out[(step - a.first + l) * a.levels + q] = total[l] > 0 ? found[l] : 0.0f;
            }
        }
    }

    /* The weight of the smaller values and half of the own, for GROUP values from j on. Of equal values the
     * first counts as smaller. */
    void below(const float *value, const float *share, int64_t j, float *level) const {
        F own[GROUP], sum[GROUP];
        EACH(g, GROUP) {
            own[g] = load(value + (j + g) * L);
            sum[g] = 0.5f * load(share + (j + g) * L);
        }
        int64_t i = 0;
        for (; i < j; ++i) {
            const F each = load(value + i * L), weight = load(share + i * L);
            EACH(g, GROUP) sum[g] += each <= own[g] ? weight : F{};
        }
        for (; i < a.near && i < j + GROUP; ++i) {
            const F each = load(value + i * L), weight = load(share + i * L);
            EACH(g, GROUP)
                if (i != j + g) sum[g] += (i < j + g ? each <= own[g] : each < own[g]) ? weight : F{};
        }
        for (; i < a.near; ++i) {
            const F each = load(value + i * L), weight = load(share + i * L);
            EACH(g, GROUP) sum[g] += each < own[g] ? weight : F{};
        }
        EACH(g, GROUP) store(level + (j + g) * L, sum[g]);
    }

    /* The quantile of each step: between the last value below the level and the first one above. */
    F at(const float *value, const float *level, F wanted) const {
        F low = all(-INFINITY), from = low, high = all(INFINITY), to = high;
        for (int64_t i = 0; i < a.near * L; i += L) {
            const F each = load(value + i), own = load(level + i);
            const Bits there = each < INFINITY, under = there & (own < wanted), over = there & ~under;
            low = most(under ? each : all(-INFINITY), low);
            from = most(under ? own : all(-INFINITY), from);
            high = least(over ? each : all(INFINITY), high);
            to = least(over ? own : all(INFINITY), to);
        }
        const F part = least(all(1.0f), (wanted - from) / most(all(1e-12f), to - from));
        const F inside = low + (high - low) * part;
        return low == -INFINITY ? high : high == INFINITY ? low : inside;
    }
};

int quantiles(const statecast_weighted_args *a) {
    Samples s = {*a};
    if (!scratch(TASK, s.memory())) return STATECAST_NO_MEMORY;
    parallel(a->rows, s.task, &s, {a->threads, a->openmp});
    return STATECAST_OK;
}

} // namespace

extern const Weighted JOIN(weighted_, STATECAST_INSTRUCTIONS) = {quantiles};

} // namespace statecast
