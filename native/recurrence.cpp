/* The recurrence, forward and backward: one source, compiled once for each instruction set.
 *
 * Rows are independent, so a tile of rows runs the whole sequence by itself, and its state
 * stays in the cache. Within a step the units come in blocks of one vector. A block's weights
 * are packed [k][gate][lane]: one pass over k = units, then inputs, feeds a register tile of
 * TILE_ROWS rows x all gates of the block, and the gates' functions follow on registers.
 *
 * Backward walks a tile's steps from the last to the first. What reaches the gates before
 * their functions (the pre-activations) is kept for GROUP steps, and then gives the weights'
 * gradients as one product over those rows and steps.
 */
#include "services.h"
#include "simd.h"
#include "tiles.h"

#include <type_traits>

namespace statecast {
namespace {

constexpr int TILE = 18; /* rows that go through a sequence together */
constexpr int GROUP = 4; /* steps whose weight gradients are taken at once */

/* A cell's slots: the sums that a unit's pre-activations are made of. x and h may feed
 * different ones: GRU's candidate needs its two parts apart. `w` and `u` say which; the
 * columns of the weights come in that order. KEPT quantities a unit and step are saved. */
template <int CELL>
struct Cell;
template <>
struct Cell<STATECAST_LSTM> { /* i f g o; kept: i f g o c */
    static constexpr int SLOTS = 4, GATES = 4, KEPT = 5;
    static constexpr int w[] = {0, 1, 2, 3}, u[] = {0, 1, 2, 3};
};
template <>
struct Cell<STATECAST_GRU> { /* z r, the candidate's input and state part; kept: z r g part */
    static constexpr int SLOTS = 4, GATES = 3, KEPT = 4;
    static constexpr int w[] = {0, 1, 2}, u[] = {0, 1, 3};
};
template <>
struct Cell<STATECAST_RNN> { /* its derivative follows from its output */
    static constexpr int SLOTS = 1, GATES = 1, KEPT = 0;
    static constexpr int w[] = {0}, u[] = {0};
};

/* The sizes of a call, and of what is laid out for it. */
template <class T, int CELL>
struct Sizes {
    static constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    int64_t members, rows, steps, inputs, units, codes;
    int64_t blocks, padded;   /* of units: vectors, and lanes in them */
    int64_t height, tiles;    /* rows of a tile, and tiles of a member */
    int64_t share, shares;    /* tiles of one partial sum, and partial sums of a member */
    int64_t kept, step, tile; /* of `saved`: quantities, numbers a step, numbers a tile */
    bool tiled;               /* whether products go by matrix tiles; x's where it is wide */
    int64_t x_chunks, h_chunks, chunks; /* of the sums over x, over h and over both, on tiles; else 0 */
    int64_t block, packed;    /* numbers in a block's packed weights for registers, in a member's */
    int64_t u_rows, w_rows;   /* of the weights' gradients: units, inputs, and one for the bias */
    int64_t reduction;

