/* The score of a head, forward and backward: compiled once for each instruction set.
 *
 * A case is a row at a step. Cases are computed in panels: one product gives a panel's raw numbers, all
 * else is computed for LANES cases at once, and in the backward pass two more products give the
 * gradients of the outputs and of the kernel. Nothing is stored in between: computing the first product
 * again takes less time than writing and reading its results.
 */
#include "functions.h"
#include "services.h"

namespace statecast {
namespace {

constexpr int PANEL = 48; /* cases: whole vectors and register tiles with every instruction set */

/* -- families ----------------------------------------------------------------------------------------------
 *
 * Each computes LANES cases from their raw numbers, raw[p * PANEL] on, the shift of the location, and the
 * target: score() the score with weight 1, and slopes() its slopes in the raw numbers, times `each`, in place of
 * these. `spare` is memory as large as the raw numbers. */

template <class T>
struct Quantiles {
    const statecast_score_args &a;

    int64_t location() const { return a.parameters / 2; }
    V<T> score(const T *raw, V<T> shift, V<T> target) const {
        const int64_t Q = a.parameters, m = Q / 2;
        const V<T> median = load(raw + m * PANEL) + shift;
        V<T> sum = loss(m, target - median), slope;
        for (int way = -1; way <= 1; way += 2) {
            V<T> out = median;
            for (int64_t q = m + way; q >= 0 && q < Q; q += way) {
                out += all(T(way)) * gap(raw, q, way, slope);
                sum += loss(q, target - out);
            }
        }
        return sum * all(T(2) / T(Q));
    }
    void slopes(T *raw, T *spare, V<T> shift, V<T> target, V<T> each) const {
        const int64_t Q = a.parameters, m = Q / 2;
        each = each * all(T(2) / T(Q));
        const V<T> median = load(raw + m * PANEL) + shift;
        V<T> whole = each * move(m, target - median), slope;
        for (int way = -1; way <= 1; way += 2) {
            V<T> out = median, further = {};
            int64_t q = m + way;
            for (; q >= 0 && q < Q; q += way) { /* `spare`: the slope of the score in each quantile */
                out += all(T(way)) * gap(raw, q, way, slope);
                store(raw + q * PANEL, slope);
                store(spare + q * PANEL, each * move(q, target - out));
            }
            for (q -= way; q != m; q -= way) { /* a gap shifts all quantiles further out */
                further += load(spare + q * PANEL);
                store(raw + q * PANEL, all(T(way)) * further * load(raw + q * PANEL));
            }
            whole += further;
        }
        store(raw + m * PANEL, whole);
    }

