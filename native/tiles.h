/* Products of float32 matrices on a processor's matrix tiles (Intel's AMX), which multiply bfloat16 and
 * add in float32, sixteen times as many in a cycle as AVX-512 does in float32.
 *
 * A float32 has 24 bits and is the exact sum of three bfloat16 of 8 bits each: x = x1 + x2 + x3. Of the
 * nine products of two such sums the six largest are computed. The others are below 2^-22 of the whole,
 * less than the rounding errors of a sum in float32 (the method of Henry, Tang and Heinecke,
 * "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations",
 * ARITH 2019). Numbers below 2^-126 count as zero.
 *
 * A tile is 16 rows of 16 pairs: 16 rows of the left matrix by 32 terms of the sum, or 32 terms by 16
 * columns of the right matrix. Any two terms may be a pair, if they are on both sides: here k and k + 16,
 * which are whole vectors. Three tiles, one for each part, are a chunk. So the same function, `split`,
 * makes left and right chunks from vectors.
 */
#ifndef STATECAST_TILES_H
#define STATECAST_TILES_H

#include "simd.h"

namespace {

typedef uint16_t Half;
constexpr int EDGE = 16, DEEP = 32;                 /* rows of a tile, and terms of the sum in a chunk */
constexpr int PART = EDGE * DEEP, CHUNK = 3 * PART; /* in bfloat16 */
/* The memory of chunks, in numbers of type T. */
template <class T>
constexpr int64_t chunks_in(int64_t chunks) {
    return chunks * CHUNK * (int64_t)sizeof(Half) / (int64_t)sizeof(T);
}

/* A tile takes the same time for one row as for sixteen, and splitting takes time too: narrow layers are
 * faster on registers. The choice must not depend on the number of rows, since registers round
 * differently and a row has the same bits in any batch. */
constexpr int64_t WIDE = 96; /* units */

/* Whether products of T may be on matrix tiles. If not, the functions below are declared only. */
#ifdef __AMX_BF16__
template <class T>
constexpr bool TILED = sizeof(T) == sizeof(float);
#else
template <class T>
constexpr bool TILED = false;
#endif

/* The three parts of two vectors, in pairs: a row of each part's tile. */
template <class T>
void split(V<T> a, V<T> b, Half *to);

/* The transpose of 16 by 16 numbers, whose rows are `stride` apart. */
template <class T>
void transpose(const T *from, int64_t stride, T *to);

/* sums += left x right, or = without ADD. There are `down` left tiles, `next` bfloat16 apart, and `across`
 * right ones, each of `chunks` chunks. The sums of left tile i and right tile j are at sum[j] + i * below,
 * with rows `stride` numbers apart. `ahead` numbers from `later` on are prefetched meanwhile. */
template <bool ADD, class T>
void multiply(const Half *left, int64_t next, int64_t down, const Half *const *right, int64_t across,
              int64_t chunks, T *const *sum, int64_t below, int64_t stride, const T *later = nullptr,
              int64_t ahead = 0);

#ifdef __AMX_BF16__
/* Sets the shapes of this thread's tiles while it exists: 16 rows of 64 bytes. */
class Tiles {
  public:
    Tiles() {
        alignas(64) uint8_t shape[64] = {1}; /* palette 1; 16-bit widths in bytes from 16 on, rows from 48 */
        for (int i = 0; i < 8; ++i) shape[16 + 2 * i] = 64, shape[48 + i] = EDGE;
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    ~Tiles() { asm volatile("tilerelease" ::: "memory"); }
    Tiles(const Tiles &) = delete;
};

template <int TO>
INLINE void tile_load(const void *from, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(TO) : "memory");
}
template <int FROM>
INLINE void tile_store(void *to, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(FROM) : "memory");
}
template <int OF>
INLINE void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(OF));
}
template <int SUM, int LEFT, int RIGHT>
INLINE void tile_product() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(LEFT), "i"(RIGHT));
}

/* The first part is truncated and the second rounded, so that the third is exact. A NaN is kept: whatever
 * its first two parts are, its third is NaN. */
