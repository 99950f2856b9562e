/* The score of a head of quantiles, forward and backward: compiled once for each instruction set.
 *
 * A case is a row at a step. Cases are computed in panels: one product gives a panel's raw numbers, all
 * else is computed for LANES cases at once, and in the backward pass two more products give the
 * gradients of the outputs and of the kernel. Nothing is stored in between: computing the first product
 * again takes less time than writing and reading its results.
 */
#include "services.h"
#include "simd.h"

namespace statecast {
namespace {

constexpr int PANEL = 48; /* cases: whole vectors and register tiles with every instruction set */

/* R rows of out = a b, C vectors wide: out[r] = sum over k of a[r * row + k * next] b[k]; with ADDS
 * added to out. */
template <class T, int C, bool ADDS>
struct Product {
    template <int R>
    struct Rows {
        static void run(int64_t first, const T *a, int64_t row, int64_t next, const T *b, int64_t b_stride,
                        int64_t depth, T *out, int64_t out_stride) {
            constexpr int L = LANES<T>;
            a += first * row;
            out += first * out_stride;
            V<T> sum[R][C];
            EACH(r, R)
                EACH(v, C) sum[r][v] = ADDS ? load(out + r * out_stride + v * L) : V<T>{};
            for (int64_t k = 0; k < depth; ++k, a += next, b += b_stride) {
                V<T> in[R];
                EACH(r, R) in[r] = all(a[r * row]);
                EACH(v, C) {
                    const V<T> each = load(b + v * L);
                    EACH(r, R) sum[r][v] = fma(in[r], each, sum[r][v]);
                }
            }
            EACH(r, R)
                EACH(v, C) store(out + r * out_stride + v * L, sum[r][v]);
        }
    };
};

/* out (rows, width) = a b, where rows of b and of out are `width` apart, a multiple of LANES. */
template <bool ADDS, class T>
void product(int64_t rows, const T *a, int64_t row, int64_t next, const T *b, int64_t depth, T *out,
             int64_t width) {
    constexpr int L = LANES<T>;
    int64_t v = 0;
    for (; v + 4 * L <= width; v += 4 * L)
        by_rows<Product<T, 4, ADDS>::template Rows>(rows, a, row, next, b + v, width, depth, out + v, width);
    for (; v < width; v += L)
        by_rows<Product<T, 1, ADDS>::template Rows>(rows, a, row, next, b + v, width, depth, out + v, width);
}

template <class T>
struct Score {
    static constexpr int L = LANES<T>;
    const statecast_score_args &a;
    const statecast_score_gradients_args *g; /* null if only the score is computed */
    int64_t padded, wide;                    /* units and quantiles, padded to whole vectors */
    int64_t share, shares;                   /* rows of one partial sum, and partial sums of a member */
    int64_t sums;                            /* numbers of one: of the kernel (quantile, unit), and of decay */
    T *kernel, *turned, *partial; /* kernel (unit, quantile), turned (quantile, unit), for each member */

    Score(const statecast_score_args &a, const statecast_score_gradients_args *g) : a(a), g(g) {
        padded = (a.units + L - 1) / L * L;
        wide = (a.quantiles + L - 1) / L * L;
        share = (a.rows + MOST_SUMS - 1) / MOST_SUMS;
        share = share > 0 ? share : 1;
        shares = (a.rows + share - 1) / share;
        sums = a.quantiles * padded + L;
    }
    size_t shared() const {
        return (size_t)(a.members * (a.units * wide + a.quantiles * padded + (g ? shares * sums : 0))) *
               sizeof(T);
    }
    size_t memory() const { /* of a task */
        return (size_t)(PANEL * (2 * padded + wide + 2 * a.quantiles + 4)) * sizeof(T);
    }

    int run() {
        kernel = static_cast<T *>(scratch(CALL, shared()));
        if (!kernel || !scratch(TASK, memory())) return STATECAST_NO_MEMORY;
        turned = kernel + a.members * a.units * wide;
        partial = turned + a.members * a.quantiles * padded;
        for (int64_t member = 0; member < a.members; ++member) pack(member);
        parallel(a.members * shares, task, this, {a.threads, a.openmp});
        for (int64_t member = 0; g && member < a.members; ++member) reduce(member);
        return STATECAST_OK;
    }

    void pack(int64_t member) {
        const T *from = of<T>(a.kernel) + member * a.units * a.quantiles;
        T *to = kernel + member * a.units * wide, *back = turned + member * a.quantiles * padded;
        memset(to, 0, (size_t)(a.units * wide) * sizeof(T));
        memset(back, 0, (size_t)(a.quantiles * padded) * sizeof(T));
        for (int64_t u = 0; u < a.units; ++u)
            for (int64_t q = 0; q < a.quantiles; ++q)
                to[u * wide + q] = back[q * padded + u] = from[u * a.quantiles + q];
    }

