/* The native recurrence kernel: LSTM, GRU and SimpleRNN over whole sequences on a CPU.
 *
 * A C interface with no framework behind it. Equations, gate order and weight layouts are
 * those of Keras and of src/statecast/recurrence/cells.py, the reference.
 *
 * Buffers. All are dense and row-major, of the call's dtype (flags: one byte each), and belong to the
 * caller. The kernel reads and writes them during the call only, and keeps no pointer. They may have any
 * alignment. No output may overlap an input or another output. The M members of an ensemble, each with its
 * own weights, run in one call; M = 1 without an ensemble. N rows, T steps, I inputs, U units, G = 4 gates
 * for LSTM, 3 for GRU, 1 for RNN.
 *
 *   x         (M, N, T, I)        w  (M, I + codes, G*U)   u  (M, U, G*U)
 *   code      (M, N, T)           int64; with codes, and without `saved`: the index of the one in a one-hot
 *                                 vector of `codes` numbers, which follows x and is not in memory
 *   bias      (M, G*U), for GRU (M, 2, 3*U): the input's, then the state's; or null
 *   h0, c0    (M, N, U)           where the first step starts; c0 for LSTM only
 *   source    (N) or null         int64; without `saved`: the row of h0 and c0, which are (M, sources, U)
 *                                 then, from which each row starts. What rows of one source have
 *                                 in common is computed once
 *   mask      (M, N, T) or null   0 skips the step: the state stays, y repeats (zeros at first)
 *   resets    (M, N, T) or null   1 sets the row to (hr, cr) before the step
 *   hr, cr    (M, N, U)           with resets only
 *   y         (M, N, T, U)        every step's output; may be null without `saved`
 *   fed       (M, N, T)           with observed: the first input of every step; where masked, the last one
 *   hn, cn    (M, N, U)           the state after the last step; a copy of h0, c0 where T = 0
 *   observed  (M, N, T) or null   a closed loop: where 0, the first input is not read from x, but is
 *                                 feed . h + base + decay * last, with h before the step and
 *                                 `last` the first input of the step before
 *   feed      (M, U)              with observed only, and not with resets
 *   base      (M, N)
 *   decay     (M)
 *   last      (M, N)              `last` for the first step
 *   packed    w, u and bias as written by statecast_pack(), which are then not read; or null
 *   saved     statecast_saved_bytes() bytes for the backward pass; or null. Only the kernel knows their
 *             layout. They are valid for equal arguments in the same process.
 *
 * Results are deterministic. The outputs of a row, and gradients that belong to a row, have the same bits in
 * any batch and with any number of threads. The gradients of weights are sums over rows and steps, in an
 * order that depends on N alone: another N may change their last bits, threads do not.
 *
 * NaN and infinity are treated as in ordinary arithmetic; with "amx" an infinity may become NaN. All functions
 * may be called from several threads at once, and after fork().
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
enum { STATECAST_INTERFACE = 6 };
int64_t statecast_interface(void);

enum { STATECAST_RNN = 0, STATECAST_GRU = 1, STATECAST_LSTM = 2 };
/* With STATECAST_BF16 w and u are of bfloat16 and all other buffers of float32, as are sums, functions and the
 * state. The other factors of the products with u, and with w if there are at least 16 inputs, are rounded to
 * bfloat16, in the backward pass too. */
enum { STATECAST_F32 = 0, STATECAST_F64 = 1, STATECAST_BF16 = 2 };
/* Threads. Each call has two fields for them. `threads` is the number that the host library (PyTorch, JAX) is
 * set to use, the calling thread included; 0 if it is not set. `openmp` is the function that starts a parallel
 * region on the host library's OpenMP threads, GOMP_parallel, or null. A call uses at most
 * statecast_threads(threads) threads: OpenMP's with `openmp`, if they wait busily on CPUs of their own, and
 * otherwise the library's. A child of fork() never uses OpenMP's. */
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

