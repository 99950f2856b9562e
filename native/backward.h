/* The backward pass.
 *
 * A tile's steps are taken from the last to the first. The gradients of the gates before their functions
 * (the pre-activations) are stored for GROUP steps. Then the gradients of the weights are one product
 * over those rows and steps. */
#ifndef STATECAST_BACKWARD_H
#define STATECAST_BACKWARD_H

#include "pack.h"

#include <type_traits>

namespace statecast {
namespace {

/* Adds to R rows of `out`, C vectors wide, the gradients of the gates times a transposed matrix. `gates`
 * is [block][row of the group][slot][lane]. */
template <class T, int CELL, int R, int C, bool TO_X>
INLINE void through(const T *gates, int64_t block_stride, int64_t units, const T *matrix, T *out,
                    int64_t out_stride) {
    constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    V<T> sum[R][C];
    EACH(r, R)
        EACH(v, C) sum[r][v] = load(out + r * out_stride + v * L);
    for (int64_t first = 0; first < units; first += L, gates += block_stride) {
        const int lanes = least(L, units - first);
        for (int g = 0; g < G; ++g) {
            const T *gate = gates + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g]) * L;
            for (int l = 0; l < lanes; ++l, matrix += C * L) {
                V<T> in[R];
                EACH(r, R) in[r] = all(gate[r * S * L + l]);
                EACH(v, C) {
                    const V<T> weight = load(matrix + v * L);
                    EACH(r, R) sum[r][v] = fma(in[r], weight, sum[r][v]);
                }
            }
        }
    }
    EACH(r, R)
        EACH(v, C) store(out + r * out_stride + v * L, sum[r][v]);
}

/* Adds to R rows (inputs or units) of the weights' gradients of one block, `out` (R, slot, lane), the
 * transpose of `in` (m, ...) times the gradients of the gates (m, slot, lane). */
template <class T, int CELL, int R, bool TO_X>
INLINE void outer(const T *in, int64_t in_stride, const T *gates, int64_t m, T *out) {
    constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    V<T> sum[R][G];
    EACH(r, R)
        EACH(g, G) sum[r][g] = load(out + (r * S + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g])) * L);
    for (; m > 0; --m, in += in_stride, gates += S * L) {
        V<T> factor[R];
        EACH(r, R) factor[r] = all(in[r]);
        EACH(g, G) {
            const V<T> gate = load(gates + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g]) * L);
            EACH(r, R) sum[r][g] = fma(factor[r], gate, sum[r][g]);
        }
    }
    EACH(r, R)
        EACH(g, G) store(out + (r * S + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g])) * L, sum[r][g]);
}

template <class T, int CELL>
struct Backward {
    static constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    const statecast_backward_args &b;
    const statecast_forward_args &a;
    Sizes<T, CELL> z;
    int64_t wide;   /* of a row of a step's arguments: h, then x, each padded to whole vectors */
    int64_t inputs; /* of x, padded to whole vectors */
    int64_t weight_sums;
    int64_t ut, wt; /* numbers of the transposed u and w of a member */
    int64_t sums;   /* numbers of one partial sum; those of feed and decay come last */
    T *transposed, *partial, *first_w;

    /* `to_x` asks for the gradient of x. In a loop of `several` layers all states are saved. */
    Backward(const statecast_backward_args &b, bool to_x, bool several = false)
        : b(b), a(b.forward), z(b.forward, several) {
        inputs = (z.inputs + L - 1) / L * L;
        wide = z.padded + inputs;
        /* Rows a multiple of a page apart would compete for the same lines of the cache. */
        if (wide * (int64_t)sizeof(T) % 1024 == 0) wide += L;
        ut = transposed_size(z, z.units);
        wt = to_x ? transposed_size(z, z.inputs) : 0;
        weight_sums = z.blocks * z.reduction * S * L;
        sums = weight_sums + (a.observed ? z.padded + L : 0);
    }

    /* The chunks of a GROUP's rows. */
    int64_t group_chunks() const { return (GROUP * z.height + DEEP - 1) / DEEP; }
    int64_t left_size() const {
        const int64_t to_state = z.height / EDGE * z.gate_chunks();
        const int64_t to_weights = (z.u_rows + (z.x_chunks ? z.w_rows : 0)) / L * group_chunks();
        return z.tiled ? z.memory_of(to_state > to_weights ? to_state : to_weights) : 0;
    }
    int64_t right_size() const { return z.tiled ? z.memory_of(S * group_chunks()) : 0; }

