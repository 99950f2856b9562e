/* Products of matrices of bfloat16, which are added in float32.
 *
 * Two kinds of products are computed with them:
 * - With ROUNDED factors: a float32 is rounded to a bfloat16.
 * - With EXACT factors, on a processor's matrix tiles (Intel's AMX), which multiply sixteen times as many
 *   numbers in a cycle as AVX-512 does in float32. A float32 has 24 bits and is the exact sum of three
 *   bfloat16 of 8 bits each: x = x1 + x2 + x3. Of the nine products of two such sums the six largest are
 *   computed. The others are below 2^-22 of the whole, less than the rounding errors of a sum in float32
 *   (the method of Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for
 *   higher-precision computations", ARITH 2019).
 * Numbers below 2^-126 may count as zero.
 *
 * A tile is EDGE rows of EDGE pairs: EDGE rows of the left matrix by DEEP terms of the sum, or DEEP terms by
 * EDGE columns of the right matrix. Any two terms may be a pair, if they are on both sides: here k and
 * k + EDGE, which are whole vectors. As many tiles as a factor has parts are a chunk. So the same function,
 * `split`, makes left and right chunks from vectors.
 */
#ifndef STATECAST_TILES_H
#define STATECAST_TILES_H

#include "simd.h"

#include <type_traits>

namespace {

typedef uint16_t Half;
enum Parts { NO_PARTS = 0, ROUNDED = 1, EXACT = 3 };             /* of a factor */
constexpr int EDGE = LANES<float>, DEEP = 2 * EDGE;              /* rows of a tile, and terms of the sum */
constexpr int PART = EDGE * DEEP;                                /* of a chunk, in bfloat16 */
constexpr int64_t chunk_of(Parts parts) { return parts * PART; } /* in bfloat16 */
/* The memory of chunks, in numbers of type T. */
template <class T>
constexpr int64_t chunks_in(int64_t chunks, Parts parts) {
    return chunks * chunk_of(parts) * (int64_t)sizeof(Half) / (int64_t)sizeof(T);
}

/* A matrix tile takes the same time for one row as for sixteen, and splitting takes time too: narrow layers
 * are faster on registers. The choice must not depend on the number of rows, since registers round
 * differently and a row has the same bits in any batch. */
constexpr int64_t WIDE = 96;       /* units */
constexpr int64_t WIDE_INPUT = 16; /* inputs; the products of fewer are on registers, in float32 */

/* Whether T may be split into chunks at all, and whether EXACT products of T may be on matrix tiles. If not,
 * the functions below are declared only. */
template <class T>
constexpr bool CHUNKED = sizeof(T) == sizeof(float);
#ifdef __AMX_BF16__
template <class T>
constexpr bool TILED = CHUNKED<T>;
#else
template <class T>
constexpr bool TILED = false;
#endif

/* The parts of two vectors, in pairs: a row of each part's tile. */
template <class T>
void split(V<T> a, V<T> b, Parts parts, Half *to);

/* The transpose of EDGE by EDGE numbers, whose rows are `stride` apart. */
template <class T>
void transpose(const T *from, int64_t stride, T *to);

/* sums += left x right, or = without ADD. There are `rows` rows, whose left tiles are `next` bfloat16 apart,
 * and `across` right tiles, each of `chunks` chunks. The sums of right tile j are at sum[j], in rows `stride`
 * numbers apart; those up to a whole left tile may be written. `ahead` numbers from `later` on are prefetched
 * meanwhile. */
template <bool ADD, class T>
void multiply(Parts parts, const Half *left, int64_t next, int64_t rows, const Half *const *right,
              int64_t across, int64_t chunks, T *const *sum, int64_t stride, const T *later = nullptr,
              int64_t ahead = 0);

typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));

#ifdef __AVX512BF16__
/* The places 0, 16, 1, 17, ... */
INLINE __m512i in_pairs() {
    Bits place;
    for (int i = 0; i < EDGE; ++i) place[i] = (uint32_t)(i + ((EDGE + i) << 16));
    return (__m512i)place;
}
#else
/* The nearest bfloat16 in the high bits; of two equally near ones the even one. A NaN stays a NaN. */
INLINE Bits rounded(V<float> x) {
    const Bits own = (Bits)x, near = own + 0x7fffu + ((own >> 16) & 1u);
    return x == x ? near : own | 0x400000u;
}
#endif