    Sizes(const statecast_forward_args &a)
        : members(a.members), rows(a.rows), steps(a.steps), inputs(a.inputs), units(a.units),
          codes(a.codes) {
        blocks = (units + L - 1) / L;
        padded = blocks * L;
        tiled = TILED<T> && units >= WIDE;
        /* Few rows still make an even number of tiles, so that two threads have equal work.
         * This depends on the rows alone, for the sums' order does on this. */
        const int64_t most = tiled ? 2 * EDGE : TILE, grain = tiled ? EDGE : TILE_ROWS;
        const int64_t pairs = (rows + 2 * most - 1) / (2 * most);
        height = most;
        if (pairs < 8) {
            const int64_t even = (rows + 2 * pairs - 1) / (pairs ? 2 * pairs : 1);
            height = (even + grain - 1) / grain * grain;
        }
        height = height > 0 ? height : grain;
        tiles = (rows + height - 1) / height;
        share = (tiles + MOST_SUMS - 1) / MOST_SUMS;
        share = share > 0 ? share : 1;
        shares = (tiles + share - 1) / share;
        kept = Cell<CELL>::KEPT + (a.mask ? 1 : 0); /* a mask parts the state from the output */
        step = blocks * kept * height * L;
        tile = steps * step;
        x_chunks = tiled && inputs >= EDGE ? (inputs + DEEP - 1) / DEEP : 0;
        h_chunks = tiled ? (units + DEEP - 1) / DEEP : 0;
        chunks = h_chunks + x_chunks;
        block = L * ((int64_t)S + G * ((tiled ? 0 : units) + (x_chunks ? 0 : inputs) + codes));
        packed = blocks * (block + S * chunks_in<T>(chunks));
        u_rows = tiled ? padded : units;
        w_rows = x_chunks ? (inputs + L - 1) / L * L : inputs;
        reduction = u_rows + w_rows + 1;
    }
    int64_t gate_chunks() const { return (blocks * G + 1) / 2; } /* of the sum over all gates */
    int64_t count(int64_t t) const { /* rows of a tile */
        const int64_t left = rows - t * height;
        return left < height ? left : height;
    }
};

/* The product of vectors of n numbers, whole vectors of lanes; always added in one order. */
template <class T>
T dot(const T *a, const T *b, int64_t n) {
    V<T> sum = {};
    for (int64_t i = 0; i < n; i += LANES<T>) sum = fma(load(a + i), load(b + i), sum);
    T total = 0;
    for (int l = 0; l < LANES<T>; ++l) total += sum[l];
    return total;
}

/* -- packing ------------------------------------------------------------------------------- */

/* One block of a member's weights: its bias [slot][lane], then u [k][gate][lane], then w, whose last rows
 * are those of codes. What goes by tiles stands behind all blocks, as right chunks [block][slot][chunk]. */
template <class T, int CELL>
void pack(const Sizes<T, CELL> &z, int64_t b, const T *w, const T *u, const T *bias, T *packed) {
    constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    const int64_t U = z.units, columns = G * U;
    const int n = least(L, U - b * L);
    T *out = packed + b * z.block;
    memset(out, 0, (size_t)(S * L) * sizeof(T));
    if (bias) {
        const T *state_bias = CELL == STATECAST_GRU ? bias + columns : nullptr;
        for (int g = 0; g < G; ++g)
            for (int l = 0; l < n; ++l) {
                out[Cell<CELL>::w[g] * L + l] += bias[g * U + b * L + l];
                if (state_bias) out[Cell<CELL>::u[g] * L + l] += state_bias[g * U + b * L + l];
            }
    }
    out += S * L;
    Half *tiles = of<Half>(packed + z.blocks * z.block) + b * S * z.chunks * CHUNK;
    for (int part = 0; part < 2; ++part) {
        const T *from = (part ? w : u) + b * L;
        const int64_t rows = part ? z.inputs + z.codes : U;
        const int64_t tiled = part ? (z.x_chunks ? z.inputs : 0) : (z.tiled ? U : 0); /* of those rows */
        if constexpr (TILED<T>)
            for (int g = 0; g < G; ++g) {
                const int slot = part ? Cell<CELL>::w[g] : Cell<CELL>::u[g];
                Half *to = tiles + (slot * z.chunks + (part ? z.h_chunks : 0)) * CHUNK;
                for (int64_t k = 0; k < tiled; k += DEEP, to += CHUNK)
                    split_rows(from + k * columns + g * U, columns, tiled - k, n, to);
            }
        for (int64_t k = tiled; k < rows; ++k)
            for (int g = 0; g < G; ++g, out += L) store(out, load(from + k * columns + g * U, n));
    }
}

/* The transpose of a matrix (outputs, G*U), for `outputs` = lanes of the result: for each group
 * of up to four vectors of outputs, [block][gate][lane of the unit][vector][lane]. */
template <class T, int CELL>
void pack_transposed(const Sizes<T, CELL> &z, const T *matrix, int64_t outputs, T *out) {
    constexpr int L = LANES<T>, G = Cell<CELL>::GATES;
    const int64_t U = z.units, columns = G * U, vectors = (outputs + L - 1) / L;
    for (int64_t v = 0; v < vectors; v += 4) {
        const int wide = least(4, vectors - v) * L;
        for (int64_t b = 0; b < z.blocks; ++b)
            for (int g = 0; g < G; ++g)
                for (int l = 0; l < least(L, U - b * L); ++l, out += wide) {
                    const T *column = matrix + g * U + b * L + l;
                    for (int i = 0; i < wide; ++i)
                        out[i] = v * L + i < outputs ? column[(v * L + i) * columns] : T(0);
                }
    }
}
/* The same as right chunks, [vector of outputs][chunk], over [block][gate][lane of the unit]. */
template <class T, int CELL>
void tile_transposed(const Sizes<T, CELL> &z, const T *matrix, int64_t outputs, Half *out) {
    constexpr int L = LANES<T>, G = Cell<CELL>::GATES;
    const int64_t U = z.units, columns = G * U, vectors = z.blocks * G;
    for (int64_t v = 0; v < outputs; v += L)
        for (int64_t first = 0; first < vectors; first += 2, out += CHUNK) {
            alignas(64) T rows[EDGE * EDGE], both[DEEP * EDGE] = {};
            for (int half = 0; half < 2 && first + half < vectors; ++half) {
                const int64_t b = (first + half) / G, g = (first + half) % G;
                const T *from = matrix + v * columns + g * U + b * L;
                for (int i = 0; i < EDGE; ++i, from += columns)
                    store(rows + i * EDGE, v + i < outputs ? load(from, least(L, U - b * L)) : V<T>{});
                transpose(rows, EDGE, both + half * EDGE * EDGE);
            }
            split_rows(both, EDGE, DEEP, EDGE, out);
        }
}
template <class T, int CELL>
int64_t transposed_size(const Sizes<T, CELL> &z, int64_t outputs) {
    constexpr int L = LANES<T>, G = Cell<CELL>::GATES;
    const int64_t vectors = (outputs + L - 1) / L;
    return z.tiled ? chunks_in<T>(vectors * z.gate_chunks()) : vectors * L * G * z.units;
}

/* -- forward --------------------------------------------------------------------------------- */

/* Adds n numbers of each of R rows, `stride` apart, times the weights [k][gate][lane] to the slots that
 * `slot` names. */
template <class T, int R, int S, int G>
INLINE void add(V<T> (&sum)[R][S], const int (&slot)[G], const T *in, int64_t stride, int64_t n,
                const T *weights) {
    for (int64_t k = 0; k < n; ++k, weights += G * LANES<T>) {
        V<T> factor[R];
        UNROLL for (int r = 0; r < R; ++r) factor[r] = all(in[r * stride + k]);
        UNROLL for (int g = 0; g < G; ++g) {
            const V<T> weight = load(weights + g * LANES<T>);
            UNROLL for (int r = 0; r < R; ++r) sum[r][slot[g]] = fma(factor[r], weight, sum[r][slot[g]]);
        }
    }
}

/* R rows of one block take a step; rows are `stride` apart in h, next and c. `quantity` lies between
 * what is saved, and between `sums`, what the slots hold before: where `begun` the bias and what h
 * gives, else what tiles have given. */
template <class T, int CELL, int R>
struct Step {
    static void run(const T *packed, int64_t inputs, int64_t units, int64_t block, const T *x,
                    int64_t x_stride, const int64_t *code, const T *h, T *next, T *c, int64_t stride,
                    const uint8_t *mask, int64_t flag_stride, T *saved, int64_t quantity,
                    const T *sums, bool begun) {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
        V<T> sum[R][S];
        UNROLL for (int s = 0; s < S; ++s) {
            const V<T> bias = load(packed + s * L);
            UNROLL for (int r = 0; r < R; ++r) sum[r][s] = bias;
        }
        packed += S * L;
        if (begun) {
            UNROLL for (int s = 0; s < S; ++s)
                UNROLL for (int r = 0; r < R; ++r) sum[r][s] = load(sums + s * quantity + r * L);
        } else {
            if (TILED<T> && sums)
                UNROLL for (int s = 0; s < S; ++s)
                    UNROLL for (int r = 0; r < R; ++r) sum[r][s] += load(sums + s * quantity + r * L);
            add<T>(sum, Cell<CELL>::u, h, stride, units, packed);
        }
        packed += units * G * L;
        add<T>(sum, Cell<CELL>::w, x, x_stride, inputs, packed);
        packed += inputs * G * L;
        if (code)
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int g = 0; g < G; ++g)
                    sum[r][Cell<CELL>::w[g]] += load(packed + (code[r * flag_stride] * G + g) * L);
        UNROLL for (int r = 0; r < R; ++r) {
            const V<T> before = load(h + r * stride + block * L);
            T *keep = saved ? saved + r * L : nullptr;
            const bool counts = !mask || mask[r * flag_stride];
            V<T> after;
            if constexpr (CELL == STATECAST_LSTM) {
                T *cell = c + r * stride + block * L;
                const V<T> i = sigmoid(sum[r][0]), f = sigmoid(sum[r][1]), g = tanh_of(sum[r][2]),
                           o = sigmoid(sum[r][3]);
                V<T> now = fma(f, load(cell), i * g);
                after = o * tanh_of(now);
                if (!counts) now = load(cell);
                store(cell, now);
                if (keep) {
                    store(keep, i);
                    store(keep + quantity, f);
                    store(keep + 2 * quantity, g);
                    store(keep + 3 * quantity, o);
                    store(keep + 4 * quantity, now);
                }
            } else if constexpr (CELL == STATECAST_GRU) {
                const V<T> update = sigmoid(sum[r][0]), reset = sigmoid(sum[r][1]), part = sum[r][3],
                           candidate = tanh_of(fma(reset, part, sum[r][2]));
                after = fma(update, before - candidate, candidate);
                if (keep) {
                    store(keep, update);
                    store(keep + quantity, reset);
                    store(keep + 2 * quantity, candidate);
                    store(keep + 3 * quantity, part);
                }
            } else {
                after = tanh_of(sum[r][0]);
            }
            if (!counts) after = before;
            store(next + r * stride + block * L, after);
            if (keep && mask) store(keep + Cell<CELL>::KEPT * quantity, after);
        }
    }
};

template <class T, int CELL>
struct Forward {
    const statecast_forward_args &a;
    Sizes<T, CELL> z;
    const T *packed;
    /* Where some rows have one source: the sources in use, the place of each source among them, and
     * what the first step's sums are before x, [member][used][block][slot][lane]. */
    int64_t used_count = 0;
    int64_t *used = nullptr, *place = nullptr;
    T *shared = nullptr;
    int64_t parts = 1; /* of a tile's blocks, for threads of their own: in a single step they are independent */

