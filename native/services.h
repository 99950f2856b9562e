/* What the kernels of every instruction set share: threads (threads.cpp) and memory that is used again
 * (services.cpp).
 *
 * Nothing here is inline: a kernel's translation unit is compiled for its own instruction
 * set, and a function inlined there could be taken by the linker for all.
 */
#ifndef STATECAST_SERVICES_H
#define STATECAST_SERVICES_H

#include <stddef.h>
#include <stdint.h>

#include "statecast.h"

namespace statecast {

/* What the host library says of threads, as statecast.h has it. */
struct Host {
    int64_t threads;
    statecast_openmp *openmp;
};

/* Calls task(context, item) for every item once, on several threads; items are taken in order
 * from one counter. Returns when all are done. Where the pool is busy with another caller's
 * work, the calling thread does it alone. Threads that sleep are woken for a `small` job, which is done
 * in less time than that takes, only where another has just been: more may follow. */
void parallel(int64_t items, void (*task)(void *context, int64_t item), void *context, const Host &,
              bool small = false);

/* Memory of this thread, aligned to 64 bytes, that stays until the next call with the same
 * `use`; its pages stay with the thread. Null where there is none. */
enum Use { CALL, TASK, USES };
void *scratch(Use use, size_t bytes);

/* Asks for large pages where whole ones fit. To touch fresh memory by pages of 4 KiB takes as
 * long as the recurrence, and a caller such as XLA brings fresh memory to every call. */
void large_pages(void *memory, size_t bytes);

/* Partial sums of the weights' gradients, for each member: the sums' order depends on the rows
 * alone. */
constexpr int64_t MOST_SUMS = 16;

struct Quantiles {
    int (*score[2])(const statecast_score_args *);
    int (*gradients[2])(const statecast_score_gradients_args *);
};

struct Softmax {
    int64_t (*bytes)(const statecast_softmax_args *);
    int (*pack)(const statecast_softmax_args *, void *packed);
    int (*run)(const statecast_softmax_args *);
};

struct Kernels {
    const char *name;
    int64_t (*saved_bytes[2])(const statecast_forward_args *);
    int64_t (*packed_bytes[2])(const statecast_forward_args *);
    int (*pack[2])(const statecast_forward_args *, void *packed);
    int (*forward[2])(const statecast_forward_args *);
    int (*backward[2])(const statecast_backward_args *);
    const Quantiles *quantiles;
    const Softmax *softmax;
};

} // namespace statecast
#endif