    size_t memory() const { /* of a task */
        const int64_t m = GROUP * z.height;
        return (size_t)(left_size() + right_size() + z.height * (3 * z.padded + inputs + 2) + z.padded +
                        m * (z.blocks * S * L + wide)) *
               sizeof(T);
    }
    size_t shared() const {
        return (size_t)(z.members * (ut + wt + z.blocks * S * L + z.shares * sums)) * sizeof(T);
    }
    void place(T *memory) { /* of shared() bytes */
        transposed = memory;
        first_w = transposed + z.members * (ut + wt);
        partial = first_w + z.members * z.blocks * S * L;
    }

    static void pack_task(void *self, int64_t member) {
        const Backward &k = *static_cast<Backward *>(self);
        const Sizes<T, CELL> &z = k.z;
        T *out = k.transposed + member * (k.ut + k.wt);
        const int64_t columns = G * z.units;
        const auto transposed = [&](Weights<T> matrix, int64_t outputs, T *to) {
            if constexpr (CHUNKED<T>)
                if (z.tiled) return tile_transposed(z, matrix, outputs, of<Half>(to));
            pack_transposed(z, of<T>(matrix.memory), outputs, to);
        };
        const Weights<T> u = Weights<T>{k.a.u, z.halved()}.from(member * z.units * columns);
        const Weights<T> w = Weights<T>{k.a.w, z.halved()}.from(member * z.inputs * columns);
        transposed(u, z.units, out);
        if (k.wt) transposed(w, z.inputs, out + k.ut);
        /* The weights of x's first number, [block][slot][lane]. */
        out = k.first_w + member * z.blocks * S * L;
        memset(out, 0, (size_t)(z.blocks * S * L) * sizeof(T));
        for (int64_t block = 0; k.a.observed && block < z.blocks; ++block)
            for (int g = 0; g < G; ++g)
                store(out + (block * S + Cell<CELL>::w[g]) * L,
                      w.load(g * z.units + block * L, least(L, z.units - block * L)));
    }

    /* A tile and its buffers. */
    struct Tile {
        int64_t first, rows;
        const T *saved, *below; /* by the forward pass; that of the layer whose states are x, or null */
        int64_t filled;         /* steps whose gradients of the gates are stored */
        T *left, *right;        /* factors of products in chunks */
        T *dh, *dc, *held;      /* gradients of the state, and of an output that masked steps repeat */
        T *dx, *gates, *in;
        T *feed, *dlast, *dvalue; /* of the closed loop: the weights, gradients of `last` and x's first */
    };
    /* The next step's gradients of the gates, and its arguments. */
    static T *gates_of(const Tile &at) { return at.gates + at.filled * at.rows * S * L; }
    T *in_of(const Tile &at) const { return at.in + at.filled * at.rows * wide; }

    static void task(void *self, int64_t item) {
        Backward &k = *static_cast<Backward *>(self);
        const Sizes<T, CELL> &z = k.z;
        const int64_t member = item / z.shares, share = item % z.shares;
        T *sum = k.partial + item * k.sums;
        memset(sum, 0, (size_t)k.sums * sizeof(T));
        for (int64_t t = share * z.share; t < z.tiles && t < (share + 1) * z.share; ++t) k.tile(member, t, sum);
    }

    void tile(int64_t member, int64_t tile, T *sum) {
        T *own = static_cast<T *>(scratch(TASK, memory()));
        memset(own, 0, memory());
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        Tile at = begin(member, tile, of<T>(a.saved) + (member * z.tiles + tile) * z.tile, nullptr, own);
        const T *dy = offset(of<T>(b.dy), at.first * z.steps * z.units);
        for (int64_t t = z.steps - 1; t >= 0; --t) {
            to_state(at, member, t, offset(dy, t * z.units), z.steps * z.units);
            if (a.observed) open_loop(member, at, t, at, in_of(at), wide, sum + weight_sums);
            if (wt) {
                to_x(at, member);
                put_dx(at, t);
            }
            if (a.resets) pass_resets(at, t);
            add_weights(at, t, sum);
        }
        end(at);
    }