    struct At { /* a step of a tile */
        const T *packed, *x;
        int64_t x_stride;
        const int64_t *code;
        const T *h;
        T *next, *c, *saved;
        const uint8_t *mask;
        const T *sums;
        bool begun;
        int64_t block;
    };
    template <int R>
    struct Rows {
        static void run(int64_t row, const Sizes<T, CELL> &z, const At &at) {
            Step<T, CELL, R>::run(at.packed, z.x_chunks ? 0 : z.inputs, z.tiled ? 0 : z.units, at.block,
                                  at.x + row * at.x_stride, at.x_stride, offset(at.code, row * z.steps),
                                  at.h + row * z.padded, at.next + row * z.padded,
                                  offset(at.c, row * z.padded), z.padded,
                                  offset(at.mask, row * z.steps), z.steps,
                                  offset(at.saved, row * LANES<T>), z.height * LANES<T>,
                                  offset(at.sums, row * LANES<T>), at.begun);
        }
    };
    /* What the bias and h give to R rows of one block: sums [slot][lane] in their shared rows. */
    template <int R>
    struct Begun {
        static void run(int64_t row, const Sizes<T, CELL> &z, const T *packed, const T *h, T *sums) {
            constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
            V<T> sum[R][S];
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int s = 0; s < S; ++s) sum[r][s] = load(packed + s * L);
            add<T>(sum, Cell<CELL>::u, h + row * z.padded, z.padded, z.units, packed + S * L);
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int s = 0; s < S; ++s) store(sums + (row + r) * shared_row(z) + s * L, sum[r][s]);
        }
    };

    static void task(void *self, int64_t item) { static_cast<Forward *>(self)->tile(item); }

    static constexpr int64_t PARTED = 1 << 17; /* packed numbers, which take a thread 15 microseconds */
    static constexpr int64_t SMALL = 1 << 21;  /* rows times packed numbers: 60 microseconds */
    static constexpr int TOGETHER = Cell<CELL>::SLOTS == 1 ? 4 : 2; /* blocks whose products go before */
    static int64_t left_size(const Sizes<T, CELL> &z) { return chunks_in<T>(z.height / EDGE * z.chunks); }
    int64_t sums_size() const { return z.tiled || a.source ? TOGETHER * z.S * z.height * z.L : 0; }
    static int64_t shared_row(const Sizes<T, CELL> &z) { return z.blocks * z.S * z.L; }
    size_t memory() const {
        return (size_t)(left_size(z) + sums_size() + z.height * (3 * z.padded + z.inputs) + z.padded) *
               sizeof(T);
    }

    int64_t used_tiles() const { return (used_count + z.height - 1) / z.height; }

    /* The first block of a part. */
    int64_t part_begin(int64_t part) const {
        const int64_t groups = (z.blocks + TOGETHER - 1) / TOGETHER, block = part * groups / parts * TOGETHER;
        return block < z.blocks ? block : z.blocks;
    }

    void tile(int64_t item) {
        const int64_t begin = part_begin(item % parts), end = part_begin(item % parts + 1);
        item /= parts;
        const int64_t member = item / z.tiles, tile = item % z.tiles, rows = z.count(tile);
        const int64_t first = member * z.rows + tile * z.height; /* row of all */
        const int64_t U = z.units, P = z.padded, area = z.height * P;
        const int64_t column = begin * z.L; /* what it writes of each row, from there on */
        const size_t bytes = (size_t)(least(U, end * z.L) - column) * sizeof(T);
        T *left = static_cast<T *>(scratch(TASK, memory())), *sums = left + left_size(z);
        T *h = sums + sums_size(), *next = h + area, *c = next + area;
        T *feed = c + area, *x_now = feed + P;
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        const int64_t *source = offset(a.source, tile * z.height);
        const int64_t start = source ? member * a.sources : first;
        const T *h0 = of<T>(a.h0) + start * U, *c0 = offset(of<T>(a.c0), start * U);
        const T *hr = offset(of<T>(a.hr), first * U), *cr = offset(of<T>(a.cr), first * U);
        const uint8_t *mask = offset(a.mask, first * z.steps);
        const uint8_t *resets = offset(a.resets, first * z.steps);
        T *y = offset(of<T>(a.y), first * z.steps * U), *saved = of<T>(a.saved);
        if (saved) saved += item * z.tile;
        memset(left, 0, memory());
        for (int64_t r = 0; r < rows; ++r) put(r, h, c, source ? source[r] : r, h0, c0);
        if (a.observed) memcpy(feed, of<T>(a.feed) + member * U, (size_t)U * sizeof(T));

        for (int64_t t = 0; t < z.steps; ++t) {
            for (int64_t r = 0; resets && r < rows; ++r)
                if (resets[r * z.steps + t]) put(r, h, c, r, hr, cr);
            const bool shares = shared && t == 0;
            At at = {packed + member * z.packed + begin * z.block,
                     of<T>(a.x) + (first * z.steps + t) * z.inputs, z.steps * z.inputs,
                     z.codes ? a.code + first * z.steps + t : nullptr,
                     h, next, CELL == STATECAST_LSTM ? c : nullptr,
                     offset(saved, t * z.step + begin * z.kept * z.height * z.L), offset(mask, t),
                     nullptr, shares && !z.tiled, begin};
            if (a.observed) {
                close_loop(member, first, rows, t, h, feed, at.x, x_now);
                at.x = x_now;
                at.x_stride = z.inputs;
            }
            if constexpr (TILED<T>)
                for (int64_t r = 0; z.tiled && r < rows; ++r) {
                    Half *row = left_row(left, z, r);
                    if (!shares) split_row(h + r * P, P, row);
                    if (z.x_chunks) split_row(at.x + r * at.x_stride, z.inputs, row + z.h_chunks * CHUNK);
                }
            for (; at.block < end; ++at.block) {
                const int64_t within = at.block % TOGETHER;
                if (shares && within == 0) take_shared(member, at.block, rows, source, sums);
                if (z.tiled || shares) at.sums = sums + within * z.S * z.height * z.L;
                if (z.tiled) {
                    if constexpr (TILED<T>) {
                        const int64_t down = (rows + EDGE - 1) / EDGE;
                        if (within == 0 && !shares)
                            products<false>(member, at.block, down, left, 0, z.chunks, sums);
                        else if (within == 0 && z.x_chunks)
                            products<true>(member, at.block, down, left, z.h_chunks, z.chunks, sums);
                        by_rows<Rows, 4>(rows, z, at);
                    }
                } else {
                    by_rows<Rows>(rows, z, at);
                }
                at.packed += z.block;
                if (saved) at.saved += z.kept * z.height * LANES<T>;
            }
            for (int64_t r = 0; y && r < rows; ++r) {
                T *out = y + (r * z.steps + t) * U + column;
                if (!mask || mask[r * z.steps + t])
                    memcpy(out, next + r * P + column, bytes);
                else if (t)
                    memcpy(out, out - U, bytes);
                else
                    memset(out, 0, bytes);
            }
            T *swap = h;
            h = next;
            next = swap;
        }
        for (int64_t r = 0; r < rows; ++r) {
            memcpy(of<T>(a.hn) + (first + r) * U + column, h + r * P + column, bytes);
            if (CELL == STATECAST_LSTM)
                memcpy(of<T>(a.cn) + (first + r) * U + column, c + r * P + column, bytes);
        }
    }

    static Half *left_row(T *left, const Sizes<T, CELL> &z, int64_t r) {
        return of<Half>(left) + r / EDGE * z.chunks * CHUNK + r % EDGE * DEEP;
    }

    /* What the chunks from `begin` to `end`, h's and then x's, give to a few blocks from `first` on: sums
     * [block][slot][row][lane]. Slots that are summed over the same go together. */
    template <bool ADD>
    void products(int64_t member, int64_t first, int64_t down, const T *left, int64_t begin, int64_t end,
                  T *sums) {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
        const Half *packs = of<Half>(packed + member * z.packed + z.blocks * z.block);
        const auto from = [&](int s) { return CELL == STATECAST_GRU && s == 2 ? z.h_chunks : begin; };
        const auto to = [&](int s) { return CELL == STATECAST_GRU && s == 3 && end > z.h_chunks ? z.h_chunks : end; };
        for (int s = 0, after; s < S; s = after) {
            const Half *right[TOGETHER * S];
            T *sum[TOGETHER * S];
            int across = 0;
            for (after = s + 1; after < S && from(after) == from(s) && to(after) == to(s);) ++after;
            for (int64_t b = 0; b < TOGETHER && first + b < z.blocks; ++b)
                for (int slot = s; slot < after; ++slot, ++across) {
                    right[across] = packs + (((first + b) * S + slot) * z.chunks + from(s)) * CHUNK;
                    sum[across] = sums + (b * S + slot) * z.height * L;
                }
            multiply<ADD>(of<Half>(left) + from(s) * CHUNK, z.chunks * CHUNK, down, right, across,
                          to(s) - from(s), sum, EDGE * L, L);
        }
    }

    /* What rows of one source have in common, for a tile of the sources in use. */
    void share(int64_t item) {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
        const int64_t begin = part_begin(item % parts), end = part_begin(item % parts + 1);
        item /= parts;
        const int64_t tiles = used_tiles(), member = item / tiles;
        const int64_t first = item % tiles * z.height, rows = least(z.height, used_count - first);
        T *left = static_cast<T *>(scratch(TASK, memory())), *sums = left + left_size(z);
        T *h = sums + sums_size(), *out = shared + (member * used_count + first) * shared_row(z) + begin * S * L;
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> matrix{};
        memset(left, 0, memory());
        const T *own = packed + member * z.packed + begin * z.block;
        for (int64_t r = 0; r < rows; ++r) {
            memcpy(h + r * z.padded, of<T>(a.h0) + (member * a.sources + used[first + r]) * z.units,
                   (size_t)z.units * sizeof(T));
            if constexpr (TILED<T>)
                if (z.tiled) split_row(h + r * z.padded, z.padded, left_row(left, z, r));
        }
        for (int64_t b = begin; b < end; ++b, own += z.block, out += S * L) {
            if (!z.tiled) {
                by_rows<Begun>(rows, z, own, (const T *)h, out);
                continue;
            }
            if constexpr (TILED<T>) {
                const int64_t within = b % TOGETHER;
                if (within == 0)
                    products<false>(member, b, (rows + EDGE - 1) / EDGE, left, 0, z.h_chunks, sums);
                for (int64_t r = 0; r < rows; ++r)
                    for (int s = 0; s < S; ++s)
                        store(out + r * shared_row(z) + s * L,
                              load(sums + ((within * S + s) * z.height + r) * L));
            }
        }
    }
    static void share_task(void *self, int64_t item) { static_cast<Forward *>(self)->share(item); }

    /* The same for a few blocks of a tile's rows: sums [block][slot][row][lane]. */
    void take_shared(int64_t member, int64_t first, int64_t rows, const int64_t *source, T *sums) const {
        constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS;
        for (int64_t r = 0; r < rows; ++r) {
            const T *from = shared + (member * used_count + place[source[r]]) * shared_row(z) + first * S * L;
            for (int64_t i = 0; i < TOGETHER * S && i < (z.blocks - first) * S; ++i)
                store(sums + (i * z.height + r) * L, load(from + i * L));
        }
    }

    /* What every row takes in at step t, its first number fed back where it was not observed. */
    void close_loop(int64_t member, int64_t first, int64_t rows, int64_t t, const T *h,
                    const T *feed, const T *x, T *x_now) {
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

    void put(int64_t r, T *h, T *c, int64_t from, const T *h_from, const T *c_from) {
        const size_t bytes = (size_t)z.units * sizeof(T);
        memcpy(h + r * z.padded, h_from + from * z.units, bytes);
        if (CELL == STATECAST_LSTM) memcpy(c + r * z.padded, c_from + from * z.units, bytes);
    }

    static void pack_task(void *self, int64_t item) {
        const Forward &f = *static_cast<Forward *>(self);
        const Sizes<T, CELL> &z = f.z;
        const int64_t member = item / z.blocks, columns = z.G * z.units;
        const int64_t biases = CELL == STATECAST_GRU ? 2 : 1;
        pack(z, item % z.blocks, of<T>(f.a.w) + member * (z.inputs + z.codes) * columns,
             of<T>(f.a.u) + member * z.units * columns,
             offset(of<T>(f.a.bias), member * biases * columns),
             const_cast<T *>(f.packed) + member * z.packed);
    }
};

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
            if (int64_t &place = f.place[a.source[r]]; place < 0)
                f.used[place = f.used_count++] = a.source[r];
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

