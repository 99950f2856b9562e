/* Affine maps, and the softmax over tokens: compiled once for each instruction set.
 *
 * First the map of all rows is computed, a block of columns at a time, so that the block's weights
 * stay in the cache. Then everything else, row by row.
 */
#include "services.h"
#include "simd.h"
#include "tiles.h"

namespace statecast {
namespace {

constexpr int64_t HELD = 1 << 22; /* logits in memory at once, of all members */

typedef float T; /* decoding needs no float64 */

struct Tokens {
    static constexpr int L = LANES<T>, BLOCK = 4 * L; /* columns */
    const statecast_softmax_args &a;
    int64_t padded;      /* tokens, padded to whole vectors */
    bool tiled;          /* whether the product is on matrix tiles; depends on the units alone */
    int64_t chunks;      /* of the sum over units, on tiles */
    int64_t first, rows; /* the rows in memory */
    int64_t height;      /* rows, padded to whole tiles */
    int64_t share;       /* rows of a block of columns in one task */
    bool affine = false; /* whether the map itself is the result */
    T *raw;              /* (member, height, padded) */
    Half *left;          /* (member, tile of rows, chunk), on tiles */

    explicit Tokens(const statecast_softmax_args &a)
        : a(a),
          padded((a.tokens + L - 1) / L * L),
          tiled(TILED<T> && a.units >= WIDE),
          chunks(tiled ? (a.units + DEEP - 1) / DEEP : 0) {}

    /* Packed: for each member and block (unit, column), on matrix tiles (vector, chunk), then the bias.
     * The bias of padding columns is minus infinity, so that their probability is 0. */
    int64_t depth() const { return tiled ? chunks_in<T>(chunks, EXACT) / L : a.units; } /* numbers a column */
    int64_t weights() const { return (depth() + 1) * padded; }
    int64_t bytes() const { return a.members * weights() * (int64_t)sizeof(T) + LINE; }

    int pack(void *packed) const {
        T *to = aligned<T>(packed);
        for (int64_t m = 0; m < a.members; ++m) {
            const T *kernel = of<T>(a.kernel) + m * a.units * a.tokens, *bias = of<T>(a.bias) + m * a.tokens;
            for (int64_t c = 0; c < padded; c += BLOCK) {
                const int64_t end = c + least(BLOCK, padded - c);
                if constexpr (TILED<T>)
                    for (int64_t v = c; tiled && v < end; v += L)
                        for (int64_t k = 0; k < a.units; k += DEEP, to += chunks_in<T>(1, EXACT))
                            split_rows(kernel + k * a.tokens + v, a.tokens, a.units - k, least(L, a.tokens - v),
                                       EXACT, of<Half>(to));
                for (int64_t u = 0; !tiled && u < a.units; ++u)
                    for (int64_t v = c; v < end; ++v) *to++ = v < a.tokens ? kernel[u * a.tokens + v] : T(0);
                for (int64_t v = c; v < end; ++v) *to++ = v < a.tokens ? bias[v] : -T(INFINITY);
            }
        }
        return STATECAST_OK;
    }

    int run() {
        const int64_t most = HELD / (a.members * padded), at_once = most < 1 ? 1 : most;
        if (!a.rows) return STATECAST_OK;
        rows = a.rows < at_once ? a.rows : at_once;
        height = tiled ? (rows + EDGE - 1) / EDGE * EDGE : rows;
        const int64_t split = a.members * height / EDGE * chunks_in<T>(chunks, EXACT);
        left = static_cast<Half *>(scratch(CALL, (size_t)(split + a.members * height * padded) * sizeof(T)));
        if (!left || !scratch(TASK, memory())) return STATECAST_NO_MEMORY;
        raw = of<T>(left) + split;
        for (first = 0; first < a.rows; first += at_once) {
            rows = least(at_once, a.rows - first);
            const bool small = a.members * rows * padded < SMALL;
            if (tiled) parallel(a.members * height / EDGE, split_outputs, this, {a.threads, a.openmp}, small);
            /* All rows of a block in one task, unless there are then too few tasks for the threads. */
            share = a.members * blocks() < FEW ? SHARE : height;
            parallel(a.members * blocks() * shares(), columns, this, {a.threads, a.openmp}, small);
            parallel((rows + SOME - 1) / SOME, finish, this, {a.threads, a.openmp}, small);
        }
        return STATECAST_OK;
    }

