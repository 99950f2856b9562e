/* The forward pass.
 *
 * A block's weights are packed [k][gate][lane]. One pass over k, first the units and then the inputs,
 * adds up a register tile of TILE_ROWS rows and all gates of the block. The gates' functions follow on
 * registers. */
#ifndef STATECAST_FORWARD_H
#define STATECAST_FORWARD_H

#include "pack.h"

#include <type_traits>

namespace statecast {
namespace {

/* Adds the product of R rows of n numbers, `stride` apart, with weights [k][gate][lane] to the slots in
 * `slot`. */
template <class T, int R, int S, int G>
INLINE void add(V<T> (&sum)[R][S], const int (&slot)[G], const T *in, int64_t stride, int64_t n,
                const T *weights) {
    for (int64_t k = 0; k < n; ++k, weights += G * LANES<T>) {
        V<T> factor[R];
        EACH(r, R) factor[r] = all(in[r * stride + k]);
        EACH(g, G) {
            const V<T> weight = load(weights + g * LANES<T>);
            EACH(r, R) sum[r][slot[g]] = fma(factor[r], weight, sum[r][slot[g]]);
        }
    }
}

/* Saves two numbers of each unit, and returns where the next ones are saved. */
template <class T>
INLINE T *keep_two(T *to, V<T> a, V<T> b, int64_t quantity, bool halved) {
    if constexpr (CHUNKED<T>)
        if (halved) {
            split<T>(a, b, ROUNDED, of<Half>(to));
            return to + quantity;
        }
    store(to, a);
    store(to + quantity, b);
    return to + 2 * quantity;
}

/* A step of the rows of a tile in one block of units. It is passed by reference: a
 * copy reads several fields at once that were written one by one, and waits until they are in the cache. */
template <class T>
struct BlockStep {
    const T *packed;       /* the block's weights */
    int64_t block;         /* its number */
    int64_t units, inputs; /* to sum on registers; 0 if matrix tiles have summed them */
    const T *x;
    int64_t x_stride; /* from row to row, like all strides */
    const int64_t *code;
    const T *h; /* the state before the step */
    T *next;    /* the state after it */
    T *c;       /* LSTM's other leaf, before and after */
    int64_t stride;
    const uint8_t *mask;
    int64_t flag_stride; /* of code and mask */
    T *saved;            /* for the backward pass, or null */
    int64_t quantity;    /* from one saved vector of a unit to the next, and between slots of `sums` */
    bool halved;         /* whether gates are saved in pairs */
    const T *sums;       /* by matrix tiles; if `begun`, the bias and the products of h */
    bool begun;
};

/* The step of R rows from `row` on. */
template <class T, int CELL, int R>
struct Step {
    static void run(int64_t row, const BlockStep<T> &at) {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
        const int64_t stride = at.stride, flag_stride = at.flag_stride, quantity = at.quantity;
        const int64_t place = row * stride + at.block * L; /* of the block's units in a state */
        const T *packed = at.packed, *h = at.h + row * stride, *x = at.x + row * at.x_stride;
        const T *sums = offset(at.sums, row * L), *h_block = at.h + place;
        const int64_t *code = offset(at.code, row * flag_stride);
        const uint8_t *mask = offset(at.mask, row * flag_stride);
        T *c = offset(at.c, place), *next = at.next + place, *saved = offset(at.saved, row * L);
        V<T> sum[R][S];
        EACH(s, S) {
            const V<T> bias = load(packed + s * L);
            EACH(r, R) sum[r][s] = bias;
        }
        packed += S * L;
        if (at.begun) {
            EACH(s, S)
                EACH(r, R) sum[r][s] = load(sums + s * quantity + r * L);
        } else {
            if (CHUNKED<T> && sums)
                EACH(s, S)
                    EACH(r, R) sum[r][s] += load(sums + s * quantity + r * L);
            add<T>(sum, Cell<CELL>::u, h, stride, at.units, packed);
        }
        packed += at.units * G * L;
        add<T>(sum, Cell<CELL>::w, x, at.x_stride, at.inputs, packed);
        packed += at.inputs * G * L;
        if (code)
            EACH(r, R)
                EACH(g, G) sum[r][Cell<CELL>::w[g]] += load(packed + (code[r * flag_stride] * G + g) * L);
        /* Each operation of a function needs the one before, so the functions of all rows are interleaved. */
        if constexpr (CELL == STATECAST_LSTM) {
            EACH(r, R) {
                sum[r][0] = sigmoid(sum[r][0]);
                sum[r][1] = sigmoid(sum[r][1]);
                sum[r][2] = tanh_of(sum[r][2]);
                sum[r][3] = sigmoid(sum[r][3]);
            }
        } else if constexpr (CELL == STATECAST_GRU) {
            EACH(r, R) {
                sum[r][0] = sigmoid(sum[r][0]);
                sum[r][1] = sigmoid(sum[r][1]);
            }
        }
        T *kept[R];
        EACH(r, R) kept[r] = offset(saved, r * L);
        if constexpr (CELL == STATECAST_LSTM)
            EACH(r, R) {
                T *cell = c + r * stride;
                const V<T> last = load(cell), i = sum[r][0], f = sum[r][1], g = sum[r][2], o = sum[r][3];
                V<T> now = fma(f, last, i * g);
                if (mask && !mask[r * flag_stride]) now = last;
                store(cell, now);
                if (kept[r]) {
                    kept[r] = keep_two(kept[r], i, f, quantity, at.halved);
                    kept[r] = keep_two(kept[r], g, o, quantity, at.halved);
                    store(kept[r], now);
                    kept[r] += quantity;
                }
                sum[r][0] = now;
            }
        EACH(r, R) {
            const V<T> before = load(h_block + r * stride);
            V<T> after;
            if constexpr (CELL == STATECAST_LSTM) {
                after = sum[r][3] * tanh_of(sum[r][0]);
            } else if constexpr (CELL == STATECAST_GRU) {
                const V<T> update = sum[r][0], reset = sum[r][1], part = sum[r][3],
                           candidate = tanh_of(fma(reset, part, sum[r][2]));
                after = fma(update, before - candidate, candidate);
                if (kept[r]) {
                    kept[r] = keep_two(kept[r], update, reset, quantity, at.halved);
                    kept[r] = keep_two(kept[r], candidate, part, quantity, at.halved);
                }
            } else {
                after = tanh_of(sum[r][0]);
            }
            const bool counts = !mask || mask[r * flag_stride];
            if (!counts) after = before;
            store(next + r * stride, after);
            if (kept[r] && mask) store(kept[r], after);
        }
    }
};

template <class T, int CELL>
struct Forward {
    const statecast_forward_args &a;
    Sizes<T, CELL> z;
    const T *packed;
    /* If several rows have one source: the sources in use, the index of each source among them, and the
     * sums of the first step without x, [member][used][block][slot][lane]. */
    int64_t used_count = 0;
    int64_t *used = nullptr, *place = nullptr;
    T *shared = nullptr;
    int64_t parts = 1; /* into which a tile's blocks are divided among threads, in a single step */