/* -- backward --------------------------------------------------------------------------------- */

/* R rows of `out` (rows, lanes) plus their gates' gradients times a transposed matrix, C vectors
 * wide. `gates` holds [block][row of the group][slot][lane]. */
template <class T, int CELL, int R, int C, bool TO_X>
INLINE void through(const T *gates, int64_t block_stride, int64_t units, const T *matrix, T *out,
                    int64_t out_stride) {
    constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    V<T> sum[R][C];
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int v = 0; v < C; ++v) sum[r][v] = load(out + r * out_stride + v * L);
    for (int64_t first = 0; first < units; first += L, gates += block_stride) {
        const int lanes = least(L, units - first);
        for (int g = 0; g < G; ++g) {
            const T *gate = gates + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g]) * L;
            for (int l = 0; l < lanes; ++l, matrix += C * L) {
                V<T> in[R];
                UNROLL for (int r = 0; r < R; ++r) in[r] = all(gate[r * S * L + l]);
                UNROLL for (int v = 0; v < C; ++v) {
                    const V<T> weight = load(matrix + v * L);
                    UNROLL for (int r = 0; r < R; ++r) sum[r][v] = fma(in[r], weight, sum[r][v]);
                }
            }
        }
    }
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int v = 0; v < C; ++v) store(out + r * out_stride + v * L, sum[r][v]);
}

