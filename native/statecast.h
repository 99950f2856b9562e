/* The native recurrence kernel: LSTM, GRU and SimpleRNN over whole sequences on a CPU.
 *
 * A C interface with no framework behind it. Equations, gate order and weight layouts are
 * those of Keras and of src/statecast/cells.py, the reference.
 *
 * Buffers. All are dense and row-major, of the call's dtype (masks: one byte a flag), and
 * belong to the caller; the kernel reads and writes them during the call only and keeps no
 * pointer. Any alignment will do. No output may overlap an input or another output. M
 * members (an ensemble's; each has its own weights) run as one call; M = 1 is the ordinary
 * case. N rows, T steps, I inputs, U units, G = 4 gates for LSTM, 3 for GRU, 1 for RNN.
 *
 *   x         (M, N, T, I)        w  (M, I + codes, G*U)   u  (M, U, G*U)
 *   code      (M, N, T)           int64, with codes and without `saved`: x ends in a one-hot vector of so
 *                                 many numbers, which is not written out; this says where its one is
 *   bias      (M, G*U), for GRU (M, 2, 3*U): the input's, then the state's; or null
 *   h0, c0    (M, N, U)           where the first step starts; c0 for LSTM only
 *   source    (N) or null         int64; h0 and c0 are (M, sources, U) then, and this says which of those rows
 *                                 each row starts from; without `saved`. What rows of one source
 *                                 have in common is computed once
 *   mask      (M, N, T) or null   0 skips the step: the state stays, y repeats (zeros at first)
 *   resets    (M, N, T) or null   1 puts the row at (hr, cr) before the step
 *   hr, cr    (M, N, U)           with resets only
 *   y         (M, N, T, U)        every step's output; may be null without `saved`
 *   fed       (M, N, T)           with observed: every step's first number; where masked, the last
 *   hn, cn    (M, N, U)           the state after the last step; a copy of h0, c0 where T = 0
 *   observed  (M, N, T) or null   a closed loop: where 0, the first of x's numbers is not read and
 *                                 feed . h + base + decay * last stands in its place, with h as
 *                                 the step finds it and `last` the step before's first number
 *   feed      (M, U)              with observed only, and not with resets
 *   base      (M, N)
 *   decay     (M)
 *   last      (M, N)              `last` for the first step
 *   packed    what statecast_pack() wrote for w, u and bias, which are then not read; or null
 *   saved     statecast_saved_bytes() bytes for the backward pass, or null for none. Its
 *             contents are the kernel's own and hold for equal arguments in the same process.
 *
 * Results are deterministic. A row's outputs, and the gradients that belong to a row, have
 * the same bits whatever rows stand beside it and whatever the number of threads. The
 * gradients of weights are sums over rows and steps, taken in an order that depends on N
 * alone: other rows or another N may change their last bits, threads do not.
 *
 * NaN and infinity go through as arithmetic has it; with "amx" an infinity may become NaN. Every function may be called from
 * several threads at once, and after fork().
 */
#ifndef STATECAST_H
#define STATECAST_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* The number of this interface. It is raised with every change of the declarations below and of what
 * jax.cpp reads from a call. A caller compares it with the number it was written for before any other
 * call: a struct of another layout would be read wrongly. */
enum { STATECAST_INTERFACE = 1 };
int64_t statecast_interface(void);

enum { STATECAST_RNN = 0, STATECAST_GRU = 1, STATECAST_LSTM = 2 };
enum { STATECAST_F32 = 0, STATECAST_F64 = 1 };
/* Threads. Each call has these two fields: how many threads the host library (PyTorch, JAX) has been told
 * to use, the calling one included, or 0 where it says nothing; and the function that starts a parallel
 * region on that library's OpenMP threads, GOMP_parallel, or null. A call uses at most
 * statecast_threads(threads) threads. With `openmp` it uses OpenMP's where they wait busily on CPUs of
 * their own, and otherwise the library's. A child of fork() never uses OpenMP's. */
typedef void statecast_openmp(void (*body)(void *data), void *data, unsigned threads, unsigned flags);

enum { STATECAST_OK = 0, STATECAST_BAD_ARGUMENT = 1, STATECAST_TOO_LARGE = 2, STATECAST_NO_MEMORY = 3 };

