/* The cells, and the sizes of a call.
 *
 * Rows are independent. A tile of rows runs the whole sequence by itself, so that its state stays in
 * the cache. Within a step the units come in blocks of one vector. */
#ifndef STATECAST_CELLS_H
#define STATECAST_CELLS_H

#include "services.h"
#include "simd.h"
#include "tiles.h"

namespace statecast {
namespace {

constexpr int TILE = 18; /* rows that run a sequence together */
constexpr int GROUP = 4; /* steps whose weight gradients are computed at once */

/* A cell's slots are the sums from which a unit's pre-activations are computed. The products of x are
 * added to the slots in `w`, those of h to the slots in `u`, in the order of the weights' columns. They
 * differ for GRU, whose candidate needs the two parts separately. For the backward pass KEPT numbers of each
 * unit and step are saved, those before the state in pairs of bfloat16 if factors are ROUNDED. */
template <int CELL>
struct Cell;
template <>
struct Cell<STATECAST_LSTM> { /* i f g o; kept: i f g o, then c */
    static constexpr int SLOTS = 4, GATES = 4, KEPT = 4;
    static constexpr int w[] = {0, 1, 2, 3}, u[] = {0, 1, 2, 3};
};
template <>
struct Cell<STATECAST_GRU> { /* z r, the candidate's input and state part; kept: z r g part */
    static constexpr int SLOTS = 4, GATES = 3, KEPT = 4;
    static constexpr int w[] = {0, 1, 2}, u[] = {0, 1, 3};
};
template <>
struct Cell<STATECAST_RNN> { /* its derivative is computed from its output */
    static constexpr int SLOTS = 1, GATES = 1, KEPT = 0;
    static constexpr int w[] = {0}, u[] = {0};
};

/* The sizes of a call and of its buffers. */
template <class T, int CELL>
struct Sizes {
    static constexpr int L = LANES<T>, S = Cell<CELL>::SLOTS, G = Cell<CELL>::GATES;
    int64_t members, rows, steps, inputs, units, codes;
    int64_t blocks, padded;             /* of units: vectors, and their lanes */
    int64_t height, tiles;              /* rows of a tile, and tiles of a member */
    int64_t share, shares;              /* tiles of one partial sum, and partial sums of a member */
    bool has_states;                    /* whether `saved` has the states too, after the other vectors */
    int64_t kept, step, tile;           /* of `saved`: vectors of a block; numbers of a step, of a tile */
    Parts parts;                        /* of factors of products in chunks; those of x if it is wide */
    bool tiled;                         /* whether there are any */
    int64_t x_chunks, h_chunks, chunks; /* of the sums over x, h and both; else 0 */
    int64_t block, packed;              /* numbers of packed weights: of a block on registers, of a member */
    int64_t u_rows, w_rows;             /* rows of the weights' gradients; `reduction`: one more, of the bias */
    int64_t reduction;

    /* `states` asks that the states are saved although there is no mask. */
    Sizes(const statecast_forward_args &a, bool states = false)
        : members(a.members), rows(a.rows), steps(a.steps), inputs(a.inputs), units(a.units), codes(a.codes) {
        blocks = (units + L - 1) / L;
        padded = blocks * L;
        parts = a.dtype == STATECAST_BF16 ? ROUNDED : TILED<T> && units >= WIDE ? EXACT : NO_PARTS;
        tiled = parts != NO_PARTS;
        /* Rows that fit into registers are one tile. More rows are an even number of tiles of nearly equal
         * height, so that two threads have equal work. A height is a multiple of `grain`: of the rows of a
         * matrix tile, or of those that fit into registers where these are so few that fewer would leave
         * arithmetic units idle. It depends on the number of rows alone, as the order of the sums depends
         * on it. */
        const int64_t most = tiled ? 2 * EDGE : TILE, grain = tiled ? EDGE : TILE_ROWS < 6 ? TILE_ROWS : 1;
        const int64_t even = (rows + 2 * most - 1) / (2 * most) * 2;
        height = rows > (tiled ? EDGE : TILE_ROWS) ? (rows + even - 1) / even : rows;
        height = (height + grain - 1) / grain * grain;
        height = height > 0 ? height : grain;
        tiles = (rows + height - 1) / height;
        share = (tiles + MOST_SUMS - 1) / MOST_SUMS;
        share = share > 0 ? share : 1;
        shares = (tiles + share - 1) / share;
        kept = Cell<CELL>::KEPT / (parts == ROUNDED ? 2 : 1) + (CELL == STATECAST_LSTM ? 1 : 0);
        has_states = a.mask || states; /* with a mask the state may differ from the output */
        kept += has_states;
        step = blocks * kept * height * L;
        tile = steps * step;
        x_chunks = tiled && inputs >= WIDE_INPUT ? (inputs + DEEP - 1) / DEEP : 0;
        h_chunks = tiled ? (units + DEEP - 1) / DEEP : 0;
        chunks = h_chunks + x_chunks;
        block = L * ((int64_t)S + G * ((tiled ? 0 : units) + (x_chunks ? 0 : inputs) + codes));
        packed = blocks * (block + S * memory_of(chunks));
        u_rows = tiled ? padded : units;
        w_rows = x_chunks ? (inputs + L - 1) / L * L : inputs;
        reduction = u_rows + w_rows + 1;
    }
    int64_t memory_of(int64_t chunks) const { return chunks_in<T>(chunks, parts); }
    int64_t chunk() const { return chunk_of(parts); }
    bool halved() const {
        return parts == ROUNDED;
    } /* whether u and w are of bfloat16, and gates are saved so */
    int64_t gate_chunks() const { return (blocks * G + 1) / 2; } /* of the sum over all gates */
    int64_t count(int64_t t) const {                             /* rows of a tile */
        const int64_t left = rows - t * height;
        return left < height ? left : height;
    }
};

/* The product of two arrays of n numbers, a multiple of LANES; always added in the same order. */
template <class T>
T dot(const T *a, const T *b, int64_t n) {
    V<T> sum = {};
    for (int64_t i = 0; i < n; i += LANES<T>) sum = fma(load(a + i), load(b + i), sum);
    T total = 0;
    for (int l = 0; l < LANES<T>; ++l) total += sum[l];
    return total;
}

} // namespace
} // namespace statecast
#endif