    template <int R>
    struct Rows {
        static void run(int64_t row, const BlockStep<T> &at) { Step<T, CELL, R>::run(row, at); }
    };
    /* The bias and the products of h, for R rows of one block: sums [slot][lane] in their shared rows. */
    template <int R>
    struct Begun {
        static void run(int64_t row, const Sizes<T, CELL> &z, const T *packed, const T *h, T *sums) {
            constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
            V<T> sum[R][S];
            EACH(r, R)
                EACH(s, S) sum[r][s] = load(packed + s * L);
            add<T>(sum, Cell<CELL>::u, h + row * z.padded, z.padded, z.units, packed + S * L);
            EACH(r, R)
                EACH(s, S) store(sums + (row + r) * shared_row(z) + s * L, sum[r][s]);
        }
    };

    static void task(void *self, int64_t item) { static_cast<Forward *>(self)->tile(item); }

    static constexpr int64_t PARTED = 1 << 17; /* packed numbers of a step that is divided: 15 microseconds */
    static constexpr int64_t SMALL = 1 << 21;  /* rows times packed numbers of a small job: 60 microseconds */
    static constexpr int64_t CACHED = 1 << 18; /* saved numbers that fit into a cache */
    static constexpr int TOGETHER =
        Cell<CELL>::SLOTS == 1 ? 4 : 2; /* blocks whose products are computed at once */
    static int64_t left_size(const Sizes<T, CELL> &z) { return z.memory_of(z.height / EDGE * z.chunks); }
    int64_t sums_size() const { return z.tiled || a.source ? TOGETHER * z.S * z.height * z.L : 0; }
    static int64_t shared_row(const Sizes<T, CELL> &z) { return z.blocks * z.S * z.L; }
    size_t memory() const { return (size_t)(rest_size() + z.height * z.inputs + z.padded) * sizeof(T); }