/* R rows (inputs or units) of the weights' gradients of one block: `in` (m, ...) transposed times
 * the gates' gradients (m, slot, lane), added to `out` (R, slot, lane). */
template <class T, int CELL, int R, bool TO_X>
INLINE void outer(const T *in, int64_t in_stride, const T *gates, int64_t m, T *out) {
    constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    V<T> sum[R][G];
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int g = 0; g < G; ++g)
            sum[r][g] = load(out + (r * S + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g])) * L);
    for (; m > 0; --m, in += in_stride, gates += S * L) {
        V<T> factor[R];
        UNROLL for (int r = 0; r < R; ++r) factor[r] = all(in[r]);
        UNROLL for (int g = 0; g < G; ++g) {
            const V<T> gate = load(gates + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g]) * L);
            UNROLL for (int r = 0; r < R; ++r) sum[r][g] = fma(factor[r], gate, sum[r][g]);
        }
    }
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int g = 0; g < G; ++g)
            store(out + (r * S + (TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g])) * L, sum[r][g]);
}

template <class T, int CELL>
struct Backward {
    static constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    const statecast_backward_args &b;
    const statecast_forward_args &a;
    Sizes<T, CELL> z;
    int64_t wide;    /* numbers of a row of what went in: h (padded), x, to whole vectors */
    int64_t inputs;  /* x's width, to whole vectors */
    int64_t weight_sums;
    int64_t ut, wt;  /* numbers of the transposed u and w, for a member */
    int64_t sums;    /* numbers of one partial sum; those of feed and decay stand behind */
    T *transposed, *partial, *first_w;

    Backward(const statecast_backward_args &b) : b(b), a(b.forward), z(b.forward) {
        inputs = (z.inputs + L - 1) / L * L;
        wide = z.padded + inputs;
        /* Rows a multiple of the page apart would share the same few lines of the cache. */
        if (wide * (int64_t)sizeof(T) % 1024 == 0) wide += L;
        ut = transposed_size(z, z.units);
        wt = b.dx ? transposed_size(z, z.inputs) : 0;
        weight_sums = z.blocks * z.reduction * S * L;
        sums = weight_sums + (a.observed ? z.padded + L : 0);
    }

    /* On tiles: the chunks of the GROUP's rows. */
    int64_t group_chunks() const { return (GROUP * z.height + DEEP - 1) / DEEP; }
    int64_t left_size() const {
        const int64_t to_state = z.height / EDGE * z.gate_chunks();
        const int64_t to_weights = (z.u_rows + (z.x_chunks ? z.w_rows : 0)) / L * group_chunks();
        return z.tiled ? chunks_in<T>(to_state > to_weights ? to_state : to_weights) : 0;
    }
    int64_t right_size() const { return z.tiled ? chunks_in<T>(S * group_chunks()) : 0; }

    size_t memory() const { /* of a task */
        const int64_t m = GROUP * z.height;
        return (size_t)(left_size() + right_size() + z.height * (3 * z.padded + inputs + 2) + z.padded +
                        m * (z.blocks * S * L + wide)) * sizeof(T);
    }
    size_t shared() const {
        return (size_t)(z.members * (ut + wt + z.blocks * S * L + z.shares * sums)) * sizeof(T);
    }