/* The first and the second number of each pair. */
INLINE V<float> firsts(V<float> pairs) { return (V<float>)((Bits)pairs << 16); }
INLINE V<float> seconds(V<float> pairs) { return (V<float>)((Bits)pairs & ((Bits){} + 0xffff0000u)); }

/* The first of three parts is truncated and the second rounded, so that the third is exact. A NaN is kept:
 * whatever its first two parts are, its third is NaN. */
template <>
INLINE void split<float>(V<float> a, V<float> b, Parts parts, Half *to) {
    float *out = reinterpret_cast<float *>(to);
    const Bits high = (Bits){} + 0xffff0000u;
    if (parts == ROUNDED) {
#ifdef __AVX512BF16__
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a); /* those of a, then those of b */
        store(out, (V<float>)_mm512_permutexvar_epi16(in_pairs(), both));
#else
        store(out, (V<float>)((rounded(a) >> 16) | (rounded(b) & high)));
#endif
        return;
    }
    const Bits half = (Bits){} + 0x8000u;
    const Bits a1 = (Bits)a & high, b1 = (Bits)b & high;
    a -= (V<float>)a1, b -= (V<float>)b1;
    const Bits a2 = ((Bits)a + half) & high, b2 = ((Bits)b + half) & high;
    a -= (V<float>)a2, b -= (V<float>)b2;
    store(out, (V<float>)((a1 >> 16) | b1));
    store(out + PART / 2, (V<float>)((a2 >> 16) | b2));
    store(out + PART, (V<float>)(((Bits)a >> 16) | ((Bits)b & high)));
}

#ifdef __AVX512F__
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
#else
template <>
INLINE void transpose<float>(const float *from, int64_t stride, float *to) {
    for (int i = 0; i < EDGE; ++i)
        for (int j = 0; j < EDGE; ++j) to[j * EDGE + i] = from[i * stride + j];
}
#endif

/* Memory that is prefetched in equal parts. */
class Ahead {
  public:
    template <class T>
    Ahead(const T *from, int64_t numbers, int64_t turns) : line_(reinterpret_cast<const char *>(from)) {
        const int64_t bytes = numbers * (int64_t)sizeof(T);
        lines_ = bytes ? (bytes / LINE + turns - 1) / turns : 0;
    }
    INLINE void fetch() {
        for (int64_t i = 0; i < lines_; ++i, line_ += LINE) prefetch(line_);
    }

  private:
    const char *line_;
    int64_t lines_;
};

#ifdef __AMX_BF16__
#ifdef STATECAST_SOFT_TILES
/* Tiles in memory, so that what surrounds them can be tested on any processor. */
class Tiles {};
thread_local float soft_tile[8][EDGE][EDGE];

template <int TO>
INLINE void tile_load(const void *from, int64_t row_bytes) {
    for (int i = 0; i < EDGE; ++i)
        memcpy(soft_tile[TO][i], static_cast<const char *>(from) + i * row_bytes, sizeof soft_tile[TO][i]);
}
template <int FROM>
INLINE void tile_store(void *to, int64_t row_bytes) {
    for (int i = 0; i < EDGE; ++i)
        memcpy(static_cast<char *>(to) + i * row_bytes, soft_tile[FROM][i], sizeof soft_tile[FROM][i]);
}
template <int OF>
INLINE void tile_zero() {
    memset(soft_tile[OF], 0, sizeof soft_tile[OF]);
}
template <int SUM, int LEFT, int RIGHT>
INLINE void tile_product() {
    for (int i = 0; i < EDGE; ++i) {
        V<float> sum = load(soft_tile[SUM][i]);
        for (int pair = 0; pair < EDGE; ++pair) {
            const V<float> a = all(soft_tile[LEFT][i][pair]), b = load(soft_tile[RIGHT][pair]);
            sum = fma(firsts(a), firsts(b), fma(seconds(a), seconds(b), sum));
        }
        store(soft_tile[SUM][i], sum);
    }
}
#else
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
#endif

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
    void run(Parts parts, int64_t chunks, int64_t row_bytes, Ahead &ahead) {
        begin<0, ADD>(row_bytes);
        for (; chunks > 0; --chunks) {
            if (parts == EXACT) {
                lefts<0, 2>(), rights<0, 0>(), ahead.fetch();
                lefts<0, 1>(), rights<0, 0>(), ahead.fetch();
                rights<0, 1>(), ahead.fetch();
                lefts<0, 0>(), rights<0, 1>(), ahead.fetch();
                rights<0, 0>(), ahead.fetch();
                rights<0, 2>(), ahead.fetch();
            } else {
                lefts<0, 0>(), rights<0, 0>(), ahead.fetch();
            }
            EACH(i, R) left[i] += chunk_of(parts);
            EACH(j, C) right[j] += chunk_of(parts);
        }
        end<0>(row_bytes);
    }
};