    /* The distance from quantile q to the next one inwards, and its slope in the raw number. */
    V<T> gap(const T *raw, int64_t q, int way, V<T> &slope) const {
        const double more = a.gaps[way < 0 ? q : q - 1];
        return softplus(load(raw + q * PANEL) + all(T(more)), slope) + all(T(a.smallest));
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

/* 0, and NaN where a number is. */
INLINE F nan_of(F x) { return x != x ? x : all(0.0f); }

/* A location, and a scale from the second raw number. */
struct Scaled {
    F centre, scale, slope, w;
    Scaled(const statecast_score_args &a, const float *raw, F shift, F target) {
        centre = load(raw) + shift;
        scale = softplus(load(raw + PANEL) + (float)a.gaps[0], slope) + (float)a.smallest;
        w = (target - centre) / scale;
    }
};

struct Normal { /* Gneiting et al. (2005) */
    const statecast_score_args &a;

    int64_t location() const { return 0; }
    /* Twice the density less 1 / sqrt(pi): the slope of the score in the scale. */
    static F rest(F w) { return all(0.7978845608f) * exp_down(-0.5f * w * w) - 0.5641895835f; }
    static F inner(F w) { /* the probability of less than |w|, with the sign of w */
        F complement;
        return error_function(all(0.7071067812f) * w, complement);
    }
    F score(const float *raw, F shift, F target) const {
        const Scaled s(a, raw, shift, target);
        return s.scale * (s.w * inner(s.w) + rest(s.w)) + nan_of(s.w);
    }
    void slopes(float *raw, float *, F shift, F target, F each) const {
        const Scaled s(a, raw, shift, target);
        store(raw, -each * inner(s.w) + nan_of(s.w));
        store(raw + PANEL, each * rest(s.w) * s.slope + nan_of(s.w));
    }
};

struct StudentT {
    const statecast_score_args &a;

    struct Tail : Scaled {
        F freedom, inside, square; /* inside: 5 e^raw, the part of the degrees of freedom that moves */
        Bits limited;
        Tail(const statecast_score_args &a, const float *raw, F shift, F target)
            : Scaled(a, raw, shift, target) {
            const F third = load(raw + 2 * PANEL), within = most(all(-6.0f), least(all(5.0f), third));
            limited = within != third;
            inside = 5.0f * exp_of(within);
            freedom = inside + 2.5f;
            square = w * w;
        }
    };
    int64_t location() const { return 0; }
    F score(const float *raw, F shift, F target) const {
        const Tail t(a, raw, shift, target);
        const F half = 0.5f * t.freedom;
        const F gammas =
            half * log1p_of(0.5f / half) - 0.5f + stirling_error(half + 0.5f) - stirling_error(half);
        return HALF_LOG_2PI - gammas + log_of(t.scale) +
               0.5f * (t.freedom + 1.0f) * log1p_of(t.square / t.freedom) + nan_of(t.w + t.freedom);
    }
    void slopes(float *raw, float *, F shift, F target, F each) const {
        const Tail t(a, raw, shift, target);
        const F half = 0.5f * t.freedom, whole = t.freedom + t.square, over = 0.5f / half;
        const F gammas = log_less_digamma(half) - log_less_digamma(half + 0.5f) - log_excess(over, 1.0f + over);
        const F in_freedom = 0.5f * (log1p_of(t.square / t.freedom) - gammas -
                                     (t.freedom + 1.0f) * (t.square / t.freedom) / whole);
        store(raw, -each * (t.freedom + 1.0f) * (t.w / whole) / t.scale);
        store(raw + PANEL, each * t.freedom * ((1.0f - t.square) / whole) / t.scale * t.slope);
        store(raw + 2 * PANEL,
              (t.limited ? all(0.0f) : each * in_freedom * t.inside) + nan_of(t.w + t.freedom));
    }
};

/* Counts: the scale of values is (log1p(count / centre) - location) / scaling. */
struct Counted {
    F count, mean, slope; /* slope: of the mean in the raw number */
    Counted(const statecast_score_args &a, const float *raw, F shift, F target) {
        const float centre = (float)a.gaps[0], location = (float)a.gaps[1], scaling = (float)a.gaps[2],
                    sharpness = (float)a.gaps[3];
        const F edge = all((float)a.gaps[4]), zero = all(0.0f);
        const F seen = location + scaling * target;
        const F real = centre * expm1_of(least(edge, most(zero, seen)));
        constexpr float whole = 0x1p23f; /* from here on float32 has whole numbers only */
        count = (real < whole ? (real + whole) - whole : real) + nan_of(target);
        const F located = load(raw) + shift;
        const F log = softplus(sharpness * (location + scaling * located), slope) * (1.0f / sharpness);
        const F over = centre * expm1_of(least(edge, log));
        mean = over + (float)a.smallest + nan_of(located);
        slope = (log < edge ? scaling * slope * (over + centre) : zero) + nan_of(located);
    }
};

struct Poisson {
    const statecast_score_args &a;

    int64_t location() const { return 0; }
    F score(const float *raw, F shift, F target) const {
        const Counted c(a, raw, shift, target);
        const F n = most(all(1.0f), c.count);
        const F positive = stirling_error(n) + c.mean * deviance((n - c.mean) / c.mean) + 0.5f * log_of(n);
        return (c.count > 0.0f ? positive + HALF_LOG_2PI : c.mean) + nan_of(c.count + c.mean);
    }
    void slopes(float *raw, float *, F shift, F target, F each) const {
        const Counted c(a, raw, shift, target);
        store(raw, each * ((c.mean - c.count) / c.mean) * c.slope);
    }
};

struct NegativeBinomial {
    const statecast_score_args &a;

    struct Spread : Counted { /* the size, which is the inverse of a limited number */
        F size, slope_of_inverse;
        Spread(const statecast_score_args &a, const float *raw, F shift, F target)
            : Counted(a, raw, shift, target) {
            const F second = softplus(load(raw + PANEL) + (float)a.gaps[5], slope_of_inverse);
            const F inverse = most(all(1e-4f), least(all(30.0f), second));
            slope_of_inverse = inverse == second ? slope_of_inverse : all(0.0f);
            size = 1.0f / inverse;
        }
    };
    int64_t location() const { return 0; }
    F score(const float *raw, F shift, F target) const {
        const Spread s(a, raw, shift, target);
        const F n = most(all(1.0f), s.count), m = s.mean, r = s.size, whole = n + r;
        const F p = r / (r + m), q = m / (r + m);
        const F positive = stirling_error(r) + stirling_error(n) - stirling_error(whole) +
                           whole * p * deviance((m - n) / whole) +
                           whole * q * deviance(r * (n - m) / (whole * m)) + 0.5f * log_of(n * whole / r) +
                           HALF_LOG_2PI;
        return (s.count > 0.0f ? positive : r * log1p_of(m / r)) + nan_of(s.count + m + r);
    }
    void slopes(float *raw, float *, F shift, F target, F each) const {
        const Spread s(a, raw, shift, target);
        const F n = s.count, m = s.mean, r = s.size, sum = m + r;
        const F in_size =
            log_less_digamma(n + r) - log_less_digamma(r) + log_excess((n - m) / sum, (n + r) / sum);
        store(raw, each * ((m - n) / m) * (r / sum) * s.slope);
        store(raw + PANEL, -each * in_size * r * r * s.slope_of_inverse + nan_of(n + m + r));
    }
};

/* -- scores ------------------------------------------------------------------------------------------------ */

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

template <class T, class Family>
struct Score {
    static constexpr int L = LANES<T>;
    const statecast_score_args &a;
    const statecast_score_gradients_args *g; /* null if only the score is computed */
    const Family family;
    int64_t padded, wide;         /* units and parameters, padded to whole vectors */
    int64_t share, shares;        /* rows of one partial sum, and partial sums of a member */
    int64_t sums;                 /* numbers of one: of the kernel (parameter, unit), and of decay */
    T *kernel, *turned, *partial; /* kernel (unit, parameter), turned (parameter, unit), for each member */

    Score(const statecast_score_args &a, const statecast_score_gradients_args *g) : a(a), g(g), family{a} {
        padded = (a.units + L - 1) / L * L;
        wide = (a.parameters + L - 1) / L * L;
        share = (a.rows + MOST_SUMS - 1) / MOST_SUMS;
        share = share > 0 ? share : 1;
        shares = (a.rows + share - 1) / share;
        sums = a.parameters * padded + L;
    }
    size_t shared() const {
        return (size_t)(a.members * (a.units * wide + a.parameters * padded + (g ? shares * sums : 0))) *
               sizeof(T);
    }
    size_t memory() const { /* of a task */
        return (size_t)(PANEL * (2 * padded + wide + 2 * a.parameters + 4)) * sizeof(T);
    }

    int run() {
        kernel = static_cast<T *>(scratch(CALL, shared()));
        if (!kernel || !scratch(TASK, memory())) return STATECAST_NO_MEMORY;
        turned = kernel + a.members * a.units * wide;
        partial = turned + a.members * a.parameters * padded;
        for (int64_t member = 0; member < a.members; ++member) pack(member);
        if (g) large_pages(g->doutputs, (size_t)(a.members * a.rows * a.steps * a.units) * sizeof(T));
        parallel(a.members * shares, task, this, {a.threads, a.openmp});
        for (int64_t member = 0; g && member < a.members; ++member) reduce(member);
        return STATECAST_OK;
    }

    void pack(int64_t member) {
        const T *from = of<T>(a.kernel) + member * a.units * a.parameters;
        T *to = kernel + member * a.units * wide, *back = turned + member * a.parameters * padded;
        memset(to, 0, (size_t)(a.units * wide) * sizeof(T));
        memset(back, 0, (size_t)(a.parameters * padded) * sizeof(T));
        for (int64_t u = 0; u < a.units; ++u)
            for (int64_t q = 0; q < a.parameters; ++q)
                to[u * wide + q] = back[q * padded + u] = from[u * a.parameters + q];
    }

    /* The gradients in the layout of the weights: the partial sums are added in order. */
    void reduce(int64_t member) {
        T *dkernel = of<T>(g->dkernel) + member * a.units * a.parameters, *ddecay = of<T>(g->ddecay) + member;
        T *sum = partial + member * shares * sums;
        *ddecay = 0;
        for (int64_t s = 0; s < shares; ++s) *ddecay += sum[s * sums + a.parameters * padded];
        for (int64_t u = 0; u < a.units; ++u)
            for (int64_t q = 0; q < a.parameters; ++q) {
                T whole = 0;
                for (int64_t s = 0; s < shares; ++s) whole += sum[s * sums + q * padded + u];
                dkernel[u * a.parameters + q] = whole;
            }
    }

    static void task(void *self, int64_t item) {
        Score &s = *static_cast<Score *>(self);
        const int64_t member = item / s.shares, first = item % s.shares * s.share;
        const int64_t rows = least(s.share, s.a.rows - first), row = member * s.a.rows + first;
        if (s.g) {
            memset(s.partial + item * s.sums, 0, (size_t)s.sums * sizeof(T));
            memset(of<T>(s.g->dbase) + row * s.a.parameters, 0, (size_t)(rows * s.a.parameters) * sizeof(T));
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
        const int64_t U = a.units, Q = a.parameters, steps = a.steps;
        T *outputs = static_cast<T *>(scratch(TASK, memory())), *doutputs = outputs + PANEL * padded;
        T *raw = doutputs + PANEL * padded; /* (case, parameter), and later their gradients */
        T *lanes = raw + PANEL * wide;      /* (parameter, case); value, target, weight, score; spare */
        T *value = lanes + PANEL * Q, *target = value + PANEL, *weight = target + PANEL,
          *score = weight + PANEL;
        T *spare = score + PANEL;
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
            for (int64_t c = 0; c < cases; c += L)
                store(score + c, family.score(lanes + c, all(decay) * load(value + c), load(target + c)) *
                                     load(weight + c));
            for (int64_t c = 0; c < cases; ++c, now.next(steps)) of<T>(a.score)[now.row] += score[c];
            return;
        }
        for (int64_t c = 0; c < cases; c += L)
            family.slopes(lanes + c, spare + c, all(decay) * load(value + c), load(target + c),
                          load(weight + c));
        for (int64_t c = 0; c < cases; ++c, now.next(steps)) {
            T *dbase = of<T>(g->dbase) + now.row * Q;
            for (int64_t q = 0; q < Q; ++q) {
                raw[c * wide + q] = lanes[q * PANEL + c];
                dbase[q] += lanes[q * PANEL + c];
            }
            const T moved = lanes[family.location() * PANEL + c];
            sum[Q * padded] += moved * value[c];
            *place(g->dlast, g->dtaken, now, 1) = moved * decay;
        }
        product<true>(Q, raw, 1, wide, outputs, cases, sum, padded);
        product<false>(cases, raw, wide, 1, turned + member * Q * padded, Q, doutputs, padded);
        now = first;
        for (int64_t c = 0; c < cases; ++c, now.next(steps))
            memcpy(place(g->dfirst, g->doutputs, now, U), doutputs + c * padded, (size_t)U * sizeof(T));
    }
};

template <class T>
int of_family(const statecast_score_args &a, const statecast_score_gradients_args *g) {
    if constexpr (sizeof(T) == sizeof(float)) switch (a.head) {
            case STATECAST_NORMAL: return Score<T, Normal>(a, g).run();
            case STATECAST_STUDENT_T: return Score<T, StudentT>(a, g).run();
            case STATECAST_POISSON: return Score<T, Poisson>(a, g).run();
            case STATECAST_NEGATIVE_BINOMIAL: return Score<T, NegativeBinomial>(a, g).run();
        }
    return Score<T, Quantiles<T>>(a, g).run();
}
template <class T>
int score(const statecast_score_args *a) {
    return of_family<T>(*a, nullptr);
}
template <class T>
int gradients(const statecast_score_gradients_args *g) {
    return of_family<T>(g->forward, g);
}

} // namespace

extern const Scores JOIN(scores_, STATECAST_INSTRUCTIONS) = {{score<float>, score<double>},
                                                             {gradients<float>, gradients<double>}};

} // namespace statecast