typedef struct {
    int64_t cell, dtype;
    int64_t members, rows, steps, inputs, units, codes, sources;
    const void *x, *w, *u, *bias, *h0, *c0;
    const int64_t *code, *source;
    const uint8_t *mask, *resets;
    const void *hr, *cr;
    const uint8_t *observed;
    const void *feed, *base, *decay, *last;
    const void *packed;
    void *y, *fed, *hn, *cn, *saved;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_forward_args;

/* The gradients of a loss, given those of y, fed, hn and cn (each may be null: zeros). `dx` may be
 * null where it is not wanted. dhr, dcr go with resets, dc0 and dcr with LSTM, dbias with bias, and
 * dfeed, dbase, ddecay, dlast with observed. Outputs are written, never added to. */
typedef struct {
    statecast_forward_args forward; /* as in the forward call; hn and cn are not read */
    const void *dy, *dfed, *dhn, *dcn;
    void *dx, *dw, *du, *dbias, *dh0, *dc0, *dhr, *dcr;
    void *dfeed, *dbase, *ddecay, *dlast;
} statecast_backward_args;

/* Bytes of `saved`, from the sizes, the dtype, the cell and whether mask is null; -1 where
 * they are refused. */
int64_t statecast_saved_bytes(const statecast_forward_args *);

/* Weights laid out beforehand, for many short calls with the same. The layout belongs to the
 * instruction set in use. Sizes, dtype, cell, w, u and bias are read. */
int64_t statecast_packed_bytes(const statecast_forward_args *);
int statecast_pack(const statecast_forward_args *, void *packed);

int statecast_forward(const statecast_forward_args *);

/* A forward call as `fixed` has it, but with these sizes and buffers: for short calls from
 * languages that fill a struct slowly. c0 and cn are for LSTM, `sources` for a source. */
int statecast_run(const statecast_forward_args *fixed, int64_t rows, int64_t steps, const void *x,
                  const int64_t *code, const void *h0, const void *c0, int64_t sources, const int64_t *source,
                  void *y, void *hn, void *cn);
int statecast_backward(const statecast_backward_args *);

/* The score of a head of quantiles over whole sequences (src/statecast/heads.py is the reference).
 * Buffers are as above; Q quantiles, odd and at least 3.
 *
 *   outputs   (M, N, T, U)          of the recurrence
 *   taken     (M, N, T)             the value it took in at each step
 *   first     (M, N, U) or null     the output before the first step. With it step t is read from
 *   last      (M, N)                the output and the value of step t - 1, and the first from
 *                                   first and last; where both are null, from those of step t
 *   kernel    (M, U, Q)
 *   base      (M, N, Q)
 *   decay     (M)
 *   target    (M, N, T)
 *   weight    (M, N, T)
 *   levels    (Q)                   doubles, rising, the middle one the median's
 *   gaps      (Q - 1)               doubles
 *   score     (M, N)                summed over the steps
 *
 * With raw = output . kernel + base, the median is raw[Q / 2] + decay * value, and
 * softplus(raw[q] + gap) + smallest leads from each quantile to the next one further out, where
 * `gap` is that between the two. A step's score is weight * 2 / Q * the sum of the pinball losses.
 *
 * Results are deterministic as the recurrence's are. The loss has a corner where the target is a
 * quantile: there the slope is that from above. */
typedef struct {
    int64_t dtype;
    int64_t members, rows, steps, units, quantiles;
    const void *outputs, *taken, *first, *last, *kernel, *base, *decay, *target, *weight;
    const double *levels, *gaps;
    double smallest;
    void *score;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_score_args;

/* The gradients of a loss, given that of the score, (M, N). dfirst and dlast go with first. */
typedef struct {
    statecast_score_args forward; /* as in the forward call; score is not read */
    const void *dscore;
    void *doutputs, *dtaken, *dfirst, *dlast, *dkernel, *dbase, *ddecay;
} statecast_score_gradients_args;

int statecast_score(const statecast_score_args *);
int statecast_score_gradients(const statecast_score_gradients_args *);

/* The softmax that chooses among C tokens, from the recurrence's outputs, and the likeliest of them.
 *
 *   kernel    (M, U, C)             for packing, as bias
 *   bias      (M, C)
 *   packed    what statecast_softmax_pack() wrote for both
 *   outputs   (M, N, U)
 *   allowed   (C) or null           one byte a token: 0 is never among the best
 *   nats      (N, C), where best is 0: the log of the members' mean probability
 *             (N, best) else: those of the likeliest allowed tokens of a row, the likeliest first and
 *                                   of equals that with the least code; minus infinity beyond them
 *   codes     (N, best) or null     which they are, -1 beyond them; null where best is 0
 *
 * All is float32. A row's results have the same bits whatever rows stand beside it. */
typedef struct {
    int64_t members, rows, units, tokens, best;
    const void *kernel, *bias, *packed, *outputs;
    const uint8_t *allowed;
    void *nats;
    int32_t *codes;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_softmax_args;

/* Bytes of `packed`, from the sizes; -1 where they are refused. */
int64_t statecast_softmax_bytes(const statecast_softmax_args *);
int statecast_softmax_pack(const statecast_softmax_args *, void *packed);
int statecast_softmax(const statecast_softmax_args *);

/* The instruction sets built in, comma-separated, and the one in use: "amx", "avx512", "avx2",
 * "neon" or "portable". statecast_use chooses one by name, "" the best; it answers
 * STATECAST_BAD_ARGUMENT where the machine or the build has not got it. */
const char *statecast_built(void);
const char *statecast_used(void);
int statecast_use(const char *instructions);

/* Threads that a call may use, the calling one included: as many as statecast_set_threads() says, else
 * STATECAST_THREADS, else the least of `told` (0 for none), OMP_NUM_THREADS, the CPUs that the calling
 * thread may run on, and statecast_quota(""). The environment is read at the first call and after
 * statecast_set_threads(0), the quota once a second at most, the CPUs each time. */
int statecast_threads(int64_t told);
void statecast_set_threads(int count);

/* CPUs' worth of time that this process's control groups (Linux, version 1 or 2) let it use, rounded and at
 * least 1; 0 where they set no limit. `root` goes before the paths that are read. */
int statecast_quota(const char *root);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