template <bool ADD, int R, int C, class T>
INLINE void block(Parts parts, const Half *left, int64_t next, const Half *const *right, int64_t chunks,
                  T *const *sum, int64_t stride, Ahead &ahead) {
    Block<R, C> b;
    EACH(i, R) b.left[i] = left + i * next;
    EACH(j, C) b.right[j] = right[j];
    EACH(i, R)
        EACH(j, C) b.sum[i][j] = sum[j] + i * EDGE * stride;
    b.template run<ADD>(parts, chunks, stride * (int64_t)sizeof(T), ahead);
}

template <bool ADD, class T>
void multiply(Parts parts, const Half *left, int64_t next, int64_t rows, const Half *const *right,
              int64_t across, int64_t chunks, T *const *sum, int64_t stride, const T *later, int64_t ahead) {
    const int64_t down = (rows + EDGE - 1) / EDGE, pairs = down / 2 * 2;
    /* No product waits for many prefetches, where they are spread over all chunks. */
    Ahead lines(later, ahead, (parts == EXACT ? 6 : 1) * chunks * ((down * across + 3) / 4));
    for (int64_t j = 0; j < across; j += 2)
        for (int64_t i = 0; i < pairs; i += 2) {
            T *at[2] = {sum[j] + i * EDGE * stride, sum[j + (j + 1 < across)] + i * EDGE * stride};
            if (j + 1 < across)
                block<ADD, 2, 2>(parts, left + i * next, next, right + j, chunks, at, stride, lines);
            else
                block<ADD, 2, 1>(parts, left + i * next, next, right + j, chunks, at, stride, lines);
        }
    if (pairs == down) return;
    left += pairs * next;
    for (int64_t j = 0; j < across;) {
        const int wide = across - j >= 4 ? 4 : across - j >= 2 ? 2 : 1;
        T *at[4];
        for (int i = 0; i < wide; ++i) at[i] = sum[j + i] + pairs * EDGE * stride;
        if (wide == 4)
            block<ADD, 1, 4>(parts, left, next, right + j, chunks, at, stride, lines);
        else if (wide == 2)
            block<ADD, 1, 2>(parts, left, next, right + j, chunks, at, stride, lines);
        else
            block<ADD, 1, 1>(parts, left, next, right + j, chunks, at, stride, lines);
        j += wide;
    }
}
#else
class Tiles {};

/* sum + a1 b1 + a2 b2 of the pairs a and b in each lane. */
INLINE V<float> add_pairs(V<float> sum, V<float> a, V<float> b) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    return fma(firsts(a), firsts(b), fma(seconds(a), seconds(b), sum));
#endif
}

typedef float Loose __attribute__((may_alias)); /* a pair */

/* The rows whose sums with C right tiles fit into registers. */
constexpr int most_rows(int C) {
    const int fit = TILE_ROWS * 4 / C;
    return fit < EDGE ? fit : EDGE;
}

