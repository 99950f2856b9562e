/* Several layers of cells in a closed loop, forward and backward. A tile of rows runs all layers and all steps by
 * itself. `saved` is [member][tile][layer], of each layer as in a call of one layer with a mask. */
#ifndef STATECAST_LAYERS_H
#define STATECAST_LAYERS_H

#include "backward.h"
#include "forward.h"

#include <new>

namespace statecast {
namespace {

/* Room for the layers, which have no default constructor. */
template <class Layer>
struct Places {
    alignas(Layer) char memory[STATECAST_MOST_LAYERS * sizeof(Layer)];
    Layer *layers() { return reinterpret_cast<Layer *>(memory); }
};
/* The buffers of a layer begin at a whole vector. */
inline size_t whole_vectors(size_t bytes) { return (bytes + VECTOR_BYTES - 1) / VECTOR_BYTES * VECTOR_BYTES; }
template <class T>
T *after(T *memory, size_t bytes) {
    return memory + whole_vectors(bytes) / sizeof(T);
}

/* A layer's arguments, with what it has in common with the first. */
inline statecast_forward_args layer_of(const statecast_forward_args &first,
                                       const statecast_forward_args &layer) {
    statecast_forward_args own = layer;
    own.mask = first.mask;
    return own;
}

template <class T, int CELL>
struct ForwardOfLayers {
    typedef Forward<T, CELL> Layer;
    typedef typename Layer::Rest Rest;
    const statecast_forward_args &a; /* the first layer's */
    const Layer *layers;
    const int64_t count;

    size_t memory() const {
        int64_t numbers = layers->z.padded + layers->z.height * layers->z.inputs;
        for (int64_t l = 0; l < count; ++l) numbers += layers[l].rest_size();
        return (size_t)numbers * sizeof(T);
    }

    static void pack_task(void *self, int64_t item) {
        const ForwardOfLayers &f = *static_cast<ForwardOfLayers *>(self);
        const int64_t each = f.layers->z.members * f.layers->z.blocks;
        Layer::pack_task(const_cast<Layer *>(f.layers + item / each), item % each);
    }
    static void task(void *self, int64_t item) { static_cast<ForwardOfLayers *>(self)->tile(item); }

    void tile(int64_t item) {
        const Sizes<T, CELL> &z = layers->z;
        const int64_t member = item / z.tiles, tile = item % z.tiles, rows = z.count(tile);
        const int64_t first = member * z.rows + tile * z.height, U = z.units;
        const size_t bytes = (size_t)U * sizeof(T);
        T *own = static_cast<T *>(scratch(TASK, memory()));
        memset(own, 0, memory());
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        Rest rest[STATECAST_MOST_LAYERS];
        for (int64_t l = 0; l < count; own += layers[l++].rest_size()) {
            rest[l] = layers[l].rest_in(own);
            const T *h0 = of<T>(layers[l].a.h0) + first * U, *c0 = offset(of<T>(layers[l].a.c0), first * U);
            for (int64_t r = 0; r < rows; ++r) layers[l].put(r, rest[l], r, h0, c0);
        }
        const Rest &top = rest[count - 1];
        T *feed = own, *x_now = feed + z.padded;
        memcpy(feed, of<T>(a.feed) + member * U, bytes);
        const uint8_t *mask = offset(a.mask, first * z.steps);
        T *y = offset(of<T>(a.y), first * z.steps * U), *saved = offset(of<T>(a.saved), item * count * z.tile);
        static const uint8_t every = 1; /* states are saved with a mask only; this one skips no step */
        for (int64_t t = 0; t < z.steps; ++t) {
            BlockStep<T> at = {};
            layers->close_loop(member, first, rows, t, top.h, feed,
                               of<T>(a.x) + (first * z.steps + t) * z.inputs, x_now);
            at.x = x_now;
            at.x_stride = z.inputs;
            at.mask = mask ? mask + t : &every;
            at.flag_stride = mask ? z.steps : 0;
            at.saved = offset(saved, t * z.step);
            advance_all(layers, count, at, rest, member, rows);
            layers->put_outputs(top, rows, t, mask, y, 0, bytes);
        }
        for (int64_t l = 0; l < count; ++l)
            layers[l].put_state(rest[l], rows, of<T>(layers[l].a.hn) + first * U,
                                offset(of<T>(layers[l].a.cn), first * U), 0, bytes);
    }
};

template <class T, int CELL>
int forward_layers(const statecast_forward_args *args, int64_t count) {
    typedef Forward<T, CELL> Layer;
    statecast_forward_args own[STATECAST_MOST_LAYERS];
    Places<Layer> places;
    Layer *layers = places.layers();
    int64_t packed = 0;
    for (int64_t l = 0; l < count; ++l) {
        own[l] = layer_of(args[0], args[l]);
        new (layers + l) Layer{own[l], Sizes<T, CELL>(own[l], true), nullptr};
        packed += layers[l].z.members * layers[l].z.packed;
    }
    const statecast_forward_args &a = args[0];
    const Sizes<T, CELL> &z = layers->z;
    ForwardOfLayers<T, CELL> f = {a, layers, count};
    T *memory = static_cast<T *>(scratch(CALL, (size_t)packed * sizeof(T)));
    if (!memory || !scratch(TASK, f.memory())) return STATECAST_NO_MEMORY;
    for (int64_t l = 0; l < count; memory += z.members * layers[l++].z.packed) layers[l].packed = memory;
    if (a.saved) {
        large_pages(a.saved, (size_t)(z.members * z.tiles * count * z.tile) * sizeof(T));
        large_pages(a.y, (size_t)(z.members * z.rows * z.steps * z.units) * sizeof(T));
    }
    const Host host = {a.threads, a.openmp};
    parallel(count * z.members * z.blocks, f.pack_task, &f, host);
    parallel(z.members * z.tiles, f.task, &f, host);
    return STATECAST_OK;
}

template <class T, int CELL>
struct BackwardOfLayers {
    typedef Backward<T, CELL> Layer;
    Layer *layers;
    const int64_t count;