    int64_t used_tiles() const { return (used_count + z.height - 1) / z.height; }

    /* The first block of a part. */
    int64_t part_begin(int64_t part) const {
        const int64_t groups = (z.blocks + TOGETHER - 1) / TOGETHER, block = part * groups / parts * TOGETHER;
        return block < z.blocks ? block : z.blocks;
    }

    /* The rows of a tile between steps: their state, and memory for products. */
    struct Rest {
        T *left, *sums, *h, *next, *c;
    };
    int64_t rest_size() const { return left_size(z) + sums_size() + 3 * z.height * z.padded; }
    Rest rest_in(T *memory) const {
        const int64_t area = z.height * z.padded;
        T *sums = memory + left_size(z), *h = sums + sums_size();
        return {memory, sums, h, h + area, h + 2 * area};
    }

    /* A step of a tile's rows, in the blocks from `at.block` to `end`. `at` has x, code, mask and saved, and
     * `source` if the rows share sums of the first step. */
    void advance(BlockStep<T> at, Rest &rest, int64_t member, int64_t rows, int64_t end,
                 const int64_t *source) const {
        at.packed = packed + member * z.packed + at.block * z.block;
        at.units = z.tiled ? 0 : z.units;
        at.inputs = z.x_chunks ? 0 : z.inputs;
        at.h = rest.h;
        at.next = rest.next;
        at.c = CELL == STATECAST_LSTM ? rest.c : nullptr;
        at.stride = z.padded;
        at.quantity = z.height * z.L;
        at.halved = z.halved();
        at.sums = nullptr;
        at.begun = source && !z.tiled;
        if constexpr (CHUNKED<T>)
            for (int64_t r = 0; z.tiled && r < rows; ++r) {
                Half *row = left_row(rest.left, z, r);
                if (!source) split_row(rest.h + r * z.padded, z.units, z.parts, row);
                if (z.x_chunks)
                    split_row(at.x + r * at.x_stride, z.inputs, z.parts, row + z.h_chunks * z.chunk());
            }
        /* What another block saves is prefetched, unless all that is saved fits into a cache. */
        const int64_t block_saved = z.kept * z.height * z.L;
        const bool far = at.saved && z.members * z.tiles * z.tile > CACHED;
        for (; at.block < end; ++at.block) {
            const int64_t within = at.block % TOGETHER;
            for (int64_t i = 0; far && i < block_saved; i += LINE / (int)sizeof(T))
                prefetch_to_write(at.saved + TOGETHER * block_saved + i);
            if (source && within == 0) take_shared(member, at.block, rows, source, rest.sums);
            if (z.tiled || source) at.sums = rest.sums + within * z.S * z.height * z.L;
            if (z.tiled) {
                if constexpr (CHUNKED<T>) {
                    if (within == 0 && !source)
                        products<false>(member, at.block, rows, rest.left, 0, z.chunks, rest.sums);
                    else if (within == 0 && z.x_chunks)
                        products<true>(member, at.block, rows, rest.left, z.h_chunks, z.chunks, rest.sums);
                    by_rows<Rows, 4>(rows, at);
                }
            } else {
                by_rows<Rows>(rows, at);
            }
            at.packed += z.block;
            if (at.saved) at.saved += block_saved;
        }
        T *swap = rest.h;
        rest.h = rest.next;
        rest.next = swap;
    }

    /* The outputs of step t, from column `column` on. A skipped step has those of the step before. Memory for the next
     * step's is prefetched. */
    void put_outputs(const Rest &rest, int64_t rows, int64_t t, const uint8_t *mask, T *y, int64_t column,
                     size_t bytes) const {
        for (int64_t r = 0; y && r < rows; ++r) {
            T *out = y + (r * z.steps + t) * z.units + column;
            if (t + 1 < z.steps)
                for (size_t i = 0; i < bytes; i += LINE) prefetch_to_write(out + z.units + i / sizeof(T));
            if (!mask || mask[r * z.steps + t])
                memcpy(out, rest.h + r * z.padded + column, bytes);
            else if (t)
                memcpy(out, out - z.units, bytes);
            else
                memset(out, 0, bytes);
        }
    }