/* R rows of a left tile by C right tiles. */
template <int R>
struct Rounded {
    template <bool ADD, int C, class T>
    static void run(const Half *left, const Half *const *right, int64_t chunks, T *const *sums, int64_t row,
                    int64_t stride, Ahead &ahead) {
        const Half *rights[C];
        V<T> sum[R][C];
        EACH(j, C) rights[j] = right[j];
        EACH(i, R)
            EACH(j, C) sum[i][j] = ADD ? load(sums[j] + (row + i) * stride) : V<T>{};
        for (; chunks > 0; --chunks, left += PART) {
            for (int pair = 0; pair < EDGE; ++pair) {
                V<T> b[C];
                EACH(j, C) {
                    b[j] = load(reinterpret_cast<const T *>(rights[j]));
                    rights[j] += DEEP;
                }
                EACH(i, R) {
                    const V<T> a = all(*reinterpret_cast<const Loose *>(left + i * DEEP + 2 * pair));
                    EACH(j, C) sum[i][j] = add_pairs(sum[i][j], a, b[j]);
                }
            }
            ahead.fetch();
        }
        EACH(i, R)
            EACH(j, C) store(sums[j] + (row + i) * stride, sum[i][j]);
    }
};

/* body(N), where N is n as a constant, for n from 1 to MOST. */
template <int MOST, class Body>
INLINE void as_constant(int n, const Body &body) {
    if constexpr (MOST > 1)
        if (n < MOST) return as_constant<MOST - 1>(n, body);
    body(std::integral_constant<int, MOST>());
}

template <bool ADD, int C, class T>
void columns(const Half *left, int64_t next, int64_t rows, const Half *const *right, int64_t chunks,
             T *const *sum, int64_t stride, Ahead &ahead) {
    constexpr int MOST = most_rows(C);
    for (int64_t row = 0; row < rows; left += next) {
        const int count = least(EDGE, rows - row);
        /* Parts of equal height: a small one takes nearly as long as a large one. */
        const int parts = (count + MOST - 1) / MOST;
        for (int part = 0, begin = 0, end; part < parts; ++part, begin = end) {
            end = (part + 1) * count / parts;
            const Half *own = left + begin * DEEP;
            as_constant<MOST>(end - begin, [&](auto height) {
                Rounded<height()>::template run<ADD, C>(own, right, chunks, sum, row + begin, stride, ahead);
            });
        }
        row += count;
    }
}

template <bool ADD, class T>
void multiply(Parts, const Half *left, int64_t next, int64_t rows, const Half *const *right, int64_t across,
              int64_t chunks, T *const *sum, int64_t stride, const T *later, int64_t ahead) {
    const int64_t parts = (EDGE + TILE_ROWS - 1) / TILE_ROWS, tiles = (rows + EDGE - 1) / EDGE;
    Ahead lines(later, ahead, (across + 3) / 4 * tiles * parts * chunks);
    for (int64_t j = 0; j < across; j += 4)
        as_constant<4>(least(4, across - j), [&](auto wide) {
            columns<ADD, wide()>(left, next, rows, right + j, chunks, sum + j, stride, lines);
        });
}
#endif

/* A row of n numbers as rows of left chunks. */
template <class T>
INLINE void split_row(const T *from, int64_t n, Parts parts, Half *to) {
    for (; n > 0; n -= DEEP, from += DEEP, to += chunk_of(parts))
        split<T>(load(from, least(EDGE, n)), n > EDGE ? load(from + EDGE, least(EDGE, n - EDGE)) : V<T>{},
                 parts, to);
}

/* Rows as a right chunk, with zeros after `rows`: row(j) is the vector of row j. */
template <class T, class Row>
INLINE void split_rows(const Row &row, int64_t rows, Parts parts, Half *to) {
    for (int j = 0; j < EDGE; ++j, to += DEEP)
        split<T>(j < rows ? row(j) : V<T>{}, j + EDGE < rows ? row(j + EDGE) : V<T>{}, parts, to);
}
/* The same from memory: rows of n columns, `stride` numbers apart. */
template <class T>
INLINE void split_rows(const T *from, int64_t stride, int64_t rows, int n, Parts parts, Half *to) {
    split_rows<T>([&](int j) { return load(from + j * stride, n); }, rows, parts, to);
}

/* The transpose of rows of EDGE columns as a left chunk. */
template <class T>
INLINE void split_columns(const T *from, int64_t stride, int64_t rows, Parts parts, Half *to) {
    alignas(64) Half pairs[chunk_of(EXACT)];
    split_rows(from, stride, rows, EDGE, parts, pairs);
    for (int part = 0; part < parts; ++part)
        transpose(reinterpret_cast<const T *>(pairs + part * PART), EDGE,
                  reinterpret_cast<T *>(to + part * PART));
}
} // namespace
#endif