    /* The gradients in the layout of the weights: the partial sums are added in order. */
    void reduce(int64_t member) {
        T *dkernel = of<T>(g->dkernel) + member * a.units * a.quantiles, *ddecay = of<T>(g->ddecay) + member;
        T *sum = partial + member * shares * sums;
        *ddecay = 0;
        for (int64_t s = 0; s < shares; ++s) *ddecay += sum[s * sums + a.quantiles * padded];
        for (int64_t u = 0; u < a.units; ++u)
            for (int64_t q = 0; q < a.quantiles; ++q) {
                T whole = 0;
                for (int64_t s = 0; s < shares; ++s) whole += sum[s * sums + q * padded + u];
                dkernel[u * a.quantiles + q] = whole;
            }
    }

    static void task(void *self, int64_t item) {
        Score &s = *static_cast<Score *>(self);
        const int64_t member = item / s.shares, first = item % s.shares * s.share;
        const int64_t rows = least(s.share, s.a.rows - first), row = member * s.a.rows + first;
        if (s.g) {
            memset(s.partial + item * s.sums, 0, (size_t)s.sums * sizeof(T));
            memset(of<T>(s.g->dbase) + row * s.a.quantiles, 0, (size_t)(rows * s.a.quantiles) * sizeof(T));
            s.clear_ends(row, rows);
        } else {
            memset(of<T>(s.a.score) + row, 0, (size_t)rows * sizeof(T));
        }
        const int64_t begin = row * s.a.steps, end = begin + rows * s.a.steps;
        for (int64_t at = begin; at < end; at += PANEL) {
            const Case first = {at / s.a.steps, at % s.a.steps, at};
            s.panel(member, first, least(PANEL, end - at), s.partial + item * s.sums);
        }
    }

    /* Gradients of what no step reads: the last output, and without steps the first. */
    void clear_ends(int64_t row, int64_t rows) {
        if (!a.first) return;
        for (int64_t r = row; r < row + rows; ++r) {
            if (a.steps) {
                const int64_t last = r * a.steps + a.steps - 1;
                memset(of<T>(g->doutputs) + last * a.units, 0, (size_t)a.units * sizeof(T));
                of<T>(g->dtaken)[last] = 0;
            } else {
                memset(of<T>(g->dfirst) + r * a.units, 0, (size_t)a.units * sizeof(T));
                of<T>(g->dlast)[r] = 0;
            }
        }
    }

    /* A row at a step. The row is counted over all members, the case over all rows. */
    struct Case {
        int64_t row, step, at;
        void next(int64_t steps) {
            ++at;
            if (++step == steps) step = 0, ++row;
        }
    };
    /* Where a case reads its `size` numbers, or writes their gradients: in `start` (row), or in `steps`
     * (row, step). */
    T *place(const void *start, const void *steps, const Case &c, int64_t size) const {
        if (!a.first) return of<T>(steps) + c.at * size;
        return c.step ? of<T>(steps) + (c.at - 1) * size : of<T>(start) + c.row * size;
    }

    void panel(int64_t member, const Case &first, int64_t cases, T *sum) {
        const int64_t U = a.units, Q = a.quantiles, steps = a.steps;
        T *outputs = static_cast<T *>(scratch(TASK, memory())), *doutputs = outputs + PANEL * padded;
        T *raw = doutputs + PANEL * padded; /* (case, quantile), and later their gradients */
        T *lanes = raw + PANEL * wide;      /* (quantile, case); value, target, weight, score; slopes */
        T *value = lanes + PANEL * Q, *target = value + PANEL, *weight = target + PANEL,
          *score = weight + PANEL;
        if (cases < PANEL) memset(lanes, 0, (size_t)(PANEL * (Q + 4)) * sizeof(T));
        Case now = first;
        for (int64_t c = 0; c < cases; ++c, now.next(steps)) {
            T *row = outputs + c * padded;
            memcpy(row, place(a.first, a.outputs, now, U), (size_t)U * sizeof(T));
            memset(row + U, 0, (size_t)(padded - U) * sizeof(T));
            value[c] = *place(a.last, a.taken, now, 1);
        }
        memcpy(target, of<T>(a.target) + first.at, (size_t)cases * sizeof(T));
        memcpy(weight, of<T>(a.weight) + first.at, (size_t)cases * sizeof(T));
        product<false>(cases, outputs, padded, 1, kernel + member * U * wide, U, raw, wide);
        now = first;
        for (int64_t c = 0; c < cases; ++c, now.next(steps)) {
            const T *base = of<T>(a.base) + now.row * Q;
            for (int64_t q = 0; q < Q; ++q) lanes[q * PANEL + c] = raw[c * wide + q] + base[q];
            if (g) weight[c] *= of<T>(g->dscore)[now.row];
        }

        const T decay = of<T>(a.decay)[member];
        now = first;
        if (!g) {
            for (int64_t c = 0; c < cases; c += L) scores(lanes + c, decay);
            for (int64_t c = 0; c < cases; ++c, now.next(steps)) of<T>(a.score)[now.row] += score[c];
            return;
        }
        for (int64_t c = 0; c < cases; c += L) slopes(lanes + c, decay);
        for (int64_t c = 0; c < cases; ++c, now.next(steps)) {
            T *dbase = of<T>(g->dbase) + now.row * Q;
            for (int64_t q = 0; q < Q; ++q) {
                raw[c * wide + q] = lanes[q * PANEL + c];
                dbase[q] += lanes[q * PANEL + c];
            }
            const T moved = lanes[Q / 2 * PANEL + c];
            sum[Q * padded] += moved * value[c];
            *place(g->dlast, g->dtaken, now, 1) = moved * decay;
        }
        product<true>(Q, raw, 1, wide, outputs, cases, sum, padded);
        product<false>(cases, raw, wide, 1, turned + member * Q * padded, Q, doutputs, padded);
        now = first;
        for (int64_t c = 0; c < cases; ++c, now.next(steps))
            memcpy(place(g->dfirst, g->doutputs, now, U), doutputs + c * padded, (size_t)U * sizeof(T));
    }