    /* A tile before its last step, in cleared memory. */
    Tile begin(int64_t member, int64_t tile, const T *saved, const T *below, T *memory) {
        const int64_t U = z.units, P = z.padded, area = z.height * P, m = GROUP * z.height;
        Tile at;
        at.first = member * z.rows + tile * z.height;
        at.rows = z.count(tile);
        at.saved = saved;
        at.below = below;
        at.filled = 0;
        at.left = memory;
        at.right = at.left + left_size();
        at.dh = at.right + right_size();
        at.dc = at.dh + area;
        at.held = at.dc + area;
        at.dx = at.held + area;
        at.gates = at.dx + z.height * inputs;
        at.in = at.gates + m * z.blocks * S * L;
        at.feed = at.in + m * wide;
        at.dlast = at.feed + P;
        at.dvalue = at.dlast + z.height;
        for (int64_t r = 0; r < at.rows; ++r) {
            if (b.dhn) take(at.dh + r * P, of<T>(b.dhn) + (at.first + r) * U);
            if (b.dcn && CELL == STATECAST_LSTM) take(at.dc + r * P, of<T>(b.dcn) + (at.first + r) * U);
            if (a.observed) of<T>(b.dbase)[at.first + r] = 0;
            if (a.resets) {
                memset(of<T>(b.dhr) + (at.first + r) * U, 0, (size_t)U * sizeof(T));
                if (CELL == STATECAST_LSTM) memset(of<T>(b.dcr) + (at.first + r) * U, 0, (size_t)U * sizeof(T));
            }
        }
        if (a.observed) memcpy(at.feed, of<T>(a.feed) + member * U, (size_t)U * sizeof(T));
        return at;
    }

    /* From step t's gradients of the outputs, `stride` apart from row to row (null: zeros), and of the state
     * after it to those of the gates and of the state before it. */
    void to_state(Tile &at, int64_t member, int64_t t, const T *dy, int64_t stride) {
        T *gates = gates_of(at), *in = in_of(at);
        for (int64_t r = 0; r < at.rows; ++r) to_gates(at, t, r, offset(dy, r * stride), gates, in + r * wide);
        /* The next step reads the state that was saved two steps before this one, too. */
        product<false>(at, gates, GROUP * z.height, transposed + member * (ut + wt), z.padded / L, at.dh,
                       z.padded, t > 1 ? at.saved + (t - 2) * z.step : nullptr);
    }

    /* The gradients of the step's inputs through the gates; after to_state() of the same step. */
    void to_x(const Tile &at, int64_t member) {
        memset(at.dx, 0, (size_t)(at.rows * inputs) * sizeof(T));
        product<true>(at, gates_of(at), GROUP * z.height, transposed + member * (ut + wt) + ut, inputs / L,
                      at.dx, inputs);
    }
    void put_dx(const Tile &at, int64_t t) const {
        for (int64_t r = 0; r < at.rows; ++r) {
            const int64_t now = (at.first + r) * z.steps + t;
            T *dx = of<T>(b.dx) + now * z.inputs;
            memcpy(dx, at.dx + r * inputs, (size_t)z.inputs * sizeof(T));
            if (a.observed) dx[0] = at.dvalue[r];
        }
    }

    void pass_resets(const Tile &at, int64_t t) {
        const int64_t U = z.units, P = z.padded;
        for (int64_t r = 0; r < at.rows; ++r)
            if (a.resets[(at.first + r) * z.steps + t]) {
                give(of<T>(b.dhr) + (at.first + r) * U, at.dh + r * P);
                if (CELL == STATECAST_LSTM) give(of<T>(b.dcr) + (at.first + r) * U, at.dc + r * P);
            }
    }

    /* Adds those of the weights to `sum`, once there are the gates' of GROUP steps. */
    void add_weights(Tile &at, int64_t t, T *sum) {
        if (++at.filled < GROUP && t > 0) return;
        weights(at.filled * at.rows, at, sum);
        at.filled = 0;
    }