    static void pack_task(void *self, int64_t member) {
        const Backward &k = *static_cast<Backward *>(self);
        const Sizes<T, CELL> &z = k.z;
        T *out = k.transposed + member * (k.ut + k.wt);
        const int64_t columns = G * z.units;
        const auto transposed = [&](const T *matrix, int64_t outputs, T *to) {
            if constexpr (TILED<T>)
                if (z.tiled) return tile_transposed(z, matrix, outputs, of<Half>(to));
            pack_transposed(z, matrix, outputs, to);
        };
        transposed(of<T>(k.a.u) + member * z.units * columns, z.units, out);
        if (k.wt) transposed(of<T>(k.a.w) + member * z.inputs * columns, z.inputs, out + k.ut);
        /* What the first of x's numbers does to the gates, [block][slot][lane]. */
        out = k.first_w + member * z.blocks * S * L;
        memset(out, 0, (size_t)(z.blocks * S * L) * sizeof(T));
        for (int64_t block = 0; k.a.observed && block < z.blocks; ++block)
            for (int g = 0; g < G; ++g) {
                const T *w = of<T>(k.a.w) + member * z.inputs * columns + g * z.units + block * L;
                store(out + (block * S + Cell<CELL>::w[g]) * L,
                      load(w, least(L, z.units - block * L)));
            }
    }

    /* Where the tile stands, and its buffers. */
    struct Tile {
        int64_t first, rows;
        const T *saved;
        T *left, *right;   /* of products on tiles */
        T *dh, *dc, *held; /* of the state; of the output that a masked step repeats */
        T *dx, *gates, *in;
        T *feed, *dlast, *dvalue; /* of the closed loop: the last number, and x's first */
    };

    static void task(void *self, int64_t item) {
        Backward &k = *static_cast<Backward *>(self);
        const Sizes<T, CELL> &z = k.z;
        const int64_t member = item / z.shares, share = item % z.shares;
        T *sum = k.partial + item * k.sums;
        memset(sum, 0, (size_t)k.sums * sizeof(T));
        for (int64_t t = share * z.share; t < z.tiles && t < (share + 1) * z.share; ++t)
            k.tile(member, t, sum);
    }

    void tile(int64_t member, int64_t tile, T *sum) {
        const int64_t U = z.units, P = z.padded, area = z.height * P, m = GROUP * z.height;
        Tile at;
        at.first = member * z.rows + tile * z.height;
        at.rows = z.count(tile);
        at.saved = of<T>(a.saved) + (member * z.tiles + tile) * z.tile;
        at.left = static_cast<T *>(scratch(TASK, memory()));
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
        memset(at.left, 0, memory());
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        for (int64_t r = 0; r < at.rows; ++r) {
            if (b.dhn) take(at.dh + r * P, of<T>(b.dhn) + (at.first + r) * U);
            if (b.dcn && CELL == STATECAST_LSTM)
                take(at.dc + r * P, of<T>(b.dcn) + (at.first + r) * U);
            if (a.observed) of<T>(b.dbase)[at.first + r] = 0;
            if (a.resets) {
                memset(of<T>(b.dhr) + (at.first + r) * U, 0, (size_t)U * sizeof(T));
                if (CELL == STATECAST_LSTM)
                    memset(of<T>(b.dcr) + (at.first + r) * U, 0, (size_t)U * sizeof(T));
            }
        }
        if (a.observed) memcpy(at.feed, of<T>(a.feed) + member * U, (size_t)U * sizeof(T));
        const T *matrices = transposed + member * (ut + wt);
        for (int64_t t = z.steps - 1, filled = 0; t >= 0; --t) {
            T *gates = at.gates + filled * at.rows * S * L, *in = at.in + filled * at.rows * wide;
            for (int64_t r = 0; r < at.rows; ++r) to_gates(at, t, r, gates, in + r * wide);
            product<false>(at, gates, m, matrices, P / L, at.dh, P, t > 0 ? at.saved + (t - 1) * z.step : nullptr);
            if (a.observed) open_loop(member, at, t, gates, in, sum + weight_sums);
            if (wt) {
                memset(at.dx, 0, (size_t)(at.rows * inputs) * sizeof(T));
                product<true>(at, gates, m, matrices + ut, inputs / L, at.dx, inputs);
                for (int64_t r = 0; r < at.rows; ++r) {
                    const int64_t now = (at.first + r) * z.steps + t;
                    T *dx = of<T>(b.dx) + now * z.inputs;
                    memcpy(dx, at.dx + r * inputs, (size_t)z.inputs * sizeof(T));
                    if (a.observed) dx[0] = at.dvalue[r];
                }
            }
            for (int64_t r = 0; a.resets && r < at.rows; ++r)
                if (a.resets[(at.first + r) * z.steps + t]) {
                    give(of<T>(b.dhr) + (at.first + r) * U, at.dh + r * P);
                    if (CELL == STATECAST_LSTM)
                        give(of<T>(b.dcr) + (at.first + r) * U, at.dc + r * P);
                }
            if (++filled == GROUP || t == 0) {
                weights(filled * at.rows, at, sum);
                filled = 0;
            }
        }
        for (int64_t r = 0; r < at.rows; ++r) {
            memcpy(of<T>(b.dh0) + (at.first + r) * U, at.dh + r * P, (size_t)U * sizeof(T));
            if (CELL == STATECAST_LSTM)
                memcpy(of<T>(b.dc0) + (at.first + r) * U, at.dc + r * P, (size_t)U * sizeof(T));
            if (a.observed) of<T>(b.dlast)[at.first + r] = at.dlast[r];
        }
    }