    void tile(int64_t item) {
        const int64_t begin = part_begin(item % parts), end = part_begin(item % parts + 1);
        item /= parts;
        const int64_t member = item / z.tiles, tile = item % z.tiles, rows = z.count(tile);
        const int64_t first = member * z.rows + tile * z.height; /* row among those of all members */
        const int64_t U = z.units;
        const int64_t column = begin * z.L; /* the first that this part writes */
        const size_t bytes = (size_t)(least(U, end * z.L) - column) * sizeof(T);
        T *own = static_cast<T *>(scratch(TASK, memory()));
        memset(own, 0, memory());
        Rest rest = rest_in(own);
        T *feed = own + rest_size(), *x_now = feed + z.padded;
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        const int64_t *source = offset(a.source, tile * z.height);
        const int64_t start = source ? member * a.sources : first;
        const T *h0 = of<T>(a.h0) + start * U, *c0 = offset(of<T>(a.c0), start * U);
        const T *hr = offset(of<T>(a.hr), first * U), *cr = offset(of<T>(a.cr), first * U);
        const uint8_t *mask = offset(a.mask, first * z.steps);
        const uint8_t *resets = offset(a.resets, first * z.steps);
        T *y = offset(of<T>(a.y), first * z.steps * U), *saved = of<T>(a.saved);
        if (saved) saved += item * z.tile;
        for (int64_t r = 0; r < rows; ++r) put(r, rest, source ? source[r] : r, h0, c0);
        if (a.observed) memcpy(feed, of<T>(a.feed) + member * U, (size_t)U * sizeof(T));

        for (int64_t t = 0; t < z.steps; ++t) {
            for (int64_t r = 0; resets && r < rows; ++r)
                if (resets[r * z.steps + t]) put(r, rest, r, hr, cr);
            BlockStep<T> at;
            at.block = begin;
            at.x = of<T>(a.x) + (first * z.steps + t) * z.inputs;
            at.x_stride = z.steps * z.inputs;
            at.code = z.codes ? a.code + first * z.steps + t : nullptr;
            at.mask = offset(mask, t);
            at.flag_stride = z.steps;
            at.saved = offset(saved, t * z.step + begin * z.kept * z.height * z.L);
            if (a.observed) {
                close_loop(member, first, rows, t, rest.h, feed, at.x, x_now);
                at.x = x_now;
                at.x_stride = z.inputs;
            }
            advance(at, rest, member, rows, end, shared && t == 0 ? source : nullptr);
            put_outputs(rest, rows, t, mask, y, column, bytes);
        }
        put_state(rest, rows, of<T>(a.hn) + first * U, offset(of<T>(a.cn), first * U), column, bytes);
    }

    void put_state(const Rest &rest, int64_t rows, T *hn, T *cn, int64_t column, size_t bytes) const {
        for (int64_t r = 0; r < rows; ++r) {
            memcpy(hn + r * z.units + column, rest.h + r * z.padded + column, bytes);
            if (CELL == STATECAST_LSTM)
                memcpy(cn + r * z.units + column, rest.c + r * z.padded + column, bytes);
        }
    }

    static Half *left_row(T *left, const Sizes<T, CELL> &z, int64_t r) {
        return of<Half>(left) + r / EDGE * z.chunks * z.chunk() + r % EDGE * DEEP;
    }

    /* The products over the chunks from `begin` to `end` (h's, then x's) for TOGETHER blocks from `first`
     * on: sums [block][slot][row][lane]. Slots with the same chunks are computed together. */
    template <bool ADD>
    void products(int64_t member, int64_t first, int64_t rows, const T *left, int64_t begin, int64_t end,
                  T *sums) const {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
        const Half *packs = of<Half>(packed + member * z.packed + z.blocks * z.block);
        const auto from = [&](int s) { return CELL == STATECAST_GRU && s == 2 ? z.h_chunks : begin; };
        const auto to = [&](int s) {
            return CELL == STATECAST_GRU && s == 3 && end > z.h_chunks ? z.h_chunks : end;
        };
        for (int s = 0, after; s < S; s = after) {
            const Half *right[TOGETHER * S];
            T *sum[TOGETHER * S];
            int across = 0;
            for (after = s + 1; after < S && from(after) == from(s) && to(after) == to(s);) ++after;
            for (int64_t b = 0; b < TOGETHER && first + b < z.blocks; ++b)
                for (int slot = s; slot < after; ++slot, ++across) {
                    right[across] = packs + (((first + b) * S + slot) * z.chunks + from(s)) * z.chunk();
                    sum[across] = sums + (b * S + slot) * z.height * L;
                }
            multiply<ADD>(z.parts, of<Half>(left) + from(s) * z.chunk(), z.chunks * z.chunk(), rows, right,
                          across, to(s) - from(s), sum, L);
        }
    }