template <>
INLINE void split<float>(V<float> a, V<float> b, Half *to) {
    typedef uint32_t bits __attribute__((vector_size(VECTOR_BYTES)));
    const bits high = (bits){} + 0xffff0000u, half = (bits){} + 0x8000u;
    const bits a1 = (bits)a & high, b1 = (bits)b & high;
    a -= (V<float>)a1, b -= (V<float>)b1;
    const bits a2 = ((bits)a + half) & high, b2 = ((bits)b + half) & high;
    a -= (V<float>)a2, b -= (V<float>)b2;
    float *out = reinterpret_cast<float *>(to);
    store(out, (V<float>)((a1 >> 16) | b1));
    store(out + PART / 2, (V<float>)((a2 >> 16) | b2));
    store(out + PART, (V<float>)(((bits)a >> 16) | ((bits)b & high)));
}

template <>
INLINE void transpose<float>(const float *from, int64_t stride, float *to) {
    constexpr __mmask16 ALL = -1; /* GCC warns about the forms without a mask */
    __m512 r[16], s[16];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; ++i) r[i] = load(from + i * stride);
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_maskz_unpacklo_ps(ALL, r[i], r[i + 1]);
        s[i + 1] = _mm512_maskz_unpackhi_ps(ALL, r[i], r[i + 1]);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_maskz_shuffle_ps(ALL, s[i], s[i + 2], 0x44);
        r[i + 1] = _mm512_maskz_shuffle_ps(ALL, s[i], s[i + 2], 0xee);
        r[i + 2] = _mm512_maskz_shuffle_ps(ALL, s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm512_maskz_shuffle_ps(ALL, s[i + 1], s[i + 3], 0xee);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) {
        s[i] = _mm512_maskz_shuffle_f32x4(ALL, r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_maskz_shuffle_f32x4(ALL, r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_maskz_shuffle_f32x4(ALL, r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_maskz_shuffle_f32x4(ALL, r[i + 8], r[i + 12], 0xdd);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; ++i) {
        store(to + i * 16, (V<float>)_mm512_maskz_shuffle_f32x4(ALL, s[i], s[i + 8], 0x88));
        store(to + (i + 4) * 16, (V<float>)_mm512_maskz_shuffle_f32x4(ALL, s[i + 4], s[i + 12], 0x88));
        store(to + (i + 8) * 16, (V<float>)_mm512_maskz_shuffle_f32x4(ALL, s[i], s[i + 8], 0xdd));
        store(to + (i + 12) * 16, (V<float>)_mm512_maskz_shuffle_f32x4(ALL, s[i + 4], s[i + 12], 0xdd));
    }
}

/* R left by C right tiles, R * C at most 4. Tiles 0 to 3 are sums, then come left and right ones. */
template <int R, int C>
struct Block {
    const Half *left[R], *right[C];
    float *sum[R][C];

    template <int I, int P>
    INLINE void lefts() const {
        if constexpr (I < R) {
            tile_load<4 + I>(left[I] + P * PART, 64);
            lefts<I + 1, P>();
        }
    }
    /* The products of one part of the right tiles with the loaded left ones. */
    template <int J, int P>
    INLINE void rights() const {
        if constexpr (J < C) {
            constexpr int tile = 4 + R + J % (4 - R);
            tile_load<tile>(right[J] + P * PART, 64);
            down<0, J, tile>();
            rights<J + 1, P>();
        }
    }
    template <int I, int J, int TILE>
    static INLINE void down() {
        if constexpr (I < R) {
            tile_product<I * C + J, 4 + I, TILE>();
            down<I + 1, J, TILE>();
        }
    }
    template <int I, bool ADD>
    INLINE void begin(int64_t row_bytes) const {
        if constexpr (I < R * C) {
            if constexpr (ADD)
                tile_load<I>(sum[I / C][I % C], row_bytes);
            else
                tile_zero<I>();
            begin<I + 1, ADD>(row_bytes);
        }
    }
    template <int I>
    INLINE void end(int64_t row_bytes) const {
        if constexpr (I < R * C) {
            tile_store<I>(sum[I / C][I % C], row_bytes);
            end<I + 1>(row_bytes);
        }
    }
    template <bool ADD>
    void run(int64_t chunks, int64_t row_bytes, const char *&later, int64_t lines) {
        const auto fetch = [&] {
            for (int64_t i = 0; i < lines; ++i, later += 64) prefetch(later);
        };
        begin<0, ADD>(row_bytes);
        for (; chunks > 0; --chunks) {
            lefts<0, 2>(), rights<0, 0>(), fetch();
            lefts<0, 1>(), rights<0, 0>(), fetch();
            rights<0, 1>(), fetch();
            lefts<0, 0>(), rights<0, 1>(), fetch();
            rights<0, 0>(), fetch();
            rights<0, 2>(), fetch();
            EACH(i, R) left[i] += CHUNK;
            EACH(j, C) right[j] += CHUNK;
        }
        end<0>(row_bytes);
    }
};

template <bool ADD, int R, int C, class T>
INLINE void block(const Half *left, int64_t next, const Half *const *right, int64_t chunks, T *const *sum,
                  int64_t below, int64_t stride, const char *&later, int64_t lines) {
    Block<R, C> b;
    EACH(i, R) b.left[i] = left + i * next;
    EACH(j, C) b.right[j] = right[j];
    EACH(i, R)
        EACH(j, C) b.sum[i][j] = sum[j] + i * below;
    b.template run<ADD>(chunks, stride * (int64_t)sizeof(T), later, lines);
}

template <bool ADD, class T>
void multiply(const Half *left, int64_t next, int64_t down, const Half *const *right, int64_t across,
              int64_t chunks, T *const *sum, int64_t below, int64_t stride, const T *later, int64_t ahead) {
    const int64_t pairs = down / 2 * 2;
    /* Spread evenly, six times for each chunk, so that no product waits for many prefetches. */
    const int64_t turns = 6 * chunks * ((down * across + 3) / 4), bytes = ahead * (int64_t)sizeof(T);
    const int64_t lines = bytes ? (bytes / 64 + turns - 1) / turns : 0;
    const char *line = reinterpret_cast<const char *>(later);
    for (int64_t j = 0; j < across; j += 2)
        for (int64_t i = 0; i < pairs; i += 2) {
            T *at[2] = {sum[j] + i * below, sum[j + (j + 1 < across)] + i * below};
            if (j + 1 < across)
                block<ADD, 2, 2>(left + i * next, next, right + j, chunks, at, below, stride, line, lines);
            else
                block<ADD, 2, 1>(left + i * next, next, right + j, chunks, at, below, stride, line, lines);
        }
    if (pairs == down) return;
    left += pairs * next;
    for (int64_t j = 0; j < across;) {
        const int wide = across - j >= 4 ? 4 : across - j >= 2 ? 2 : 1;
        T *at[4];
        for (int i = 0; i < wide; ++i) at[i] = sum[j + i] + pairs * below;
        if (wide == 4)
            block<ADD, 1, 4>(left, next, right + j, chunks, at, below, stride, line, lines);
        else if (wide == 2)
            block<ADD, 1, 2>(left, next, right + j, chunks, at, below, stride, line, lines);
        else
            block<ADD, 1, 1>(left, next, right + j, chunks, at, below, stride, line, lines);
        j += wide;
    }
}
#else
class Tiles {};
#endif

/* A row of n numbers as rows of left chunks. */
template <class T>
INLINE void split_row(const T *from, int64_t n, Half *to) {
    for (; n > 0; n -= DEEP, from += DEEP, to += CHUNK)
        split<T>(load(from, least(EDGE, n)), n > EDGE ? load(from + EDGE, least(EDGE, n - EDGE)) : V<T>{}, to);
}

/* Rows of n columns as a right chunk, with zeros after `rows`. */
template <class T>
INLINE void split_rows(const T *from, int64_t stride, int64_t rows, int n, Half *to) {
    for (int j = 0; j < EDGE; ++j, from += stride, to += DEEP)
        split<T>(j < rows ? load(from, n) : V<T>{}, j + EDGE < rows ? load(from + EDGE * stride, n) : V<T>{},
                 to);
}

/* The transpose of rows of 16 columns as a left chunk. */
template <class T>
INLINE void split_columns(const T *from, int64_t stride, int64_t rows, Half *to) {
    alignas(64) Half pairs[CHUNK];
    split_rows(from, stride, rows, EDGE, pairs);
    for (int part = 0; part < 3; ++part)
        transpose(reinterpret_cast<const T *>(pairs + part * PART), EDGE,
                  reinterpret_cast<T *>(to + part * PART));
}
} // namespace
#endif