/* The gradients of a loss, from its gradients of y, fed, hn and cn (null: zeros). `dx` may be null; then it is
 * not computed. dhr and dcr are needed with resets, dc0 and dcr with LSTM, dbias with bias, and dfeed, dbase,
 * ddecay and dlast with observed. Outputs are overwritten, not added to. */
typedef struct {
    statecast_forward_args forward; /* as in the forward call; hn and cn are not read */
    const void *dy, *dfed, *dhn, *dcn;
    void *dx, *dw, *du, *dbias, *dh0, *dc0, *dhr, *dcr;
    void *dfeed, *dbase, *ddecay, *dlast;
} statecast_backward_args;

/* Bytes of `saved`, from the sizes, the dtype, the cell and whether mask is null; -1 if these are refused. */
int64_t statecast_saved_bytes(const statecast_forward_args *);

/* Packed weights, for many short calls with the same weights. Their layout depends on the instruction set in
 * use. Sizes, dtype, cell, w, u and bias are read. */
int64_t statecast_packed_bytes(const statecast_forward_args *);
int statecast_pack(const statecast_forward_args *, void *packed);

int statecast_forward(const statecast_forward_args *);

/* The forward call `fixed` with other sizes and buffers, for short calls from languages in which filling a
 * struct is slow. c0 and cn are for LSTM, `sources` is for a source. */
int statecast_run(const statecast_forward_args *fixed, int64_t rows, int64_t steps, const void *x,
                  const int64_t *code, const void *h0, const void *c0, int64_t sources, const int64_t *source,
                  void *y, void *hn, void *cn);
int statecast_backward(const statecast_backward_args *);

/* Several layers of cells in a closed loop: their calls, the lowest layer's first. The input of a layer is the output
 * of the layer below. The feedback reads the output of the last layer, and y is that. cell, dtype, members, rows,
 * steps and units are the same in all calls; w, u, bias, h0, c0, hn, cn and their gradients are each layer's own;
 * `inputs` of an upper layer is `units`. All else is of the loop: it is in the first call, and null in the others.
 * The loop has observed, and no resets, codes, source or packed.
 *
 *   saved     statecast_layers_saved_bytes() bytes, in the order of the members */
enum { STATECAST_MOST_LAYERS = 16 };
int64_t statecast_layers_saved_bytes(const statecast_forward_args *layers, int64_t count);
int statecast_layers_forward(const statecast_forward_args *layers, int64_t count);
int statecast_layers_backward(const statecast_backward_args *layers, int64_t count); /* y is not read */

/* A stack of layers in a closed loop, over whole sequences, and what its head gives: the quantiles of every step,
 * or paths.
 *
 * Buffers are as above, of float32, and the equations those of src/statecast/recurrence/cells.py: all layers
 * are cells of one kind and width. The input of a layer is the output of the layer below. The feedback reads
 * the output of the last layer, and y is that.
 *
 * x, mask, observed, feed, base, decay, last, y and fed are as for statecast_forward(). Without observed and
 * without a head the loop is open, and y may not be null.
 *
 * The raw numbers of a head's distribution (P parameters) are h . kernel + constant. `decay` times the value of
 * the step before is added to the location. h is the output before the step; with `after` the output after it,
 * and the value is that of the step itself. src/statecast/heads/ is the reference of the distributions.
 *
 * With `level` the first input of every step is the distribution's quantile at this level, a draw; with `after`
 * it is the draw of the step before, and `last` at the first step. `fed` are the draws. mask, observed, feed,
 * base and y are null.
 *
 *   layer     (layers)
 *   constant  (M, N, P)           with a head
 *   kernel    (M, U, P)
 *   gaps      (P - 1)             doubles, with STATECAST_QUANTILES: as for the score below; otherwise (1): added
 *                                 to the raw scale
 *   levels    (K)                 doubles: the levels of `quantiles`. With STATECAST_QUANTILES those of the head,
 *                                 K = P; as for the score below
 *   deviates  (K)                 doubles: the standard normal quantiles at these levels; not for
 *                                 STATECAST_QUANTILES
 *   quantiles (M, N, T, K)        or null; undefined at skipped steps
 *   level     (M, N, T) or null   between 0 and 1
 *   deviate   (M, N, T)           with level: the standard normal quantiles at it; not for STATECAST_QUANTILES */