    /* The sums that rows of one source share, for a tile of the sources in use. */
    void share(int64_t item) {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
        const int64_t begin = part_begin(item % parts), end = part_begin(item % parts + 1);
        item /= parts;
        const int64_t tiles = used_tiles(), member = item / tiles;
        const int64_t first = item % tiles * z.height, rows = least(z.height, used_count - first);
        T *left = static_cast<T *>(scratch(TASK, memory())), *sums = left + left_size(z);
        T *h = sums + sums_size(),
          *out = shared + (member * used_count + first) * shared_row(z) + begin * S * L;
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> matrix{};
        memset(left, 0, memory());
        const T *own = packed + member * z.packed + begin * z.block;
        for (int64_t r = 0; r < rows; ++r) {
            memcpy(h + r * z.padded, of<T>(a.h0) + (member * a.sources + used[first + r]) * z.units,
                   (size_t)z.units * sizeof(T));
            if constexpr (CHUNKED<T>)
                if (z.tiled) split_row(h + r * z.padded, z.units, z.parts, left_row(left, z, r));
        }
        for (int64_t b = begin; b < end; ++b, own += z.block, out += S * L) {
            if (!z.tiled) {
                by_rows<Begun>(rows, z, own, (const T *)h, out);
                continue;
            }
            if constexpr (CHUNKED<T>) {
                const int64_t within = b % TOGETHER;
                if (within == 0) products<false>(member, b, rows, left, 0, z.h_chunks, sums);
                for (int64_t r = 0; r < rows; ++r)
                    for (int s = 0; s < S; ++s)
                        store(out + r * shared_row(z) + s * L,
                              load(sums + ((within * S + s) * z.height + r) * L));
            }
        }
    }
    static void share_task(void *self, int64_t item) { static_cast<Forward *>(self)->share(item); }

    /* Copies them to a tile's rows, for TOGETHER blocks: sums [block][slot][row][lane]. */
    void take_shared(int64_t member, int64_t first, int64_t rows, const int64_t *source, T *sums) const {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
        for (int64_t r = 0; r < rows; ++r) {
            const T *from = shared + (member * used_count + place[source[r]]) * shared_row(z) + first * S * L;
            for (int64_t i = 0; i < TOGETHER * S && i < (z.blocks - first) * S; ++i)
                store(sums + (i * z.height + r) * L, load(from + i * L));
        }
    }

    /* The inputs of step t, with the feedback in place of first numbers that were not observed. */
    void close_loop(int64_t member, int64_t first, int64_t rows, int64_t t, const T *h, const T *feed,
                    const T *x, T *x_now) const {
        const T decay = of<T>(a.decay)[member];
        for (int64_t r = 0; r < rows; ++r, x_now += z.inputs) {
            const int64_t row = first + r, now = row * z.steps + t;
            T *fed = of<T>(a.fed) + now;
            const T last = t ? fed[-1] : of<T>(a.last)[row];
            memcpy(x_now, x + r * z.steps * z.inputs, (size_t)z.inputs * sizeof(T));
            if (a.mask && !a.mask[now])
                *fed = last;
            else if (a.observed[now])
                *fed = x_now[0];
            else
                *fed = dot(feed, h + r * z.padded, z.padded) + of<T>(a.base)[row] + decay * last;
            x_now[0] = *fed;
        }
    }

    /* Sets row r to the row `from` of a state. */
    void put(int64_t r, const Rest &rest, int64_t from, const T *h, const T *c) const {
        const size_t bytes = (size_t)z.units * sizeof(T);
        memcpy(rest.h + r * z.padded, h + from * z.units, bytes);
        if (CELL == STATECAST_LSTM) memcpy(rest.c + r * z.padded, c + from * z.units, bytes);
    }

