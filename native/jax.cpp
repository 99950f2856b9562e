/* The kernel as XLA custom calls, through XLA's C interface, on XLA's own buffers.
 *
 * Buffers come in the order of statecast.h, without those that a call does not have. The attribute `has`
 * says which it has. Additional axes before that of the members (from vmap) count as members. The attribute
 * `layers` is the number of layers in a closed loop; without it a call has one layer. What the upper layers have
 * comes after all that the first one has, among the arguments, the gradients and the results.
 */
#include "statecast.h"
#include "xla/ffi/api/c_api.h"

#include <string.h>

namespace {

enum Has {
    BIAS = 1,
    MASK = 2,
    RESETS = 4,
    SAVED = 8,
    DX = 16,
    DY = 32,
    DHN = 64,
    DCN = 128,
    OBSERVED = 256,
    DFED = 512,
    ABOVE = 1024 /* the gradient of the second layer's hn; the next bits are of its cn, and of further layers */
};
enum HasScore { FIRST = 1 };

XLA_FFI_Error *error(const XLA_FFI_CallFrame *frame, const char *message, XLA_FFI_Error_Code code) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message, code};
    return frame->api->XLA_FFI_Error_Create(&args);
}

XLA_FFI_Error *answer(const XLA_FFI_CallFrame *frame, int status) {
    switch (status) {
        case STATECAST_OK: return nullptr;
        case STATECAST_TOO_LARGE:
            return error(frame, "statecast: the problem is too large", XLA_FFI_Error_Code_INVALID_ARGUMENT);
        case STATECAST_NO_MEMORY:
            return error(frame, "statecast: out of memory", XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
        default: return error(frame, "statecast: buffers that do not fit", XLA_FFI_Error_Code_INVALID_ARGUMENT);
    }
}

/* XLA asks once which version of its interface this was built for. */
bool asks_version(const XLA_FFI_CallFrame *frame) {
    XLA_FFI_Extension_Base *extension = frame->extension_start;
    if (!extension || extension->type != XLA_FFI_Extension_Metadata) return false;
    XLA_FFI_Metadata *metadata = reinterpret_cast<XLA_FFI_Metadata_Extension *>(extension)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = 0;
    return true;
}

/* The attribute of a name and type, or null. */
void *attribute(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_AttrType type) {
    for (int64_t i = 0; i < frame->attrs.size; ++i) {
        const XLA_FFI_ByteSpan *found = frame->attrs.names[i];
        if (found->len == strlen(name) && memcmp(found->ptr, name, found->len) == 0 &&
            frame->attrs.types[i] == type)
            return frame->attrs.attrs[i];
    }
    return nullptr;
}
int64_t number(const XLA_FFI_CallFrame *frame, const char *name) {
    void *found = attribute(frame, name, XLA_FFI_AttrType_SCALAR);
    return found ? *static_cast<int64_t *>(static_cast<XLA_FFI_Scalar *>(found)->value) : -1;
}
double real(const XLA_FFI_CallFrame *frame, const char *name) {
    void *found = attribute(frame, name, XLA_FFI_AttrType_SCALAR);
    return found ? *static_cast<double *>(static_cast<XLA_FFI_Scalar *>(found)->value) : 0.0;
}
const XLA_FFI_Array *numbers(const XLA_FFI_CallFrame *frame, const char *name) {
    void *found = attribute(frame, name, XLA_FFI_AttrType_ARRAY);
    const XLA_FFI_Array *array = static_cast<XLA_FFI_Array *>(found);
    return array && array->dtype == XLA_FFI_DataType_F64 ? array : nullptr;
}
int64_t dtype_of(const XLA_FFI_Buffer *x) {
    return x->dtype == XLA_FFI_DataType_F32   ? STATECAST_F32
           : x->dtype == XLA_FFI_DataType_F64 ? STATECAST_F64
                                              : -1;
}
int64_t members_of(const XLA_FFI_Buffer *x, int64_t own) { /* all axes before the last `own` */
    int64_t members = 1;
    for (int64_t i = 0; i < x->rank - own; ++i) members *= x->dims[i];
    return members;
}

/* The buffers one after the other; never null, although XLA's are for empty arrays. */
class Buffers {
  public:
    Buffers(void **buffers, int64_t size) : buffers_(buffers), left_(size) {}
    const XLA_FFI_Buffer *peek() const { return static_cast<XLA_FFI_Buffer *>(*buffers_); }
    void *next() {
        if (left_-- <= 0) return nullptr;
        static double nothing;
        void *data = static_cast<XLA_FFI_Buffer *>(*buffers_++)->data;
        return data ? data : &nothing;
    }
    bool all_taken() const { return left_ == 0; }

  private:
    void **buffers_;
    int64_t left_;
};

const uint8_t *flags(Buffers &buffers) { return static_cast<const uint8_t *>(buffers.next()); }

/* The arguments that forward and backward share. */
bool read(const XLA_FFI_CallFrame *frame, Buffers &in, int64_t has, statecast_forward_args &a) {
    a = {};
    a.cell = number(frame, "cell");
    a.threads = number(frame, "threads");
    if (frame->args.size < 4) return false;
    const XLA_FFI_Buffer *x = in.peek();
    if (x->rank < 4) return false;
    a.dtype = dtype_of(x);
    a.members = members_of(x, 3);
    a.rows = x->dims[x->rank - 3];
    a.steps = x->dims[x->rank - 2];
    a.inputs = x->dims[x->rank - 1];
    const bool lstm = a.cell == STATECAST_LSTM;
    a.x = in.next();
    if (in.peek()->dtype == XLA_FFI_DataType_BF16) { /* w, and then u, too */
        if (a.dtype != STATECAST_F32) return false;
        a.dtype = STATECAST_BF16;
    }
    a.w = in.next();
    const XLA_FFI_Buffer *u = in.peek();
    a.units = u->dims[u->rank - 2];
    a.u = in.next();
    if (has & BIAS) a.bias = in.next();
    a.h0 = in.next();
    if (lstm) a.c0 = in.next();
    if (has & MASK) a.mask = flags(in);
    if (has & RESETS) {
        a.resets = flags(in);
        a.hr = in.next();
        if (lstm) a.cr = in.next();
    }
    if (has & OBSERVED) {
        a.observed = flags(in);
        a.feed = in.next();
        a.base = in.next();
        a.decay = in.next();
        a.last = in.next();
    }
    return true;
}

/* The number of layers; 0 if it is not allowed. */
int64_t layers_of(const XLA_FFI_CallFrame *frame) {
    if (!attribute(frame, "layers", XLA_FFI_AttrType_SCALAR)) return 1;
    const int64_t layers = number(frame, "layers");
    return layers > 1 && layers <= STATECAST_MOST_LAYERS ? layers : 0;
}

/* The arguments of an upper layer. */
void read_above(Buffers &in, int64_t has, const statecast_forward_args &first, statecast_forward_args &a) {
    a = {};
    a.cell = first.cell, a.dtype = first.dtype;
    a.members = first.members, a.rows = first.rows, a.steps = first.steps;
    a.inputs = a.units = first.units;
    a.w = in.next();
    a.u = in.next();
    if (has & BIAS) a.bias = in.next();
    a.h0 = in.next();
    if (a.cell == STATECAST_LSTM) a.c0 = in.next();
}

/* The gradients of a layer's weights and initial state. */
void put_gradients(Buffers &out, int64_t has, statecast_backward_args &b) {
    b.dw = out.next();
    b.du = out.next();
    if (has & BIAS) b.dbias = out.next();
    b.dh0 = out.next();
    if (b.forward.cell == STATECAST_LSTM) b.dc0 = out.next();
}

bool read(const XLA_FFI_CallFrame *frame, Buffers &in, statecast_score_args &a) {
    a = {};
    const XLA_FFI_Array *levels = numbers(frame, "levels"), *gaps = numbers(frame, "gaps");
    if (frame->args.size < 7 || !levels || !gaps) return false;
    const XLA_FFI_Buffer *outputs = in.peek();
    if (outputs->rank < 4) return false;
    a.dtype = dtype_of(outputs);
    a.members = members_of(outputs, 3);
    a.rows = outputs->dims[outputs->rank - 3];
    a.steps = outputs->dims[outputs->rank - 2];
    a.units = outputs->dims[outputs->rank - 1];
    a.levels = static_cast<const double *>(levels->data);
    a.gaps = static_cast<const double *>(gaps->data);
    a.smallest = real(frame, "smallest");
    a.threads = number(frame, "threads");
    a.head = number(frame, "head");
    a.outputs = in.next();
    a.taken = in.next();
    if (number(frame, "has") & FIRST) {
        a.first = in.next();
        a.last = in.next();
    }
    const XLA_FFI_Buffer *kernel = in.peek();
    a.parameters = kernel->dims[kernel->rank - 1];
    a.kernel = in.next();
    a.base = in.next();
    a.decay = in.next();
    a.target = in.next();
    a.weight = in.next();
    /* As many numbers as the head reads from the two arrays. */
    const int64_t P = a.parameters, gaps_of[] = {0, P - 1, 1, 1, 5, 6};
    if (a.head < 0 || a.head > STATECAST_NEGATIVE_BINOMIAL || (int64_t)gaps->size != gaps_of[a.head])
        return false;
    return a.head != STATECAST_QUANTILES || (int64_t)levels->size == P;
}

} // namespace

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *statecast_jax_forward(
    XLA_FFI_CallFrame *frame) {
    if (asks_version(frame)) return nullptr;
    const int64_t has = number(frame, "has");
    Buffers in(frame->args.args, frame->args.size), out(frame->rets.rets, frame->rets.size);
    const int64_t count = layers_of(frame);
    statecast_forward_args layers[STATECAST_MOST_LAYERS], &a = layers[0];
    if (!count || !read(frame, in, has, a)) return answer(frame, STATECAST_BAD_ARGUMENT);
    for (int64_t l = 1; l < count; ++l) read_above(in, has, a, layers[l]);
    a.y = out.next();
    if (has & OBSERVED) a.fed = out.next();
    for (int64_t l = 0; l < count; ++l) {
        layers[l].hn = out.next();
        if (a.cell == STATECAST_LSTM) layers[l].cn = out.next();
    }
    if (has & SAVED) a.saved = out.next();
    if (!in.all_taken() || !out.all_taken()) return answer(frame, STATECAST_BAD_ARGUMENT);
    return answer(frame, count > 1 ? statecast_layers_forward(layers, count) : statecast_forward(&a));
}

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *statecast_jax_backward(
    XLA_FFI_CallFrame *frame) {
    if (asks_version(frame)) return nullptr;
    const int64_t has = number(frame, "has");
    Buffers in(frame->args.args, frame->args.size), out(frame->rets.rets, frame->rets.size);
    const int64_t count = layers_of(frame);
    statecast_backward_args layers[STATECAST_MOST_LAYERS], &b = layers[0];
    statecast_forward_args &a = b.forward;
    b = {};
    if (!count || !read(frame, in, has, a)) return answer(frame, STATECAST_BAD_ARGUMENT);
    for (int64_t l = 1; l < count; ++l) {
        layers[l] = {};
        read_above(in, has, a, layers[l].forward);
    }
    const bool lstm = a.cell == STATECAST_LSTM;
    a.y = in.next();
    if (has & OBSERVED) a.fed = in.next();
    a.saved = in.next();
    if (has & DY) b.dy = in.next();
    if (has & DFED) b.dfed = in.next();
    if (has & DHN) b.dhn = in.next();
    if (has & DCN) b.dcn = in.next();
    int64_t bit = ABOVE;
    for (int64_t l = 1; l < count; ++l, bit <<= 2) {
        if (has & bit) layers[l].dhn = in.next();
        if (has & bit << 1) layers[l].dcn = in.next();
    }
    if (has & DX) b.dx = out.next();
    put_gradients(out, has, b);
    if (has & RESETS) {
        b.dhr = out.next();
        if (lstm) b.dcr = out.next();
    }
    if (has & OBSERVED) {
        b.dfeed = out.next();
        b.dbase = out.next();
        b.ddecay = out.next();
        b.dlast = out.next();
    }
    for (int64_t l = 1; l < count; ++l) put_gradients(out, has, layers[l]);
    if (!in.all_taken() || !out.all_taken()) return answer(frame, STATECAST_BAD_ARGUMENT);
    return answer(frame, count > 1 ? statecast_layers_backward(layers, count) : statecast_backward(&b));
}

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *statecast_jax_score(XLA_FFI_CallFrame *frame) {
    if (asks_version(frame)) return nullptr;
    Buffers in(frame->args.args, frame->args.size), out(frame->rets.rets, frame->rets.size);
    statecast_score_args a;
    if (!read(frame, in, a)) return answer(frame, STATECAST_BAD_ARGUMENT);
    a.score = out.next();
    if (!in.all_taken() || !out.all_taken()) return answer(frame, STATECAST_BAD_ARGUMENT);
    return answer(frame, statecast_score(&a));
}

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *statecast_jax_score_gradients(
    XLA_FFI_CallFrame *frame) {
    if (asks_version(frame)) return nullptr;
    Buffers in(frame->args.args, frame->args.size), out(frame->rets.rets, frame->rets.size);
    statecast_score_gradients_args g = {};
    if (!read(frame, in, g.forward)) return answer(frame, STATECAST_BAD_ARGUMENT);
    g.dscore = in.next();
    g.doutputs = out.next();
    g.dtaken = out.next();
    if (g.forward.first) {
        g.dfirst = out.next();
        g.dlast = out.next();
    }
    g.dkernel = out.next();
    g.dbase = out.next();
    g.ddecay = out.next();
    if (!in.all_taken() || !out.all_taken()) return answer(frame, STATECAST_BAD_ARGUMENT);
    return answer(frame, statecast_score_gradients(&g));
}
