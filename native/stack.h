/* A stack of layers in a closed loop, and the quantiles or paths of its head. A tile of rows runs all layers and all
 * steps by itself. */
#ifndef STATECAST_STACK_H
#define STATECAST_STACK_H

#include "forward.h"

#include <new>

namespace statecast {
namespace {

/* Student's t quantile from the level and the normal deviate at the level: Hill (1970), Algorithm 396, as
 * student_t_quantile in src/statecast/heads/special.py. */
inline double student_t_quantile(double level, double deviate, double n) {
    const double two_sided = 2 * (level < 0.5 ? level : 1 - level), x = deviate < 0 ? deviate : -deviate;
    const double a = 1 / (n - 0.5), b = 48 / (a * a), square = x * x;
    double c = ((20700 * a / b - 98) * a - 16) * a + 96.36;
    const double d = ((94.5 / (b + c) - 3) / b + 1) * ::sqrt(a * 1.5707963267948966) * n;
    const double y = ::pow(d * two_sided, 2 / n);
    double value;
    if (y > 0.05 + a) {
        if (n < 5) c += 0.3 * (n - 4.5) * (x + 0.6);
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c;
        value = ((((0.4 * square + 6.3) * square + 36) * square + 94.5) / c - square - 3) / b + 1;
        value = ::expm1(a * (value * x) * (value * x));
    } else {
        value = (n + 6) / (n * y) - 0.089 * d - 0.822;
        value = ((1 / (value * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (n + 2) + 1 / y;
    }
    value = ::sqrt(n * value);
    return level < 0.5 ? -value : value;
}

template <class T, int CELL>
struct Stacked {
    typedef Forward<T, CELL> Layer;
    typedef typename Layer::Rest Rest;
    static constexpr int L = LANES<T>;

    const statecast_stack_args &a;
    const Layer *layers;
    const Sizes<T, CELL> &z; /* of the first layer; the others have other inputs only */
    int64_t wide;            /* the head's parameters, padded to whole vectors */

    int64_t kernel_size() const { return a.head ? z.units * wide : 0; }
    size_t memory() const {
        int64_t numbers = z.padded + kernel_size() + (z.height + 2) * wide + z.height * z.inputs;
        for (int64_t l = 0; l < a.layers; ++l) numbers += layers[l].rest_size();
        return (size_t)numbers * sizeof(T);
    }

    static void task(void *self, int64_t item) { static_cast<Stacked *>(self)->tile(item); }

    void tile(int64_t item) {
        const int64_t member = item / z.tiles, tile = item % z.tiles, rows = z.count(tile);
        const int64_t first = member * z.rows + tile * z.height, U = z.units;
        T *own = static_cast<T *>(scratch(TASK, memory()));
        memset(own, 0, memory());
        T *feed = own, *kernel = feed + z.padded, *raw = kernel + kernel_size();
        T *x_now = raw + (z.height + 2) * wide, *left = x_now + z.height * z.inputs;
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        Rest rest[STATECAST_MOST_LAYERS];
        for (int64_t l = 0; l < a.layers; left += layers[l++].rest_size()) {
            rest[l] = layers[l].rest_in(left);
            const T *h0 = of<T>(a.layer[l].h0) + first * U, *c0 = offset(of<T>(a.layer[l].c0), first * U);
            for (int64_t r = 0; r < rows; ++r) layers[l].put(r, rest[l], r, h0, c0);
        }
        if (a.observed) memcpy(feed, of<T>(a.feed) + member * U, (size_t)U * sizeof(T));
        for (int64_t u = 0; a.head && u < U; ++u)
            memcpy(kernel + u * wide, of<T>(a.kernel) + (member * U + u) * a.parameters,
                   (size_t)a.parameters * sizeof(T));

        const uint8_t *mask = offset(a.mask, first * z.steps);
        T *y = offset(of<T>(a.y), first * z.steps * U);
        const Rest &top = rest[a.layers - 1];
        for (int64_t t = 0; t < z.steps; ++t) {
            const T *x = of<T>(a.x) + (first * z.steps + t) * z.inputs;
            BlockStep<T> at = {};
            at.x = x;
            at.x_stride = z.steps * z.inputs;
            at.mask = offset(mask, t);
            at.flag_stride = z.steps;
            if (a.head && !a.after) read(member, first, rows, t, t - 1, top.h, kernel, raw);
            if (a.level && !a.after && t + 1 == z.steps) return; /* no draw needs this step */
            for (int64_t r = 0; a.level && r < rows; ++r) {
                memcpy(x_now + r * z.inputs, x + r * z.steps * z.inputs, (size_t)z.inputs * sizeof(T));
                x_now[r * z.inputs] = value(first + r, a.after ? t - 1 : t);
            }
            if (a.observed) layers[0].close_loop(member, first, rows, t, top.h, feed, x, x_now);
            if (a.level || a.observed) {
                at.x = x_now;
                at.x_stride = z.inputs;
            }
            advance_all(layers, a.layers, at, rest, member, rows);
            if (a.head && a.after) read(member, first, rows, t, a.level ? t - 1 : t, top.h, kernel, raw);
            layers[0].put_outputs(top, rows, t, mask, y, 0, (size_t)U * sizeof(T));
        }
        for (int64_t l = 0; !a.level && l < a.layers; ++l)
            layers[l].put_state(rest[l], rows, of<T>(a.layer[l].hn) + first * U,
                                offset(of<T>(a.layer[l].cn), first * U), 0, (size_t)U * sizeof(T));
    }

    /* The value of step t, from -1, of a row among those of all members. */
    T value(int64_t row, int64_t t) const {
        return t < 0 ? of<T>(a.last)[row] : of<T>(a.fed)[row * z.steps + t];
    }

    /* R rows of the raw numbers h . kernel + constant. */
    template <int R>
    struct Raw {
        static void run(int64_t first, const T *h, int64_t stride, const T *kernel, int64_t units,
                        const T *constant, int64_t count, int64_t wide, T *raw) {
            h += first * stride, constant += first * count, raw += first * wide;
            for (int64_t v = 0; v < wide; v += L) {
                V<T> sum[R];
                EACH(r, R) sum[r] = load(constant + r * count + v, least(L, count - v));
                for (int64_t u = 0; u < units; ++u) {
                    const V<T> weight = load(kernel + u * wide + v);
                    EACH(r, R) sum[r] = fma(all(h[r * stride + u]), weight, sum[r]);
                }
                EACH(r, R) store(raw + r * wide + v, sum[r]);
            }
        }
    };

    /* The draws or the quantiles of step t, from the outputs h and the values of step `before`. */
    void read(int64_t member, int64_t first, int64_t rows, int64_t t, int64_t before, const T *h,
              const T *kernel, T *raw) const {
        const T decay = of<T>(a.decay)[member];
        by_rows<Raw>(rows, h, z.padded, kernel, z.units, of<T>(a.constant) + first * a.parameters, a.parameters,
                     wide, raw);
        T *given = raw + z.height * wide, *apart = given + wide;
        for (int64_t r = 0; r < rows; ++r, raw += wide) {
            const int64_t row = first + r, now = row * z.steps + t;
            const T shift = decay * value(row, before);
            T *quantiles = offset(of<T>(a.quantiles), now * a.count);
            if (a.head == STATECAST_QUANTILES) {
                spread(raw, shift, quantiles ? quantiles : given, apart);
                if (a.level) of<T>(a.fed)[now] = between(given, of<T>(a.level)[now]);
                continue;
            }
            V<T> slope;
            const T centre = raw[0] + shift;
            const T scale = softplus(all(raw[1] + (T)a.gaps[0]), slope)[0] + (T)a.smallest;
            double freedom = 0;
            if (a.head == STATECAST_STUDENT_T)
                freedom = 2.5 + 5 * ::exp(raw[2] < -6 ? -6.0 : raw[2] > 5 ? 5.0 : (double)raw[2]);
            const auto at = [&](double level, double deviate) {
                if (a.head == STATECAST_STUDENT_T) deviate = student_t_quantile(level, deviate, freedom);
                return centre + scale * (T)deviate;
            };
            if (a.level) of<T>(a.fed)[now] = at(of<T>(a.level)[now], of<T>(a.deviate)[now]);
            for (int64_t q = 0; quantiles && q < a.count; ++q) quantiles[q] = at(a.levels[q], a.deviates[q]);
        }
    }

    /* The quantiles from the raw numbers of a head of quantiles. `apart` is memory. */
    void spread(const T *raw, T shift, T *quantiles, T *apart) const {
        const int64_t count = a.parameters, middle = count / 2;
        for (int64_t q = 0; q < count; ++q) apart[q] = raw[q] + (T)a.gaps[q < middle ? q : q - 1];
        for (int64_t v = 0; v < wide; v += L) {
            V<T> slope;
            store(apart + v, softplus(load(apart + v), slope) + (T)a.smallest);
        }
        const T median = raw[middle] + shift;
        quantiles[middle] = median;
        T sum = 0;
        for (int64_t q = middle - 1; q >= 0; --q) quantiles[q] = median - (sum += apart[q]);
        sum = 0;
        for (int64_t q = middle + 1; q < count; ++q) quantiles[q] = median + (sum += apart[q]);
    }

    /* The quantile at a level of a distribution that is given by quantiles: linear between them, with
     * exponential tails. */
    T between(const T *given, T level) const {
        const int64_t last = a.parameters - 1;
        const double *levels = a.levels, low = levels[0], high = levels[last];
        if (level < low)
            return given[0] + (T)(low / (levels[1] - low) * ::log(level / low)) * (given[1] - given[0]);
        if (level > high) {
            const double scale = (1 - high) / (high - levels[last - 1]);
            return given[last] - (T)(scale * ::log((1 - level) / (1 - high))) * (given[last] - given[last - 1]);
        }
        int64_t q = 0;
        while (q + 1 < last && level > levels[q + 1]) ++q;
        const T share = (T)((level - levels[q]) / (levels[q + 1] - levels[q]));
        return given[q] + share * (given[q + 1] - given[q]);
    }
};

template <class T, int CELL>
int stack(const statecast_stack_args &a) {
    typedef Forward<T, CELL> Layer;
    statecast_forward_args of_layer[STATECAST_MOST_LAYERS];
    char *places = static_cast<char *>(scratch(CALL, STATECAST_MOST_LAYERS * sizeof(Layer)));
    if (!places) return STATECAST_NO_MEMORY;
    Layer *layers = reinterpret_cast<Layer *>(places);
    for (int64_t l = 0; l < a.layers; ++l) {
        of_layer[l] = {};
        statecast_forward_args &own = of_layer[l];
        own.cell = a.cell, own.members = a.members, own.rows = a.rows, own.steps = a.steps;
        own.inputs = l ? a.units : a.inputs, own.units = a.units;
        own.mask = a.mask, own.observed = a.observed, own.fed = a.fed;
        own.base = a.base, own.decay = a.decay, own.last = a.last;
        new (layers + l) Layer{own, Sizes<T, CELL>(own), aligned<T>(a.layer[l].packed)};
    }
    Stacked<T, CELL> s = {a, layers, layers[0].z, (a.parameters + LANES<T> - 1) / LANES<T> * LANES<T>};
    if (!scratch(TASK, s.memory())) return STATECAST_NO_MEMORY;
    /* A short call takes less time than waking a thread. */
    int64_t numbers = 0;
    for (int64_t l = 0; l < a.layers; ++l) numbers += layers[l].z.packed;
    const int64_t work = s.z.rows * s.z.steps * numbers, tasks = a.members * s.z.tiles;
    if (a.members * work < Layer::PARTED)
        for (int64_t i = 0; i < tasks; ++i) s.tile(i);
    else
        parallel(tasks, s.task, &s, {a.threads, a.openmp}, work < Layer::SMALL);
    return STATECAST_OK;
}

} // namespace
} // namespace statecast
#endif