    /* What reaches the numbers that step t took first; where they were fed back, it goes on to
     * what fed them. `gates` and `in` are the step's. */
    void open_loop(int64_t member, Tile &at, int64_t t, const T *gates, const T *in, T *sum) {
        const int64_t stride = GROUP * z.height * S * L;
        const T decay = of<T>(a.decay)[member], *w = first_w + member * z.blocks * S * L;
        for (int64_t r = 0; r < at.rows; ++r, in += wide) {
            const int64_t row = at.first + r, now = row * z.steps + t;
            T value = at.dlast[r] + (b.dfed ? of<T>(b.dfed)[now] : T(0));
            at.dvalue[r] = 0;
            if (a.mask && !a.mask[now]) { /* it was the last number once more */
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
            T *dh = at.dh + r * z.padded;
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
    void give(T *to, T *from) { /* adds, and leaves zeros: nothing passes a reset */
        for (int64_t i = 0; i < z.units; ++i) to[i] += from[i];
        memset(from, 0, (size_t)z.padded * sizeof(T));
    }

    /* What reaches row r's gates in step t, from dh and dc, which become what the step hands on
     * besides; and what went into the step. */
    void to_gates(Tile &at, int64_t t, int64_t r, T *gates, T *in) {
        const int64_t U = z.units, P = z.padded, row = at.first + r, quantity = z.height * L;
        const int64_t now = row * z.steps + t, stride = GROUP * z.height * S * L;
        const bool reset = a.resets && a.resets[now], counts = !a.mask || a.mask[now];
        const T *saved = at.saved + t * z.step + r * L, *prior = saved - z.step;
        const T *dy = offset(of<T>(b.dy), now * U);
        T *dh = at.dh + r * P, *dc = at.dc + r * P, *held = at.held + r * P;
        gates += r * S * L;
        if (t > 0) { /* what the step before it needs comes while this one's products run */
            for (int64_t i = 0; !z.tiled && i < z.blocks * z.kept; ++i) prefetch(prior + i * quantity);
            for (int64_t i = 0; i < U; i += L) {
                if (dy) prefetch(dy - U + i);
                if (t > 1) prefetch(of<T>(a.y) + (now - 2) * U + i);
            }
        }
        if (!counts) { /* the output was that of an earlier step; x did not count either */
            for (int64_t i = 0; dy && i < U; ++i) held[i] += dy[i];
            for (int64_t k = 0; k < z.blocks; ++k)
                memset(gates + k * stride, 0, (size_t)(S * L) * sizeof(T));
            memset(in, 0, (size_t)wide * sizeof(T));
            return;
        }
        const int64_t block_size = z.kept * quantity;
        const T *h_before = of<T>(reset ? a.hr : a.h0) + row * U;
        const T *c_before = CELL == STATECAST_LSTM ? of<T>(reset ? a.cr : a.c0) + row * U : nullptr;
        const bool earlier = !reset && t > 0;
        if (earlier && a.mask)
            for (int64_t k = 0; k < z.blocks; ++k)
                store(in + k * L, load(prior + k * block_size + Cell<CELL>::KEPT * quantity));
        else
            memcpy(in, earlier ? of<T>(a.y) + (now - 1) * U : h_before, (size_t)U * sizeof(T));
        if (z.inputs)
            memcpy(in + P, of<T>(a.x) + now * z.inputs, (size_t)z.inputs * sizeof(T));
        if (a.observed) in[P] = of<T>(a.fed)[now];

        const V<T> one = all(T(1));
        for (int64_t k = 0; k < z.blocks;
             ++k, saved += block_size, prior += block_size, gates += stride) {
            const int n = least(L, U - k * L);
            V<T> d = load(dh + k * L);
            if (dy) d += load(dy + k * L, n);
            if (a.mask) {
                d += load(held + k * L);
                store(held + k * L, V<T>{});
            }
            if constexpr (CELL == STATECAST_LSTM) {
                const V<T> i = load(saved), f = load(saved + quantity),
                           g = load(saved + 2 * quantity), o = load(saved + 3 * quantity),
                           c = tanh_of(load(saved + 4 * quantity));
                const V<T> before =
                    earlier ? load(prior + 4 * quantity) : load(c_before + k * L, n);
                const V<T> cell = fma(d * o, one - c * c, load(dc + k * L));
                store(gates, cell * g * i * (one - i));
                store(gates + L, cell * before * f * (one - f));
                store(gates + 2 * L, cell * i * (one - g * g));
                store(gates + 3 * L, d * c * o * (one - o));
                store(dc + k * L, cell * f);
                store(dh + k * L, V<T>{});
            } else if constexpr (CELL == STATECAST_GRU) {
                const V<T> update = load(saved), reset_gate = load(saved + quantity),
                           g = load(saved + 2 * quantity), part = load(saved + 3 * quantity);
                const V<T> candidate = d * (one - update) * (one - g * g);
                store(gates, d * (load(in + k * L) - g) * update * (one - update));
                store(gates + L, candidate * part * reset_gate * (one - reset_gate));
                store(gates + 2 * L, candidate);
                store(gates + 3 * L, candidate * reset_gate);
                store(dh + k * L, d * update);
            } else {
                const V<T> h = load(of<T>(a.y) + now * U + k * L, n);
                store(gates, d * (one - h * h));
                store(dh + k * L, V<T>{});
            }
        }
    }

    template <int C, bool TO_X>
    struct Product {
        template <int R>
        struct Rows {
            static void run(int64_t row, const T *gates, int64_t block_stride, int64_t units,
                            const T *matrix, T *out, int64_t out_stride) {
                through<T, CELL, R, C, TO_X>(gates + row * S * L, block_stride, units, matrix,
                                             out + row * out_stride, out_stride);
            }
        };
    };

    /* out (rows, vectors * L) += gates @ matrix, transposed and packed. On tiles what is saved of
     * the step `later` comes to the cache meanwhile. */
    template <bool TO_X>
    void product(const Tile &at, const T *gates, int64_t m, const T *matrix, int64_t vectors, T *out,
                 int64_t out_stride, const T *later = nullptr) {
        const int64_t block_stride = m * S * L, rows = at.rows;
        if constexpr (TILED<T>)
            if (z.tiled) {
                const int64_t chunks = z.gate_chunks(), gate_vectors = z.blocks * G;
                const auto vector = [&](int64_t r, int64_t i) {
                    const int slot = TO_X ? Cell<CELL>::w[i % G] : Cell<CELL>::u[i % G];
                    return i < gate_vectors ? load(gates + i / G * block_stride + (r * S + slot) * L) : V<T>{};
                };
                for (int64_t r = 0; r < rows; ++r) {
                    Half *to = of<Half>(at.left) + r / EDGE * chunks * CHUNK + r % EDGE * DEEP;
                    for (int64_t c = 0; c < chunks; ++c, to += CHUNK)
                        split<T>(vector(r, 2 * c), vector(r, 2 * c + 1), to);
                }
                constexpr int MOST = 8;
                const Half *right[MOST];
                T *sum[MOST];
                const int64_t part = later ? z.step / ((vectors + MOST - 1) / MOST) : 0;
                for (int64_t v = 0; v < vectors;) {
                    int across = 0;
                    const T *now = offset(later, v / MOST * part);
                    for (; across < MOST && v < vectors; ++across, ++v) {
                        right[across] = of<Half>(matrix) + v * chunks * CHUNK;
                        sum[across] = out + v * L;
                    }
                    multiply<true>(of<Half>(at.left), chunks * CHUNK, (rows + EDGE - 1) / EDGE, right, across,
                                   chunks, sum, EDGE * out_stride, out_stride, now, part);
                }
                return;
            }
        for (int64_t v = 0; v < vectors; v += 4) {
            const int c = least(4, vectors - v);
            T *to = out + v * L;
            if (c == 4)
                by_rows<Product<4, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to, out_stride);
            else if (c == 3)
                by_rows<Product<3, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to, out_stride);
            else if (c == 2)
                by_rows<Product<2, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to, out_stride);
            else
                by_rows<Product<1, TO_X>::template Rows>(rows, gates, block_stride, z.units, matrix, to, out_stride);
            matrix += c * L * (int64_t)G * z.units;
        }
    }

