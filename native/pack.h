/* Packed weights: in the order in which the products read them. */
#ifndef STATECAST_PACK_H
#define STATECAST_PACK_H

#include "cells.h"

namespace statecast {
namespace {

/* Weights in the caller's memory: numbers of type T, or of bfloat16 if they are halved. */
template <class T>
struct Weights {
    const void *memory;
    bool halved;

    Weights from(int64_t n) const {
        return {static_cast<const char *>(memory) + n * (int64_t)(halved ? sizeof(Half) : sizeof(T)), halved};
    }
    /* The first n lanes, from number i on; the others are zero. */
    INLINE V<T> load(int64_t i, int n = LANES<T>) const {
        if constexpr (CHUNKED<T>)
            if (halved) {
                typedef Half Halves __attribute__((vector_size(VECTOR_BYTES / 2)));
                Halves own = {};
                memcpy(&own, static_cast<const Half *>(memory) + i, (size_t)n * sizeof(Half));
                return (V<T>)(__builtin_convertvector(own, Bits) << 16);
            }
        return ::load(static_cast<const T *>(memory) + i, n);
    }
};

/* One block of a member's weights: its bias [slot][lane], then u [k][gate][lane], then w, whose last rows
 * belong to codes. Weights in chunks come after all blocks, as right chunks [block][slot][chunk]. */
template <class T, int CELL>
void pack(const Sizes<T, CELL> &z, int64_t b, Weights<T> w, Weights<T> u, const T *bias, T *packed) {
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
        const Weights<T> from = (part ? w : u).from(b * L);
        const int64_t rows = part ? z.inputs + z.codes : U;
        const int64_t tiled = part ? (z.x_chunks ? z.inputs : 0) : (z.tiled ? U : 0); /* of those rows */
        if constexpr (CHUNKED<T>)
            for (int g = 0; g < G; ++g) {
                const int slot = part ? Cell<CELL>::w[g] : Cell<CELL>::u[g];
                Half *to = tiles + (slot * z.chunks + (part ? z.h_chunks : 0)) * z.chunk();
                for (int64_t k = 0; k < tiled; k += DEEP, to += z.chunk())
                    split_rows<T>([&](int j) { return from.load((k + j) * columns + g * U, n); }, tiled - k,
                                  z.parts, to);
            }
        for (int64_t k = tiled; k < rows; ++k)
            for (int g = 0; g < G; ++g, out += L) store(out, from.load(k * columns + g * U, n));
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
void tile_transposed(const Sizes<T, CELL> &z, Weights<T> matrix, int64_t outputs, Half *out) {
    constexpr int L = LANES<T>, G = Cell<CELL>::GATES;
    const int64_t U = z.units, columns = G * U, vectors = z.blocks * G;
    for (int64_t v = 0; v < outputs; v += L)
        for (int64_t first = 0; first < vectors; first += 2, out += z.chunk()) {
            alignas(64) T rows[EDGE * EDGE], both[DEEP * EDGE] = {};
            for (int half = 0; half < 2 && first + half < vectors; ++half) {
                const int64_t b = (first + half) / G, g = (first + half) % G;
                const int64_t from = v * columns + g * U + b * L;
                for (int i = 0; i < EDGE; ++i) {
                    const bool there = v + i < outputs;
                    store(rows + i * EDGE,
                          there ? matrix.load(from + i * columns, least(L, U - b * L)) : V<T>{});
                }
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