/* The last two are for scores only. */
enum {
    STATECAST_NO_HEAD = 0,
    STATECAST_QUANTILES = 1,
    STATECAST_NORMAL = 2,
    STATECAST_STUDENT_T = 3,
    STATECAST_POISSON = 4,
    STATECAST_NEGATIVE_BINOMIAL = 5
};

typedef struct {
    const void *packed; /* the weights, as by statecast_pack() */
    const void *h0, *c0;
    void *hn, *cn; /* not with level */
} statecast_layer;

typedef struct {
    int64_t cell, members, rows, steps, inputs, units, layers;
    const statecast_layer *layer;
    const void *x;
    const uint8_t *mask, *observed;
    const void *feed, *base, *decay, *last;
    void *y, *fed;
    int64_t head, parameters, count, after; /* count is K */
    const void *constant, *kernel, *level, *deviate;
    const double *gaps, *levels, *deviates;
    double smallest;
    void *quantiles;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_stack_args;

int statecast_stack(const statecast_stack_args *);

/* The score of a head over whole sequences (src/statecast/heads/ is the reference). Buffers are as above; P raw
 * numbers. float64 is for STATECAST_QUANTILES alone.
 *
 *   outputs   (M, N, T, U)          of the recurrence
 *   taken     (M, N, T)             the value that it took in at each step
 *   first     (M, N, U) or null     the output before the first step. With it the distribution of step t
 *   last      (M, N)                depends on the output and the value of step t - 1, that of the
 *                                   first step on first and last; if both are null, on those of step t
 *   kernel    (M, U, P)
 *   base      (M, N, P)
 *   decay     (M)
 *   target    (M, N, T)
 *   weight    (M, N, T)
 *   levels    (P)                   doubles, increasing; with STATECAST_QUANTILES only
 *   gaps      (P - 1), (1), (5 or 6)  doubles, see below
 *   score     (M, N)                summed over the steps
 *
 * The raw numbers are raw = output . kernel + base, and the location is raw[l] + decay * value. A step's score is
 * weight times the loss:
 *
 *   STATECAST_QUANTILES (P odd and at least 3)  twice the mean pinball loss. l is P / 2, the location is the
 *       median, and the distance from each quantile to the next one outwards is softplus(raw[q] + gap) +
 *       smallest, where `gap` is that between the two.
 *   STATECAST_NORMAL (2)  the CRPS. The standard deviation is softplus(raw[1] + gaps[0]) + smallest.
 *   STATECAST_STUDENT_T (3)  the negative log-likelihood. The scale is as above, the degrees of freedom are
 *       2.5 + 5 e^raw[2], where the exponent is limited to -6 and 5.
 *   STATECAST_POISSON (1), STATECAST_NEGATIVE_BINOMIAL (2)  the negative log-likelihood of the count nearest to
 *       the target. Values are (log1p(count / gaps[0]) - gaps[1]) / gaps[2]. The mean is that of the location
 *       after a softplus, of sharpness gaps[3], on the scale of log1p, which is at most gaps[4], plus smallest.
 *       The size of the negative binomial distribution is the inverse of softplus(raw[1] + gaps[5]), limited to
 *       1e-4 and 30.
 *
 * Results are deterministic as those of the recurrence. Where the target equals a quantile, the loss has no
 * derivative; the one from above is used. */
typedef struct {
    int64_t dtype, head;
    int64_t members, rows, steps, units, parameters;
    const void *outputs, *taken, *first, *last, *kernel, *base, *decay, *target, *weight;
    const double *levels, *gaps;
    double smallest;
    void *score;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_score_args;

/* The gradients of a loss, from its gradient of the score, (M, N). dfirst and dlast are needed with first. */
typedef struct {
    statecast_score_args forward; /* as in the forward call; score is not read */
    const void *dscore;
    void *doutputs, *dtaken, *dfirst, *dlast, *dkernel, *dbase, *ddecay;
} statecast_score_gradients_args;

int statecast_score(const statecast_score_args *);
int statecast_score_gradients(const statecast_score_gradients_args *);

/* The softmax over C tokens, from the recurrence's outputs, and the likeliest tokens.
 *
 *   kernel    (M, U, C)             for packing, as bias
 *   bias      (M, C)
 *   packed    kernel and bias as written by statecast_softmax_pack()
 *   outputs   (M, N, U)
 *   allowed   (C) or null           one byte a token: 0 is never among the best
 *   nats      (N, C) if best is 0   the log of the members' mean probability
 *             (N, best) otherwise   those of a row's likeliest allowed tokens, the likeliest first, among
 *                                   equal ones the least code first; then minus infinity
 *   codes     (N, best) or null     the tokens, then -1; null if best is 0
 *
 * All numbers are float32. A row's results have the same bits in any batch. */
typedef struct {
    int64_t members, rows, units, tokens, best;
    const void *kernel, *bias, *packed, *outputs;
    const uint8_t *allowed;
    void *nats;
    int32_t *codes;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_softmax_args;

/* Bytes of `packed`, from the sizes; -1 if these are refused. */
int64_t statecast_softmax_bytes(const statecast_softmax_args *);
int statecast_softmax_pack(const statecast_softmax_args *, void *packed);
int statecast_softmax(const statecast_softmax_args *);

/* The affine map itself: nats is (M, N, C), outputs . kernel + bias. `best` is 0, `codes` and `allowed` are
 * null. */
int statecast_affine(const statecast_softmax_args *);

/* Quantiles of counts, continued between the counts (src/statecast/heads/counts.py is the reference): of N
 * distributions at K levels each.
 *
 *   mean      (N)
 *   size      (N) or null           of the negative binomial distribution; null for Poisson's
 *   level     (K), or (N, K) if `apart` is 1
 *   deviate   as level              the standard normal quantile at the level: where the search begins
 *   count     (N, K)
 *
 * All numbers are float32. A distribution's quantiles have the same bits in any batch. */
typedef struct {
    int64_t cases, levels, apart;
    const void *mean, *size, *level, *deviate;
    void *count;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_counts_args;

int statecast_counts(const statecast_counts_args *);

/* Quantiles of weighted samples (src/statecast/forecast/analogues.py is the reference): of N rows at the
 * steps from `first` to before T, a sample of `near` values.
 *
 *   values    (items, stride) T numbers of each item are read; NaN where there is none
 *   item      (N, near)       int64; the items of a row's samples
 *   weight    (N, near)       a value with weight 0 is left out
 *   level     (K)
 *   out       (N, T - first, K)   0 at a step without values
 *
 * All numbers are float32, and finite but for NaN. A row has the same bits in any batch. */
typedef struct {
    int64_t rows, near, items, stride, steps, first, levels;
    const void *values;
    const int64_t *item;
    const void *weight, *level;
    void *out;
    int64_t threads;
    statecast_openmp *openmp;
} statecast_weighted_args;

int statecast_weighted(const statecast_weighted_args *);

/* The instruction sets of the build, comma-separated, and the one in use: "amx", "avx512", "avx2", "neon" or
 * "portable". statecast_use() chooses one by name, or the best with "". It returns STATECAST_BAD_ARGUMENT if
 * the machine or the build does not have it. */
const char *statecast_built(void);
const char *statecast_used(void);
int statecast_use(const char *instructions);

/* The threads that a call may use, the calling one included: the number of statecast_set_threads(), else
 * STATECAST_THREADS, else the least of `host` (the host library's, 0 for none), OMP_NUM_THREADS, the CPUs that
 * the calling thread may run on, and statecast_quota(""). The environment is read in the first call and after
 * statecast_set_threads(0), the quota at most once a second, the CPUs each time. */
int statecast_threads(int64_t host);
void statecast_set_threads(int count);

/* The number of CPUs that the quotas of this process's control groups (Linux, version 1 or 2) allow, rounded
 * and at least 1; 0 if there is no quota. `root` is put before the paths that are read. */
int statecast_quota(const char *root);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