    /* Puts the gradients of the state before the first step. */
    void end(const Tile &at) const {
        const int64_t U = z.units, P = z.padded;
        for (int64_t r = 0; r < at.rows; ++r) {
            memcpy(of<T>(b.dh0) + (at.first + r) * U, at.dh + r * P, (size_t)U * sizeof(T));
            if (CELL == STATECAST_LSTM)
                memcpy(of<T>(b.dc0) + (at.first + r) * U, at.dc + r * P, (size_t)U * sizeof(T));
            if (a.observed) of<T>(b.dlast)[at.first + r] = at.dlast[r];
        }
    }

    /* The gradients of the first inputs of step t. Where an input was feedback, its gradient is passed on
     * to what the feedback was computed from. `top` is the tile in the last layer, `in` has the arguments of
     * its step, `in_stride` apart. */
    void open_loop(int64_t member, const Tile &at, int64_t t, const Tile &top, const T *in, int64_t in_stride,
                   T *sum) {
        const int64_t stride = GROUP * z.height * S * L;
        const T decay = of<T>(a.decay)[member], *w = first_w + member * z.blocks * S * L, *gates = gates_of(at);
        for (int64_t r = 0; r < at.rows; ++r, in += in_stride) {
            const int64_t row = at.first + r, now = row * z.steps + t;
            T value = at.dlast[r] + (b.dfed ? of<T>(b.dfed)[now] : T(0));
            at.dvalue[r] = 0;
            if (a.mask && !a.mask[now]) { /* the input was the last one */
                at.dlast[r] = value;
                continue;
            }
            for (int64_t k = 0; k < z.blocks; ++k)
                value += dot(gates + k * stride + r * S * L, w + k * S * L, S * L);
            at.dlast[r] = 0;
            if (a.observed[now]) {
                at.dvalue[r] = value;
                continue;
            }
            const T last = t ? of<T>(a.fed)[now - 1] : of<T>(a.last)[row];
            const V<T> each = all(value);
            T *dh = top.dh + r * z.padded;
            for (int64_t i = 0; i < z.padded; i += L) {
                store(dh + i, fma(each, load(at.feed + i), load(dh + i)));
                store(sum + i, fma(each, load(in + i), load(sum + i)));
            }
            sum[z.padded] += value * last;
            of<T>(b.dbase)[row] += value;
            at.dlast[r] = value * decay;
        }
    }

    void take(T *to, const T *from) { memcpy(to, from, (size_t)z.units * sizeof(T)); }
    void give(T *to, T *from) { /* adds, and sets `from` to zero: no gradient passes a reset */
        for (int64_t i = 0; i < z.units; ++i) to[i] += from[i];
        memset(from, 0, (size_t)z.padded * sizeof(T));
    }

    /* Reads two numbers of each unit as the forward pass saved them, and returns where the next ones are. */
    const T *kept_two(const T *from, V<T> &a, V<T> &b, int64_t quantity) const {
        a = load(from);
        if constexpr (CHUNKED<T>)
            if (z.halved()) {
                b = seconds(a), a = firsts(a);
                return from + quantity;
            }
        b = load(from + quantity);
        return from + 2 * quantity;
    }