    /* The scores of L cases in `lanes`, from their raw numbers. */
    void scores(T *lanes, T decay) const {
        const int64_t Q = a.quantiles, m = Q / 2;
        const V<T> value = load(lanes + Q * PANEL), target = load(lanes + (Q + 1) * PANEL);
        const V<T> median = fma(all(decay), value, load(lanes + m * PANEL));
        V<T> sum = loss(m, target - median), slope;
        for (int way = -1; way <= 1; way += 2) {
            V<T> out = median;
            for (int64_t q = m + way; q >= 0 && q < Q; q += way) {
                out += all(T(way)) * gap(lanes, q, way, slope);
                sum += loss(q, target - out);
            }
        }
        store(lanes + (Q + 3) * PANEL, sum * load(lanes + (Q + 2) * PANEL) * all(T(2) / T(Q)));
    }

    /* Replaces the raw numbers of L cases in `lanes` by their gradients. */
    void slopes(T *lanes, T decay) const {
        const int64_t Q = a.quantiles, m = Q / 2;
        T *moves = lanes + (Q + 4) * PANEL; /* the slope of the score in each quantile */
        const V<T> value = load(lanes + Q * PANEL), target = load(lanes + (Q + 1) * PANEL);
        const V<T> each = load(lanes + (Q + 2) * PANEL) * all(T(2) / T(Q));
        const V<T> median = fma(all(decay), value, load(lanes + m * PANEL));
        V<T> whole = each * move(m, target - median), slope;
        for (int way = -1; way <= 1; way += 2) {
            V<T> out = median, further = {};
            int64_t q = m + way;
            for (; q >= 0 && q < Q; q += way) {
                out += all(T(way)) * gap(lanes, q, way, slope);
                store(lanes + q * PANEL, slope);
                store(moves + q * PANEL, each * move(q, target - out));
            }
            for (q -= way; q != m; q -= way) { /* a gap shifts all quantiles further out */
                further += load(moves + q * PANEL);
                store(lanes + q * PANEL, all(T(way)) * further * load(lanes + q * PANEL));
            }
            whole += further;
        }
        store(lanes + m * PANEL, whole);
    }

    /* The distance from quantile q to the next one inwards, and its slope in the raw number. */
    V<T> gap(const T *lanes, int64_t q, int way, V<T> &slope) const {
        const double more = a.gaps[way < 0 ? q : q - 1];
        return softplus(load(lanes + q * PANEL) + all(T(more)), slope) + all(T(a.smallest));
    }
    V<T> loss(int64_t q, V<T> error) const {
        const V<T> over = all(T(a.levels[q])) * error, under = all(T(a.levels[q] - 1)) * error;
        return over > under ? over : under;
    }
    V<T> move(int64_t q, V<T> error) const { /* keeps NaN */
        const V<T> up = all(T(1 - a.levels[q])), down = all(T(-a.levels[q]));
        return error > T(0) ? down : error <= T(0) ? up : error;
    }
};

template <class T>
int score(const statecast_score_args *a) {
    return Score<T>(*a, nullptr).run();
}
template <class T>
int gradients(const statecast_score_gradients_args *g) {
    return Score<T>(g->forward, g).run();
}

} // namespace

extern const Quantiles JOIN(quantiles_, STATECAST_INSTRUCTIONS) = {{score<float>, score<double>},
                                                                   {gradients<float>, gradients<double>}};

} // namespace statecast