    template <bool TO_X>
    struct Outer {
        template <int R>
        struct Rows {
            static void run(int64_t row, const T *in, int64_t in_stride, const T *gates, int64_t m,
                            T *out) {
                outer<T, CELL, R, TO_X>(in + row, in_stride, gates, m, out + row * S * L);
            }
        };
    };

    /* Adds to a partial sum, [block][unit, input, bias][slot][lane], what m rows give. */
    void weights(int64_t m, const Tile &at, T *sum) {
        const T *gates = at.gates;
        const int64_t chunks = (m + DEEP - 1) / DEEP, tiles = (z.u_rows + z.w_rows) / EDGE;
        if constexpr (TILED<T>)
            for (int64_t i = 0; z.tiled && i < (z.x_chunks ? tiles : z.u_rows / EDGE); ++i)
                for (int64_t c = 0; c < chunks; ++c)
                    split_columns(at.in + c * DEEP * wide + i * L, wide, m - c * DEEP,
                                  of<Half>(at.left) + (i * chunks + c) * CHUNK);
        for (int64_t k = 0; k < z.blocks; ++k, gates += GROUP * z.height * S * L) {
            if constexpr (TILED<T>)
                for (int s = 0; z.tiled && s < S; ++s)
                    for (int64_t c = 0; c < chunks; ++c)
                        split_rows(gates + (c * DEEP * S + s) * L, S * L, m - c * DEEP, EDGE,
                                   of<Half>(at.right) + (s * chunks + c) * CHUNK);
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
            UNROLL for (int s = 0; s < S; ++s) bias[s] = load(sum + s * L);
            for (int64_t i = 0; i < m; ++i)
                UNROLL for (int s = 0; s < S; ++s) bias[s] += load(gates + (i * S + s) * L);
            UNROLL for (int s = 0; s < S; ++s) store(sum + s * L, bias[s]);
            sum += S * L;
        }
    }

    /* `down` tiles of rows, from the left tile `first` on, of one block. */
    template <bool TO_X>
    void outer_tiles(const Tile &at, int64_t down, int64_t chunks, int64_t first, T *sum) {
        if constexpr (TILED<T>) {
            const Half *right[G];
            T *sums[G];
            for (int g = 0; g < G; ++g) {
                const int slot = TO_X ? Cell<CELL>::w[g] : Cell<CELL>::u[g];
                right[g] = of<Half>(at.right) + slot * chunks * CHUNK;
                sums[g] = sum + slot * L;
            }
            multiply<true>(of<Half>(at.left) + first * chunks * CHUNK, chunks * CHUNK, down, right, G, chunks,
                           sums, EDGE * S * L, S * L);
        }
    }

    /* One block of a member's weights: the partial sums added in order, and laid out as the
     * weights are. */
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
    Backward<T, CELL> k(b);
    k.transposed = static_cast<T *>(scratch(CALL, k.shared()));
    if (!k.transposed || !scratch(TASK, k.memory())) return STATECAST_NO_MEMORY;
    k.first_w = k.transposed + k.z.members * (k.ut + k.wt);
    k.partial = k.first_w + k.z.members * k.z.blocks * k.S * k.L;
    const Host host = {b.forward.threads, b.forward.openmp};
    parallel(k.z.members, k.pack_task, &k, host);
    parallel(k.z.members * k.z.shares, k.task, &k, host);
    parallel(k.z.members * k.z.blocks, k.reduce_task, &k, host);
    return STATECAST_OK;
}

/* -- by cell ---------------------------------------------------------------------------------- */

/* `call`<T, CELL>(...), by the cell that is asked for. */
#define BY_CELL(cell, call, ...)                                        \
    switch (cell) {                                                     \
        case STATECAST_LSTM: return call<T, STATECAST_LSTM>(__VA_ARGS__); \
        case STATECAST_GRU: return call<T, STATECAST_GRU>(__VA_ARGS__);   \
        default: return call<T, STATECAST_RNN>(__VA_ARGS__);              \
    }

template <class T, int CELL>
int64_t saved_size(const Sizes<T, CELL> &z) {
    return z.members * z.tiles * z.tile * (int64_t)sizeof(T);
}
template <class T, int CELL>
int64_t packed_size(const Sizes<T, CELL> &z) {
    return z.members * z.packed * (int64_t)sizeof(T) + ALIGNMENT;
}
template <class T>
int64_t saved_bytes(const statecast_forward_args *a) {
    BY_CELL(a->cell, saved_size, *a)
}
template <class T>
int64_t packed_bytes(const statecast_forward_args *a) {
    BY_CELL(a->cell, packed_size, *a)
}
template <class T>
int pack_of(const statecast_forward_args *a, void *packed) {
    BY_CELL(a->cell, pack_only, *a, packed)
}
template <class T>
int forward_of(const statecast_forward_args *a) {
    BY_CELL(a->cell, forward, *a)
}
template <class T>
int backward_of(const statecast_backward_args *b) {
    BY_CELL(b->forward.cell, backward, *b)
}

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)

}  // namespace

extern const Quantiles JOIN(quantiles_, STATECAST_INSTRUCTIONS);
extern const Softmax JOIN(softmax_, STATECAST_INSTRUCTIONS);
extern const Kernels JOIN(kernels_, STATECAST_INSTRUCTIONS) = {
    NAME(STATECAST_INSTRUCTIONS),
    {saved_bytes<float>, saved_bytes<double>},
    {packed_bytes<float>, packed_bytes<double>},
    {pack_of<float>, pack_of<double>},
    {forward_of<float>, forward_of<double>},
    {backward_of<float>, backward_of<double>},
    &JOIN(quantiles_, STATECAST_INSTRUCTIONS),
    &JOIN(softmax_, STATECAST_INSTRUCTIONS),
};

}  // namespace statecast
