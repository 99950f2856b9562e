/* Packed weights: in the order in which the products read them. */
#ifndef STATECAST_PACK_H
#define STATECAST_PACK_H

#include "cells.h"

namespace statecast {
namespace {

/* One block of a member's weights: its bias [slot][lane], then u [k][gate][lane], then w, whose last rows
 * belong to codes. Weights in chunks come after all blocks, as right chunks [block][slot][chunk]. */
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
    Half *tiles = of<Half>(packed + z.blocks * z.block) + b * S * z.chunks * z.chunk();
    for (int part = 0; part < 2; ++part) {
        const T *from = (part ? w : u) + b * L;
        const int64_t rows = part ? z.inputs + z.codes : U;
        const int64_t tiled = part ? (z.x_chunks ? z.inputs : 0) : (z.tiled ? U : 0); /* of those rows */
        if constexpr (HALVED<T>)
            for (int g = 0; g < G; ++g) {
                const int slot = part ? Cell<CELL>::w[g] : Cell<CELL>::u[g];
                Half *to = tiles + (slot * z.chunks + (part ? z.h_chunks : 0)) * z.chunk();
                for (int64_t k = 0; k < tiled; k += DEEP, to += z.chunk())
                    split_rows(from + k * columns + g * U, columns, tiled - k, n, z.parts, to);
            }
        for (int64_t k = tiled; k < rows; ++k)
            for (int g = 0; g < G; ++g, out += L) store(out, load(from + k * columns + g * U, n));
    }
}

/* The transpose of a matrix (outputs, G*U): for each group of up to four vectors of outputs,
 * [block][gate][lane of the unit][vector][lane]. */
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
/* The same as right chunks [vector of outputs][chunk], summed over [block][gate][lane of
 * the unit]. */
template <class T, int CELL>
void tile_transposed(const Sizes<T, CELL> &z, const T *matrix, int64_t outputs, Half *out) {
    constexpr int L = LANES<T>, G = Cell<CELL>::GATES;
    const int64_t U = z.units, columns = G * U, vectors = z.blocks * G;
    for (int64_t v = 0; v < outputs; v += L)
        for (int64_t first = 0; first < vectors; first += 2, out += z.chunk()) {
            alignas(64) T rows[EDGE * EDGE], both[DEEP * EDGE] = {};
            for (int half = 0; half < 2 && first + half < vectors; ++half) {
                const int64_t b = (first + half) / G, g = (first + half) % G;
                const T *from = matrix + v * columns + g * U + b * L;
                for (int i = 0; i < EDGE; ++i, from += columns)
                    store(rows + i * EDGE, v + i < outputs ? load(from, least(L, U - b * L)) : V<T>{});
                transpose(rows, EDGE, both + half * EDGE * EDGE);
            }
            split_rows(both, EDGE, DEEP, EDGE, z.parts, out);
        }
}
template <class T, int CELL>
int64_t transposed_size(const Sizes<T, CELL> &z, int64_t outputs) {
    constexpr int L = LANES<T>, G = Cell<CELL>::GATES;
    const int64_t vectors = (outputs + L - 1) / L;
    return z.tiled ? z.memory_of(vectors * z.gate_chunks()) : vectors * L * G * z.units;
}

} // namespace
} // namespace statecast
#endif