    /* The gradients of row r's gates in step t, from dy, dh and dc. The last two become the part of the
     * gradients of the state before the step that does not pass through the gates. `in` gets the step's
     * arguments. */
    void to_gates(Tile &at, int64_t t, int64_t r, const T *dy, T *gates, T *in) {
        const int64_t U = z.units, P = z.padded, row = at.first + r, quantity = z.height * L;
        const int64_t now = row * z.steps + t, stride = GROUP * z.height * S * L;
        const bool reset = a.resets && a.resets[now], counts = !a.mask || a.mask[now];
        const T *saved = at.saved + t * z.step + r * L, *prior = saved - z.step;
        T *dh = at.dh + r * P, *dc = at.dc + r * P, *held = at.held + r * P;
        gates += r * S * L;
        if (t > 0) { /* the data of the step before, while this one is computed */
            for (int64_t i = 0; !z.tiled && i < z.blocks * z.kept; ++i) prefetch(prior + i * quantity);
            for (int64_t i = 0; i < U; i += L) {
                if (b.dy) prefetch(dy - U + i);
                if (t > 1 && !z.has_states) prefetch(of<T>(a.y) + (now - 2) * U + i);
            }
        }
        if (!counts) { /* the output was an earlier step's, and x was not used */
            for (int64_t i = 0; dy && i < U; ++i) held[i] += dy[i];
            for (int64_t k = 0; k < z.blocks; ++k) memset(gates + k * stride, 0, (size_t)(S * L) * sizeof(T));
            memset(in, 0, (size_t)wide * sizeof(T));
            return;
        }
        const int64_t block_size = z.kept * quantity;
        const T *h_before = of<T>(reset ? a.hr : a.h0) + row * U;
        const T *c_before = CELL == STATECAST_LSTM ? of<T>(reset ? a.cr : a.c0) + row * U : nullptr;
        const bool earlier = !reset && t > 0;
        if (earlier && z.has_states)
            for (int64_t k = 0; k < z.blocks; ++k)
                store(in + k * L, load(prior + k * block_size + (z.kept - 1) * quantity));
        else
            memcpy(in, earlier ? of<T>(a.y) + (now - 1) * U : h_before, (size_t)U * sizeof(T));
        const T *below = offset(at.below, t * z.step + r * L + (z.kept - 1) * quantity);
        for (int64_t k = 0; below && k < z.blocks; ++k) store(in + P + k * L, load(below + k * block_size));
        if (!below && z.inputs) memcpy(in + P, of<T>(a.x) + now * z.inputs, (size_t)z.inputs * sizeof(T));
        if (a.observed) in[P] = of<T>(a.fed)[now];

        const V<T> one = all(T(1));
        for (int64_t k = 0; k < z.blocks; ++k, saved += block_size, prior += block_size, gates += stride) {
            const int n = least(L, U - k * L);
            V<T> d = load(dh + k * L);
            if (dy) d += load(dy + k * L, n);
            if (a.mask) {
                d += load(held + k * L);
                store(held + k * L, V<T>{});
            }
            if constexpr (CELL == STATECAST_LSTM) {
                V<T> i, f, g, o;
                const T *next = kept_two(kept_two(saved, i, f, quantity), g, o, quantity);
                const V<T> c = tanh_of(load(next));
                const V<T> before = earlier ? load(next - z.step) : load(c_before + k * L, n);
                const V<T> cell = fma(d * o, one - c * c, load(dc + k * L));
                store(gates, cell * g * i * (one - i));
                store(gates + L, cell * before * f * (one - f));
                store(gates + 2 * L, cell * i * (one - g * g));
                store(gates + 3 * L, d * c * o * (one - o));
                store(dc + k * L, cell * f);
                store(dh + k * L, V<T>{});
            } else if constexpr (CELL == STATECAST_GRU) {
                V<T> update, reset_gate, g, part;
                kept_two(kept_two(saved, update, reset_gate, quantity), g, part, quantity);
                const V<T> candidate = d * (one - update) * (one - g * g);
                store(gates, d * (load(in + k * L) - g) * update * (one - update));
                store(gates + L, candidate * part * reset_gate * (one - reset_gate));
                store(gates + 2 * L, candidate);
                store(gates + 3 * L, candidate * reset_gate);
                store(dh + k * L, d * update);
            } else {
                const V<T> h = z.has_states ? load(saved) : load(of<T>(a.y) + now * U + k * L, n);
                store(gates, d * (one - h * h));
                store(dh + k * L, V<T>{});
            }
        }
    }

    template <int C, bool TO_X>
    struct Product {
        template <int R>
        struct Rows {
            APART static void run(int64_t row, const T *gates, int64_t block_stride, int64_t units,
                                  const T *matrix, T *out, int64_t out_stride) {
                through<T, CELL, R, C, TO_X>(gates + row * S * L, block_stride, units, matrix,
                                             out + row * out_stride, out_stride);
            }
        };
    };