    size_t memory() const { /* of a task */
        size_t bytes = 0;
        for (int64_t l = 0; l < count; ++l) bytes += whole_vectors(layers[l].memory());
        return bytes;
    }

    static void pack_task(void *self, int64_t item) {
        const BackwardOfLayers &k = *static_cast<BackwardOfLayers *>(self);
        const int64_t each = k.layers->z.members;
        Layer::pack_task(k.layers + item / each, item % each);
    }
    static void reduce_task(void *self, int64_t item) {
        const BackwardOfLayers &k = *static_cast<BackwardOfLayers *>(self);
        const int64_t each = k.layers->z.members * k.layers->z.blocks;
        Layer::reduce_task(k.layers + item / each, item % each);
    }
    static void task(void *self, int64_t item) {
        BackwardOfLayers &k = *static_cast<BackwardOfLayers *>(self);
        const Sizes<T, CELL> &z = k.layers->z;
        const int64_t member = item / z.shares, share = item % z.shares;
        T *sum[STATECAST_MOST_LAYERS];
        for (int64_t l = 0; l < k.count; ++l) {
            sum[l] = k.layers[l].partial + item * k.layers[l].sums;
            memset(sum[l], 0, (size_t)k.layers[l].sums * sizeof(T));
        }
        for (int64_t t = share * z.share; t < z.tiles && t < (share + 1) * z.share; ++t) k.tile(member, t, sum);
    }

    void tile(int64_t member, int64_t tile, T *const *sum) {
        const Sizes<T, CELL> &z = layers->z;
        const int64_t top = count - 1;
        T *own = static_cast<T *>(scratch(TASK, memory()));
        memset(own, 0, memory());
        [[maybe_unused]] const std::conditional_t<TILED<T>, Tiles, int> tiles{};
        typename Layer::Tile at[STATECAST_MOST_LAYERS];
        const T *saved = of<T>(layers->a.saved) + (member * z.tiles + tile) * count * z.tile;
        for (int64_t l = 0; l < count; own = after(own, layers[l++].memory()))
            at[l] = layers[l].begin(member, tile, saved + l * z.tile, l ? at[l - 1].saved : nullptr, own);
        const T *given = offset(of<T>(layers[top].b.dy), at->first * z.steps * z.units);
        for (int64_t t = z.steps - 1; t >= 0; --t) {
            /* The gradients of a layer's outputs are those of the inputs of the one above. */
            const T *dy = offset(given, t * z.units);
            int64_t stride = z.steps * z.units;
            for (int64_t l = top; l >= 0; --l) {
                layers[l].to_state(at[l], member, t, dy, stride);
                if (layers[l].wt) layers[l].to_x(at[l], member);
                dy = at[l].dx;
                stride = layers[l].inputs;
            }
            layers->open_loop(member, at[0], t, at[top], layers[top].in_of(at[top]), layers[top].wide,
                              sum[0] + layers->weight_sums);
            if (layers->wt) layers->put_dx(at[0], t);
            for (int64_t l = 0; l < count; ++l) layers[l].add_weights(at[l], t, sum[l]);
        }
        for (int64_t l = 0; l < count; ++l) layers[l].end(at[l]);
    }
};

template <class T, int CELL>
int backward_layers(const statecast_backward_args *args, int64_t count) {
    typedef Backward<T, CELL> Layer;
    statecast_backward_args own[STATECAST_MOST_LAYERS];
    Places<Layer> places;
    Layer *layers = places.layers();
    size_t shared = 0;
    for (int64_t l = 0; l < count; ++l) {
        own[l] = args[l];
        own[l].forward = layer_of(args->forward, args[l].forward);
        own[l].dy = l + 1 == count ? args->dy : nullptr;
        new (layers + l) Layer(own[l], l > 0 || args->dx, true);
        shared += whole_vectors(layers[l].shared());
    }
    BackwardOfLayers<T, CELL> k = {layers, count};
    T *memory = static_cast<T *>(scratch(CALL, shared));
    if (!memory || !scratch(TASK, k.memory())) return STATECAST_NO_MEMORY;
    for (int64_t l = 0; l < count; memory = after(memory, layers[l++].shared())) layers[l].place(memory);
    const Sizes<T, CELL> &z = layers->z;
    const Host host = {args->forward.threads, args->forward.openmp};
    parallel(count * z.members, k.pack_task, &k, host);
    parallel(z.members * z.shares, k.task, &k, host);
    parallel(count * z.members * z.blocks, k.reduce_task, &k, host);
    return STATECAST_OK;
}

template <class T, int CELL>
int64_t saved_size_of_layers(const statecast_forward_args *args, int64_t count) {
    const Sizes<T, CELL> z(*args, true);
    return z.members * z.tiles * count * z.tile * (int64_t)sizeof(T);
}

} // namespace
} // namespace statecast
#endif