    static void pack_task(void *self, int64_t item) {
        const Forward &f = *static_cast<Forward *>(self);
        const Sizes<T, CELL> &z = f.z;
        const int64_t member = item / z.blocks, columns = z.G * z.units;
        const int64_t biases = CELL == STATECAST_GRU ? 2 : 1;
        pack(z, item % z.blocks, Weights<T>{f.a.w, z.halved()}.from(member * (z.inputs + z.codes) * columns),
             Weights<T>{f.a.u, z.halved()}.from(member * z.units * columns),
             offset(of<T>(f.a.bias), member * biases * columns), const_cast<T *>(f.packed) + member * z.packed);
    }
};

/* A step of a tile's rows in all layers, each of which takes in the output of the one below. `at` has the first
 * one's x and saved; that of the others follows. */
template <class T, int CELL>
void advance_all(const Forward<T, CELL> *layers, int64_t count, BlockStep<T> at,
                 typename Forward<T, CELL>::Rest *rest, int64_t member, int64_t rows) {
    for (int64_t l = 0; l < count; ++l) {
        const Sizes<T, CELL> &z = layers[l].z;
        layers[l].advance(at, rest[l], member, rows, z.blocks, nullptr);
        at.x = rest[l].h;
        at.x_stride = z.padded;
        at.saved = offset(at.saved, z.tile);
    }
}

template <class T, int CELL>
int forward(const statecast_forward_args &a) {
    Forward<T, CELL> f = {a, Sizes<T, CELL>(a), nullptr};
    const Sizes<T, CELL> &z = f.z;
    const int64_t packed = a.packed ? 0 : z.members * z.packed, sources = a.source ? a.sources : 0;
    const int64_t most = z.steps == 0 ? 0 : z.rows < sources ? z.rows : sources;
    const size_t numbers = (size_t)(packed + z.members * most * f.shared_row(z)) * sizeof(T);
    T *memory = static_cast<T *>(scratch(CALL, numbers + (size_t)(2 * sources) * sizeof(int64_t)));
    if (!memory || !scratch(TASK, f.memory())) return STATECAST_NO_MEMORY;
    f.packed = a.packed ? aligned<T>(a.packed) : memory;
    if (!a.packed) parallel(z.members * z.blocks, f.pack_task, &f, {a.threads, a.openmp});
    const int64_t tasks = z.members * z.tiles;
    if (z.steps == 1 && !a.observed && tasks > 0 && z.packed >= f.PARTED) {
        const int64_t threads = statecast_threads(a.threads);
        if (tasks < threads)
            f.parts = least((threads + tasks - 1) / tasks, (z.blocks + f.TOGETHER - 1) / f.TOGETHER);
    }
    const bool small = f.parts > 1 && z.rows * z.packed < f.SMALL;
    if (most) {
        f.used = reinterpret_cast<int64_t *>(reinterpret_cast<char *>(memory) + numbers);
        f.place = f.used + sources;
        for (int64_t i = 0; i < sources; ++i) f.place[i] = -1;
        for (int64_t r = 0; r < z.rows; ++r)
            if (int64_t &place = f.place[a.source[r]]; place < 0) f.used[place = f.used_count++] = a.source[r];
        if (f.used_count < z.rows) {
            f.shared = memory + packed;
            parallel(z.members * f.used_tiles() * f.parts, f.share_task, &f, {a.threads, a.openmp}, small);
        }
    }
    if (a.saved) {
        large_pages(a.saved, (size_t)(z.members * z.tiles * z.tile) * sizeof(T));
        large_pages(a.y, (size_t)(z.members * z.rows * z.steps * z.units) * sizeof(T));
    }
    parallel(tasks * f.parts, f.task, &f, {a.threads, a.openmp}, small);
    return STATECAST_OK;
}

template <class T, int CELL>
int pack_only(const statecast_forward_args &a, void *packed) {
    Forward<T, CELL> f = {a, Sizes<T, CELL>(a), aligned<T>(packed)};
    parallel(f.z.members * f.z.blocks, f.pack_task, &f, {a.threads, a.openmp});
    return STATECAST_OK;
}

} // namespace
} // namespace statecast
#endif
