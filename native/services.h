/* What the kernels of all instruction sets share: threads (threads.cpp) and reused memory (services.cpp).
 *
 * Nothing here is inline. A kernel's translation unit is compiled for its own instruction set, and the
 * linker could use an inline function from there for all.
 */
#ifndef STATECAST_SERVICES_H
#define STATECAST_SERVICES_H

#include <stddef.h>
#include <stdint.h>

#include "statecast.h"

namespace statecast {

/* The threads of the host library, see statecast.h. */
struct Host {
    int64_t threads;
    statecast_openmp *openmp;
};

/* Calls task(context, item) once for each item, on several threads, which take items in order from one
 * counter. Returns when all are done. While the pool works for another caller, the calling thread does
 * everything alone. A `small` job takes less time than waking a thread, so it wakes sleeping threads only
 * if another job has just been done, since more may follow. */
void parallel(int64_t items, void (*task)(void *context, int64_t item), void *context, const Host &,
              bool small = false);

/* Memory of this thread, aligned to 64 bytes and valid until the next call with the same `use`. The thread
 * keeps the pages. Null if there is not enough memory. */
enum Use { CALL, TASK, USES };
void *scratch(Use use, size_t bytes);

/* Asks for large pages where whole ones fit. The first use of memory in pages of 4 KiB takes as long as
 * the recurrence, and callers such as XLA pass new memory in each call. */
void large_pages(void *memory, size_t bytes);

/* The most partial sums of the weights' gradients of a member. The order of the sums depends on the number
 * of rows alone. */
constexpr int64_t MOST_SUMS = 16;

struct Scores {
    int (*score[2])(const statecast_score_args *);
    int (*gradients[2])(const statecast_score_gradients_args *);
};

struct Softmax {
    int64_t (*bytes)(const statecast_softmax_args *);
    int (*pack)(const statecast_softmax_args *, void *packed);
    int (*run)(const statecast_softmax_args *);
    int (*affine)(const statecast_softmax_args *);
};

struct Counts {
    int (*quantiles)(const statecast_counts_args *);
};

struct Weighted {
    int (*quantiles)(const statecast_weighted_args *);
};

struct Kernels { /* pairs: for float32 and float64 */
    const char *name;
    int64_t (*saved_bytes[2])(const statecast_forward_args *);
    int64_t (*packed_bytes[2])(const statecast_forward_args *);
    int (*pack[2])(const statecast_forward_args *, void *packed);
    int (*forward[2])(const statecast_forward_args *);
    int (*backward[2])(const statecast_backward_args *);
    int64_t (*layers_saved_bytes[2])(const statecast_forward_args *, int64_t);
    int (*layers_forward[2])(const statecast_forward_args *, int64_t);
    int (*layers_backward[2])(const statecast_backward_args *, int64_t);
    int (*stack)(const statecast_stack_args *);
    const Scores *scores;
    const Softmax *softmax;
    const Counts *counts;
    const Weighted *weighted;
};

} // namespace statecast
#endif