  private:
    static constexpr int64_t SOME = 4;            /* rows of a task */
    static constexpr int64_t SMALL = 1 << 13;     /* logits */
    static constexpr int64_t FEW = 8, SHARE = 48; /* blocks; rows, a multiple of any tile */

    int64_t blocks() const { return (padded + BLOCK - 1) / BLOCK; }
    int64_t shares() const { return (rows + share - 1) / share; }
    size_t memory() const { return (size_t)a.best * (sizeof(T) + sizeof(int32_t)) + 64; }

    /* R rows of a block C vectors wide. */
    template <int C>
    struct Product {
        template <int R>
        struct Rows {
            static void run(int64_t at, const T *in, int64_t units, const T *weight, T *out, int64_t stride) {
                in += at * units;
                out += at * stride;
                V<T> sum[R][C];
                const T *bias = weight + units * C * L;
                EACH(r, R)
                    EACH(v, C) sum[r][v] = load(bias + v * L);
                for (int64_t k = 0; k < units; ++k, weight += C * L) {
                    V<T> each[R];
                    EACH(r, R) each[r] = all(in[r * units + k]);
                    EACH(v, C) {
                        const V<T> w = load(weight + v * L);
                        EACH(r, R) sum[r][v] = fma(each[r], w, sum[r][v]);
                    }
                }
                EACH(r, R)
                    EACH(v, C) store(out + r * stride + v * L, sum[r][v]);
            }
        };
    };

    static void columns(void *self, int64_t item) {
        const Tokens &s = *static_cast<Tokens *>(self);
        const int64_t member = item / s.shares() / s.blocks(), units = s.a.units;
        const int64_t column = item / s.shares() % s.blocks() * BLOCK, from = item % s.shares() * s.share;
        const int64_t rows = least(s.share, s.rows - from);
        const T *in = of<T>(s.a.outputs) + (member * s.a.rows + s.first + from) * units;
        const T *weight = aligned<T>(s.a.packed) + member * s.weights() + column * (s.depth() + 1);
        T *out = s.raw + (member * s.height + from) * s.padded + column;
        if (s.tiled) return s.on_tiles(member, from, rows, weight, least(BLOCK, s.padded - column), out);
        switch (least(BLOCK, s.padded - column) / L) {
            case 4: by_rows<Product<4>::template Rows>(rows, in, units, weight, out, s.padded); break;
            case 3: by_rows<Product<3>::template Rows>(rows, in, units, weight, out, s.padded); break;
            case 2: by_rows<Product<2>::template Rows>(rows, in, units, weight, out, s.padded); break;
            default: by_rows<Product<1>::template Rows>(rows, in, units, weight, out, s.padded);
        }
    }

    /* A tile of a member's rows, for all columns. */
    static void split_outputs(void *self, int64_t item) {
        if constexpr (TILED<T>) {
            const Tokens &s = *static_cast<Tokens *>(self);
            const int64_t tiles = s.height / EDGE, member = item / tiles, from = item % tiles * EDGE;
            const T *in = of<T>(s.a.outputs) + (member * s.a.rows + s.first + from) * s.a.units;
            Half *to = s.left + item * s.chunks * chunk_of(EXACT);
            for (int64_t r = 0; r < EDGE && from + r < s.rows; ++r)
                split_row(in + r * s.a.units, s.a.units, EXACT, to + r * DEEP);
        }
    }

    void on_tiles([[maybe_unused]] int64_t member, [[maybe_unused]] int64_t from,
                  [[maybe_unused]] int64_t count, [[maybe_unused]] const T *weight,
                  [[maybe_unused]] int64_t width, [[maybe_unused]] T *out) const {
        if constexpr (TILED<T>) {
            [[maybe_unused]] const Tiles whole;
            const int64_t row = chunks * chunk_of(EXACT);
            const Half *right[BLOCK / L];
            T *sum[BLOCK / L];
            for (int64_t v = 0; v < width / L; ++v) right[v] = of<Half>(weight) + v * row, sum[v] = out + v * L;
            multiply<false>(EXACT, left + (member * height + from) / EDGE * row, row, count, right, width / L,
                            chunks, sum, padded);
            const T *bias = weight + depth() * width;
            for (int64_t r = 0; r < count; ++r)
                for (int64_t c = 0; c < width; c += L) {
                    T *at = out + r * padded + c;
                    store(at, load(at) + load(bias + c));
                }
        }
    }

