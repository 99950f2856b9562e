/* The recurrence, forward and backward: one source, compiled once for each instruction set. */
#include "backward.h"
#include "forward.h"
#include "layers.h"
#include "stack.h"

namespace statecast {
namespace {

/* `call`<T, CELL>(...), by the cell that is asked for. */
#define BY_CELL(cell, call, ...)                                          \
    switch (cell) {                                                       \
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
    return z.members * z.packed * (int64_t)sizeof(T) + LINE;
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

template <class T>
int64_t layers_saved_bytes(const statecast_forward_args *layers, int64_t count) {
    BY_CELL(layers->cell, saved_size_of_layers, layers, count)
}
template <class T>
int layers_forward(const statecast_forward_args *layers, int64_t count) {
    BY_CELL(layers->cell, forward_layers, layers, count)
}
template <class T>
int layers_backward(const statecast_backward_args *layers, int64_t count) {
    BY_CELL(layers->forward.cell, backward_layers, layers, count)
}

template <class T>
int stack_of(const statecast_stack_args *a){BY_CELL(a -> cell, stack, *a)}

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)

} // namespace

extern const Scores JOIN(scores_, STATECAST_INSTRUCTIONS);
extern const Softmax JOIN(softmax_, STATECAST_INSTRUCTIONS);
extern const Counts JOIN(counts_, STATECAST_INSTRUCTIONS);
extern const Weighted JOIN(weighted_, STATECAST_INSTRUCTIONS);
extern const Kernels JOIN(kernels_, STATECAST_INSTRUCTIONS) = {
    NAME(STATECAST_INSTRUCTIONS),
    {saved_bytes<float>, saved_bytes<double>},
    {packed_bytes<float>, packed_bytes<double>},
    {pack_of<float>, pack_of<double>},
    {forward_of<float>, forward_of<double>},
    {backward_of<float>, backward_of<double>},
    {layers_saved_bytes<float>, layers_saved_bytes<double>},
    {layers_forward<float>, layers_forward<double>},
    {layers_backward<float>, layers_backward<double>},
    stack_of<float>,
    &JOIN(scores_, STATECAST_INSTRUCTIONS),
    &JOIN(softmax_, STATECAST_INSTRUCTIONS),
    &JOIN(counts_, STATECAST_INSTRUCTIONS),
    &JOIN(weighted_, STATECAST_INSTRUCTIONS),
};

} // namespace statecast