    /* out (rows, vectors * L) += gates @ matrix, transposed and packed. With chunks the data at
     * `later`, saved by another step, are prefetched meanwhile. */
    template <bool TO_X>
    void product(const Tile &at, const T *gates, int64_t m, const T *matrix, int64_t vectors, T *out,
                 int64_t out_stride, const T *later = nullptr) {
        const int64_t block_stride = m * S * L, rows = at.rows;
        if constexpr (CHUNKED<T>)
            if (z.tiled) {
                const int64_t chunks = z.gate_chunks(), gate_vectors = z.blocks * G;
                const auto vector = [&](int64_t r, int64_t i) {
                    const int slot = TO_X ? Cell<CELL>::w[i % G] : Cell<CELL>::u[i % G];
                    const int64_t k = i / G; /* lanes that are no unit may be NaN */
                    return i < gate_vectors
                               ? load(gates + k * block_stride + (r * S + slot) * L, least(L, z.units - k * L))
                               : V<T>{};
                };
                /* The slots of most cells are the same for both products, so they are split once. */
                const bool ready = TO_X && CELL != STATECAST_GRU;
                for (int64_t r = 0; !ready && r < rows; ++r) {
                    Half *to = of<Half>(at.left) + r / EDGE * chunks * z.chunk() + r % EDGE * DEEP;
                    for (int64_t c = 0; c < chunks; ++c, to += z.chunk())
                        split<T>(vector(r, 2 * c), vector(r, 2 * c + 1), z.parts, to);
                }
                constexpr int MOST = 8;
                const Half *right[MOST];
                T *sum[MOST];
                const int64_t part = later ? z.step / ((vectors + MOST - 1) / MOST) : 0;
                for (int64_t v = 0; v < vectors;) {
                    int across = 0;
                    const T *now = offset(later, v / MOST * part);
                    for (; across < MOST && v < vectors; ++across, ++v) {
                        right[across] = of<Half>(matrix) + v * chunks * z.chunk();
                        sum[across] = out + v * L;
                    }
                    multiply<true>(z.parts, of<Half>(at.left), chunks * z.chunk(), rows, right, across, chunks,
                                   sum, out_stride, now, part);
                }
                return;
            }
        for (int64_t v = 0; v < vectors; v += 4) {
            const int c = least(4, vectors - v);
            T *to = out + v * L;
            if (c == 4)
                by_rows<Product<4, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to,
                                                         out_stride);
            else if (c == 3)
                by_rows<Product<3, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to,
                                                         out_stride);
            else if (c == 2)
                by_rows<Product<2, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to,
                                                         out_stride);
            else
                by_rows<Product<1, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to,
                                                         out_stride);
            matrix += c * L * (int64_t)G * z.units;
        }
    }

    template <bool TO_X>
    struct Outer {
        template <int R>
        struct Rows {
            APART static void run(int64_t row, const T *in, int64_t in_stride, const T *gates, int64_t m,
                                  T *out) {
                outer<T, CELL, R, TO_X>(in + row, in_stride, gates, m, out + row * S * L);
            }
        };
    };

    /* Adds the weights' gradients of m rows to a partial sum, [block][unit, input, bias][slot][lane]. */
    void weights(int64_t m, const Tile &at, T *sum) {
        const T *gates = at.gates;
        const int64_t chunks = (m + DEEP - 1) / DEEP, tiles = (z.u_rows + z.w_rows) / EDGE;
        if constexpr (CHUNKED<T>)
            for (int64_t i = 0; z.tiled && i < (z.x_chunks ? tiles : z.u_rows / EDGE); ++i)
                for (int64_t c = 0; c < chunks; ++c)
                    split_columns(at.in + c * DEEP * wide + i * L, wide, m - c * DEEP, z.parts,
                                  of<Half>(at.left) + (i * chunks + c) * z.chunk());
        for (int64_t k = 0; k < z.blocks; ++k, gates += GROUP * z.height * S * L) {
            if constexpr (CHUNKED<T>)
                for (int s = 0; z.tiled && s < S; ++s)
                    for (int64_t c = 0; c < chunks; ++c)
                        split_rows(gates + (c * DEEP * S + s) * L, S * L, m - c * DEEP, EDGE, z.parts,
                                   of<Half>(at.right) + (s * chunks + c) * z.chunk());
            if (z.tiled)
                outer_tiles<false>(at, z.u_rows / EDGE, chunks, 0, sum);
            else
                by_rows<Outer<false>::template Rows>(z.units, (const T *)at.in, wide, gates, m, sum);
            sum += z.u_rows * S * L;
            if (z.x_chunks)
                outer_tiles<true>(at, z.w_rows / EDGE, chunks, z.u_rows / EDGE, sum);
            else
                by_rows<Outer<true>::template Rows>(z.inputs, (const T *)at.in + z.padded, wide, gates, m, sum);
            sum += z.w_rows * S * L;
            V<T> bias[S];
            EACH(s, S) bias[s] = load(sum + s * L);
            for (int64_t i = 0; i < m; ++i)
                EACH(s, S) bias[s] += load(gates + (i * S + s) * L);
            EACH(s, S) store(sum + s * L, bias[s]);
            sum += S * L;
        }
    }

    /* The same in chunks: `down` tiles of rows of one block, from the left tile `first` on. */
    template <bool TO_X>
    void outer_tiles(const Tile &at, int64_t down, int64_t chunks, int64_t first, T *sum) {
        if constexpr (CHUNKED<T>) {
            const Half *right[G];
            T *sums[G];
            for (int g = 0; g < G; ++g) {
                const int slot = TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g];
                right[g] = of<Half>(at.right) + slot * chunks * z.chunk();
                sums[g] = sum + slot * L;
            }
            multiply<true>(z.parts, of<Half>(at.left) + first * chunks * z.chunk(), chunks * z.chunk(),
                           down * EDGE, right, G, chunks, sums, S * L);
        }
    }

    /* The gradients of one block of a member's weights, in the layout of the weights: the partial sums
     * are added in order. */
    static void reduce_task(void *self, int64_t item) {
        Backward &k = *static_cast<Backward *>(self);
        const Sizes<T, CELL> &z = k.z;
        const int64_t member = item / z.blocks, block = item % z.blocks, U = z.units;
        const int n = least(L, U - block * L);
        T *sum = k.partial + member * z.shares * k.sums + block * z.reduction * S * L;
        if (k.a.observed) {
            T *feed = sum - block * z.reduction * S * L + k.weight_sums;
            T whole[L] = {}, decay = 0;
            for (int64_t share = 0; share < z.shares; ++share, feed += k.sums) {
                for (int i = 0; i < L; ++i) whole[i] += feed[block * L + i];
                decay += feed[z.padded];
            }
            memcpy(of<T>(k.b.dfeed) + member * U + block * L, whole, (size_t)n * sizeof(T));
            if (block == 0) of<T>(k.b.ddecay)[member] = decay;
        }
        const int64_t columns = G * U, biases = CELL == STATECAST_GRU ? 2 : 1;
        T *du = of<T>(k.b.du) + member * U * columns + block * L;
        T *dw = of<T>(k.b.dw) + member * z.inputs * columns + block * L;
        T *dbias = offset(of<T>(k.b.dbias), member * biases * columns + block * L);
        for (int64_t row = 0; row < z.reduction; ++row, sum += S * L) {
            T whole[S * L] = {};
            for (int64_t share = 0; share < z.shares; ++share)
                for (int i = 0; i < S * L; ++i) whole[i] += sum[share * k.sums + i];
            for (int g = 0; g < G; ++g) {
                const size_t bytes = (size_t)n * sizeof(T);
                const T *to_x = whole + Cell<CELL>::w[g] * L, *to_h = whole + Cell<CELL>::u[g] * L;
                if (row < z.u_rows) {
                    if (row < U) memcpy(du + row * columns + g * U, to_h, bytes);
                } else if (row < z.u_rows + z.w_rows) {
                    const int64_t input = row - z.u_rows;
                    if (input < z.inputs) memcpy(dw + input * columns + g * U, to_x, bytes);
                } else if (dbias) {
                    memcpy(dbias + g * U, to_x, bytes);
                    if (biases == 2) memcpy(dbias + columns + g * U, to_h, bytes);
                }
            }
        }
    }
};

template <class T, int CELL>
int backward(const statecast_backward_args &b) {
    Backward<T, CELL> k(b, b.dx);
    T *memory = static_cast<T *>(scratch(CALL, k.shared()));
    if (!memory || !scratch(TASK, k.memory())) return STATECAST_NO_MEMORY;
    k.place(memory);
    if (b.dx) large_pages(b.dx, (size_t)(k.z.members * k.z.rows * k.z.steps * k.z.inputs) * sizeof(T));
    const Host host = {b.forward.threads, b.forward.openmp};
    parallel(k.z.members, k.pack_task, &k, host);
    parallel(k.z.members * k.z.shares, k.task, &k, host);
    parallel(k.z.members * k.z.blocks, k.reduce_task, &k, host);
    return STATECAST_OK;
}

} // namespace
} // namespace statecast
#endif