    static void finish(void *self, int64_t item) {
        const Tokens &s = *static_cast<Tokens *>(self);
        for (int64_t r = item * SOME; r < s.rows && r < (item + 1) * SOME; ++r) s.affine ? s.copy(r) : s.row(r);
    }

    void copy(int64_t r) const {
        for (int64_t m = 0; m < a.members; ++m)
            memcpy(of<T>(a.nats) + (m * a.rows + first + r) * a.tokens, raw + (m * height + r) * padded,
                   (size_t)a.tokens * sizeof(T));
    }

    void row(int64_t r) const {
        T *own = raw + r * padded;
        T less = log_sum(own);
        if (a.members > 1) { /* the log of the mean probability replaces the first member's */
            for (int64_t m = 1; m < a.members; ++m) {
                const T *other = raw + (m * height + r) * padded;
                const T shift = log_sum(other);
                for (int64_t c = 0; c < padded; c += L) {
                    const V<T> x = load(own + c) - all(less), y = load(other + c) - all(shift);
                    V<T> slope;
                    store(own + c, x + softplus(y - x, slope)); /* padding becomes NaN, and is not read */
                }
                less = 0;
            }
            less = (T)::log((double)a.members);
        }
        if (a.codes)
            choose(own, less, first + r);
        else
            give(own, less, of<T>(a.nats) + (first + r) * a.tokens);
    }

    T log_sum(const T *x) const {
        V<T> top = load(x), sum[4] = {};
        for (int64_t c = L; c < padded; c += L) {
            const V<T> each = load(x + c);
            top = each > top ? each : top;
        }
        T peak = top[0];
        for (int i = 1; i < L; ++i) peak = top[i] > peak ? top[i] : peak;
        for (int64_t c = 0; c < padded; c += L) sum[c / L % 4] += exp_down(load(x + c) - all(peak));
        sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        T total = sum[0][0];
        for (int i = 1; i < L; ++i) total += sum[0][i];
        return peak + (T)::log((double)total);
    }

    void give(const T *x, T less, T *nats) const {
        int64_t c = 0;
        for (; c + L <= a.tokens; c += L) store(nats + c, load(x + c) - all(less));
        for (; c < a.tokens; ++c) nats[c] = x[c] - less;
    }

    /* The best so far are in order. Most vectors contain none that is better than the last of them. */
    void choose(const T *x, T less, int64_t at) const {
        T *value = static_cast<T *>(scratch(TASK, memory()));
        int32_t *code = reinterpret_cast<int32_t *>(value + a.best);
        for (int64_t i = 0; i < a.best; ++i) value[i] = -T(INFINITY), code[i] = -1;
        for (int64_t c = 0; c < padded; c += L) {
            const V<T> each = load(x + c) - all(less);
            if (!any(each > all(value[a.best - 1]))) continue;
            for (int64_t v = c; v < c + L && v < a.tokens; ++v) {
                const T one = x[v] - less; /* compared after rounding, as in the results */
                if (!(one > value[a.best - 1]) || (a.allowed && !a.allowed[v])) continue;
                int64_t i = a.best - 1;
                for (; i > 0 && one > value[i - 1]; --i) value[i] = value[i - 1], code[i] = code[i - 1];
                value[i] = one, code[i] = (int32_t)v;
            }
        }
        memcpy(of<T>(a.nats) + at * a.best, value, (size_t)a.best * sizeof(T));
        memcpy(a.codes + at * a.best, code, (size_t)a.best * sizeof(int32_t));
    }
};

int64_t bytes(const statecast_softmax_args *a) { return Tokens(*a).bytes(); }
int pack(const statecast_softmax_args *a, void *packed) { return Tokens(*a).pack(packed); }
int softmax(const statecast_softmax_args *a) { return Tokens(*a).run(); }
int affine(const statecast_softmax_args *a) {
    Tokens map(*a);
    map.affine = true;
    return map.run();
}

} // namespace

extern const Softmax JOIN(softmax_, STATECAST_INSTRUCTIONS) = {bytes, pack, softmax, affine};

} // namespace statecast
