/* Memory, the choice of an instruction set, and the checks of what a call asks for. */
#include "services.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef STATECAST_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>

namespace statecast {
namespace {

/* -- memory ---------------------------------------------------------------------------------- */

constexpr size_t LARGE = 1u << 21; /* a large page */

struct Memory {
    void *block[USES] = {};
    size_t size[USES] = {};
    ~Memory() {
        for (void *b : block) free(b);
    }
};
thread_local Memory memory;

} // namespace

void large_pages(void *memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t begin = ((uintptr_t)memory + LARGE - 1) / LARGE * LARGE;
    const uintptr_t end = ((uintptr_t)memory + bytes) / LARGE * LARGE;
    if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
}

void *scratch(Use use, size_t bytes) {
    if (bytes <= memory.size[use] && memory.block[use]) return memory.block[use];
    free(memory.block[use]);
    memory.block[use] = nullptr;
    memory.size[use] = 0;
    const size_t page = bytes >= LARGE ? LARGE : 4096;
    const size_t size = (bytes + page - 1) / page * page + (bytes == 0 ? page : 0);
    void *block = nullptr;
    if (posix_memalign(&block, page, size)) return nullptr;
    large_pages(block, size);
    memory.block[use] = block;
    memory.size[use] = size;
    return block;
}

/* -- the choice ------------------------------------------------------------------------------ */

#define KERNELS(name) extern const Kernels kernels_##name;
KERNELS(portable)
#ifdef STATECAST_X86
KERNELS(avx2)
KERNELS(avx512)
#ifdef STATECAST_AVX512_BF16
KERNELS(avx512_bf16)
#endif
#ifdef STATECAST_AMX
KERNELS(amx)
#endif
#endif
#ifdef STATECAST_ARM
KERNELS(neon)
#endif

namespace {

#ifdef STATECAST_X86
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma");
}
#endif
#ifdef STATECAST_AMX
/* Linux permits matrix tiles to a process that asks, if it can save them when threads switch. It refuses if
 * a signal's stack would be too small for them. */
bool has_tiles() {
#ifdef STATECAST_SOFT_TILES
    return true;
#else
    unsigned a, b, c, d;
    const unsigned tiles = 1u << 24, bf16 = 1u << 22;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & tiles) || !(d & bf16)) return false;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#endif
}
#endif

bool runs(const Kernels &k) {
#ifdef STATECAST_AMX
    if (&k == &kernels_amx) return has_avx512() && has_tiles();
#endif
#ifdef STATECAST_X86
    if (&k == &kernels_avx512) return has_avx512();
#ifdef STATECAST_AVX512_BF16
    if (&k == &kernels_avx512_bf16) return has_avx512() && __builtin_cpu_supports("avx512bf16");
#endif
    if (&k == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

/* Best first. */
const Kernels *const all[] = {
#ifdef STATECAST_AMX
    &kernels_amx,
#endif
#ifdef STATECAST_AVX512_BF16
    &kernels_avx512_bf16,
#endif
#ifdef STATECAST_X86
    &kernels_avx512,      &kernels_avx2,
#endif
#ifdef STATECAST_ARM
    &kernels_neon,
#endif
    &kernels_portable,
};

std::atomic<const Kernels *> chosen{nullptr};

const Kernels &kernels() {
    if (!chosen.load()) statecast_use(getenv("STATECAST_INSTRUCTIONS"));
    if (!chosen.load()) statecast_use(nullptr);
    return *chosen.load();
}

/* -- what a call asks for -------------------------------------------------------------------- */

int check(const statecast_forward_args &a) {
    if (a.cell < STATECAST_RNN || a.cell > STATECAST_LSTM) return STATECAST_BAD_ARGUMENT;
    if (a.dtype < STATECAST_F32 || a.dtype > STATECAST_BF16) return STATECAST_BAD_ARGUMENT;
    if (a.members < 0 || a.rows < 0 || a.steps < 0 || a.inputs < 0 || a.units < 1 || a.codes < 0)
        return STATECAST_BAD_ARGUMENT;
    /* The largest buffers, with what is added to fill vectors and tiles. */
    const int64_t columns = 4;
    int64_t n, weights;
    const int64_t units = a.units, inputs = a.inputs, rows = a.rows, steps = a.steps;
    if (units > (1 << 24) || inputs > (1 << 24) || a.codes > (1 << 24)) return STATECAST_TOO_LARGE;
    if (__builtin_mul_overflow(units + inputs + a.codes + 64, (units + 64) * columns * 8 * 32, &weights) ||
        __builtin_mul_overflow(weights, a.members + 1, &weights))
        return STATECAST_TOO_LARGE;
    if (rows > (INT64_MAX >> 1) || __builtin_mul_overflow(rows + 64, a.members + 1, &n) ||
        __builtin_mul_overflow(n, steps + 1, &n) ||
        __builtin_mul_overflow(n, (units + inputs + 64) * 6 * 8, &n))
        return STATECAST_TOO_LARGE;
    return STATECAST_OK;
}

/* The sizes of a loop of several layers. What `of` has of a layer is its call. */
template <class Args>
int check(const Args *layers, int64_t count, const statecast_forward_args &(*of)(const Args &)) {
    if (!layers || count < 1 || count > STATECAST_MOST_LAYERS) return STATECAST_BAD_ARGUMENT;
    const statecast_forward_args &first = of(layers[0]);
    for (int64_t l = 0; l < count; ++l) {
        const statecast_forward_args &a = of(layers[l]);
        if (const int wrong = check(a)) return wrong;
        if (a.cell != first.cell || a.dtype != first.dtype || a.members != first.members ||
            a.rows != first.rows || a.steps != first.steps || a.units != first.units ||
            (l && a.inputs != a.units) || a.codes)
            return STATECAST_BAD_ARGUMENT;
    }
    /* Their buffers together. */
    statecast_forward_args whole = first;
    if (first.inputs < first.units) whole.inputs = first.units;
    if (__builtin_mul_overflow(first.members, count, &whole.members)) return STATECAST_TOO_LARGE;
    return check(whole);
}
const statecast_forward_args &itself(const statecast_forward_args &a) { return a; }
const statecast_forward_args &forward_of(const statecast_backward_args &b) { return b.forward; }

/* Whether a head of this family has this number of raw numbers. */
bool has_size(int64_t head, int64_t parameters) {
    switch (head) {
        case STATECAST_QUANTILES: return parameters >= 3 && parameters % 2;
        case STATECAST_POISSON: return parameters == 1;
        case STATECAST_NORMAL:
        case STATECAST_NEGATIVE_BINOMIAL: return parameters == 2;
        case STATECAST_STUDENT_T: return parameters == 3;
        default: return false;
    }
}

int check(const statecast_stack_args &a) {
    statecast_forward_args whole = {};
    whole.cell = a.cell, whole.members = a.members, whole.rows = a.rows, whole.steps = a.steps;
    whole.inputs = a.inputs, whole.units = a.units;
    if (const int wrong = check(whole)) return wrong;
    const bool lstm = a.cell == STATECAST_LSTM;
    if (a.layers < 1 || a.layers > STATECAST_MOST_LAYERS || !a.layer || !a.x) return STATECAST_BAD_ARGUMENT;
    for (int64_t l = 0; l < a.layers; ++l) {
        const statecast_layer &own = a.layer[l];
        if (!own.packed || !own.h0 || (lstm && !own.c0)) return STATECAST_BAD_ARGUMENT;
        if (!a.level && (!own.hn || (lstm && !own.cn))) return STATECAST_BAD_ARGUMENT;
    }
    const bool draws = a.level, quantiles = a.head == STATECAST_QUANTILES;
    if (a.observed && (a.inputs < 1 || !a.feed || !a.base || !a.decay || !a.last || !a.fed))
        return STATECAST_BAD_ARGUMENT;
    if (!a.head) return draws || a.quantiles || (!a.observed && !a.y) ? STATECAST_BAD_ARGUMENT : STATECAST_OK;
    if (a.head < 0 || a.head > STATECAST_STUDENT_T || !a.constant || !a.kernel || !a.gaps || !a.decay ||
        !a.last || !a.fed || a.inputs < 1 || draws == !!a.observed || draws == !!a.quantiles)
        return STATECAST_BAD_ARGUMENT;
    if (draws && (a.mask || a.y || (!quantiles && !a.deviate))) return STATECAST_BAD_ARGUMENT;
    if (a.count < 0 || a.count > (1 << 16) || (a.count && (!a.levels || (!quantiles && !a.deviates))))
        return STATECAST_BAD_ARGUMENT;
    if (!has_size(a.head, a.parameters) || (quantiles && a.count != a.parameters))
        return STATECAST_BAD_ARGUMENT;
    int64_t n;
    if (a.parameters > (1 << 16) || __builtin_mul_overflow(a.rows + 64, a.members + 1, &n) ||
        __builtin_mul_overflow(n, a.steps + 1, &n) ||
        __builtin_mul_overflow(n, (a.units + a.parameters + a.count + 64) * 8, &n))
        return STATECAST_TOO_LARGE;
    return STATECAST_OK;
}

int check(const statecast_score_args &a) {
    if (a.dtype != STATECAST_F32 && a.dtype != STATECAST_F64) return STATECAST_BAD_ARGUMENT;
    if (a.members < 0 || a.rows < 0 || a.steps < 0 || a.units < 1) return STATECAST_BAD_ARGUMENT;
    const bool quantiles = a.head == STATECAST_QUANTILES;
    if (!has_size(a.head, a.parameters)) return STATECAST_BAD_ARGUMENT;
    if (!quantiles && a.dtype != STATECAST_F32) return STATECAST_BAD_ARGUMENT;
    int64_t n;
    if (a.units > (1 << 24) || a.parameters > (1 << 16)) return STATECAST_TOO_LARGE;
    if (a.rows > (INT64_MAX >> 1) || __builtin_mul_overflow(a.rows + 64, a.members + 1, &n) ||
        __builtin_mul_overflow(n, a.steps + 1, &n) ||
        __builtin_mul_overflow(n, (a.units + 64) * (a.parameters + 64) * 8, &n))
        return STATECAST_TOO_LARGE;
    const bool there = a.outputs && a.taken && a.kernel && a.base && a.decay && a.target && a.weight &&
                       (a.levels || !quantiles) && a.gaps && !a.first == !a.last;
    return there ? STATECAST_OK : STATECAST_BAD_ARGUMENT;
}

int check(const statecast_softmax_args &a) {
    if (a.members < 1 || a.rows < 0 || a.units < 1 || a.tokens < 1 || a.best < 0) return STATECAST_BAD_ARGUMENT;
    int64_t n;
    if (a.units > (1 << 24) || a.tokens > (1 << 30) || a.best > a.tokens) return STATECAST_TOO_LARGE;
    if (__builtin_mul_overflow(a.units + 1, (a.tokens + 64) * 8, &n) ||
        __builtin_mul_overflow(n, a.members, &n) || a.rows > (INT64_MAX >> 1) ||
        __builtin_mul_overflow(a.rows + 64, a.members, &n) ||
        __builtin_mul_overflow(n, (a.units + a.tokens + 64) * 8, &n))
        return STATECAST_TOO_LARGE;
    return STATECAST_OK;
}

int check(const statecast_counts_args &a) {
    int64_t n;
    if (a.cases < 0 || a.levels < 0) return STATECAST_BAD_ARGUMENT;
    if (a.levels > (1 << 30) || __builtin_mul_overflow(a.cases, a.levels + 64, &n) || n > (INT64_MAX >> 4))
        return STATECAST_TOO_LARGE;
    if (a.cases > 0 && a.levels > 0 && (!a.mean || !a.level || !a.deviate || !a.count))
        return STATECAST_BAD_ARGUMENT;
    return STATECAST_OK;
}

int check(const statecast_weighted_args &a) {
    int64_t n;
    if (a.rows < 0 || a.near < 1 || a.items < 1 || a.first < 0 || a.steps < a.first || a.stride < a.steps ||
        a.levels < 1)
        return STATECAST_BAD_ARGUMENT;
    if (a.near > (1 << 24) || a.levels > (1 << 24) || __builtin_mul_overflow(a.rows, a.near, &n) ||
        __builtin_mul_overflow(a.items, a.stride, &n) || n > (INT64_MAX >> 4) ||
        __builtin_mul_overflow(a.rows, a.steps, &n) || __builtin_mul_overflow(n, a.levels * 8, &n))
        return STATECAST_TOO_LARGE;
    if (!a.values || !a.item || !a.weight || !a.level || !a.out) return STATECAST_BAD_ARGUMENT;
    for (int64_t i = 0; i < a.rows * a.near; ++i)
        if (a.item[i] < 0 || a.item[i] >= a.items) return STATECAST_BAD_ARGUMENT;
    return STATECAST_OK;
}

} // namespace
} // namespace statecast

using namespace statecast;

namespace {

/* Whether numbers are of float64. */
bool doubled(const statecast_forward_args *a) { return a->dtype == STATECAST_F64; }

/* Whether the buffers that go together are there together. */
bool complete(const statecast_forward_args &a) {
    const bool lstm = a.cell == STATECAST_LSTM;
    if (!a.x || !a.h0 || (lstm && !a.c0)) return false;
    if (a.resets && (!a.hr || (lstm && !a.cr))) return false;
    if ((a.source || a.codes) && a.saved) return false;
    const auto within = [](const int64_t *index, int64_t count, int64_t end) {
        for (int64_t i = 0; index && i < count; ++i)
            if (index[i] < 0 || index[i] >= end) return false;
        return true;
    };
    if (!within(a.source, a.rows, a.sources)) return false;
    if (a.codes && (!a.code || !within(a.code, a.members * a.rows * a.steps, a.codes))) return false;
    return !a.observed || (!a.resets && a.inputs > 0 && a.feed && a.base && a.decay && a.last && a.fed);
}

/* The same of a loop's layer, the first or another. */
bool complete(const statecast_forward_args &a, bool first) {
    const bool lstm = a.cell == STATECAST_LSTM;
    if (!a.w || !a.u || !a.h0 || (lstm && !a.c0) || a.resets || a.source || a.packed) return false;
    if (first) return a.observed && complete(a);
    return !a.x && !a.mask && !a.observed && !a.feed && !a.base && !a.decay && !a.last && !a.y && !a.fed &&
           !a.saved;
}

} // namespace

int64_t statecast_interface(void) { return STATECAST_INTERFACE; }

const char *statecast_built(void) {
    return ""
#ifdef STATECAST_AMX
           "amx,"
#endif
#ifdef STATECAST_AVX512_BF16
           "avx512_bf16,"
#endif
#ifdef STATECAST_X86
           "avx512,avx2,"
#endif
#ifdef STATECAST_ARM
           "neon,"
#endif
           "portable";
}

const char *statecast_used(void) { return kernels().name; }

int statecast_use(const char *instructions) {
    const bool any = !instructions || !*instructions;
    for (const Kernels *k : all)
        if ((any || strcmp(k->name, instructions) == 0) && runs(*k)) {
            chosen.store(k);
            return STATECAST_OK;
        }
    return STATECAST_BAD_ARGUMENT;
}

int64_t statecast_saved_bytes(const statecast_forward_args *a) {
    return check(*a) == STATECAST_OK ? kernels().saved_bytes[doubled(a)](a) : -1;
}

int64_t statecast_packed_bytes(const statecast_forward_args *a) {
    return check(*a) == STATECAST_OK ? kernels().packed_bytes[doubled(a)](a) : -1;
}

int statecast_pack(const statecast_forward_args *a, void *packed) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->w || !a->u || !packed) return STATECAST_BAD_ARGUMENT;
    return kernels().pack[doubled(a)](a, packed);
}

int statecast_forward(const statecast_forward_args *a) {
    const bool lstm = a->cell == STATECAST_LSTM;
    if (const int wrong = check(*a)) return wrong;
    if (!complete(*a) || (!a->packed && (!a->w || !a->u)) || !a->hn || (lstm && !a->cn) || (a->saved && !a->y))
        return STATECAST_BAD_ARGUMENT;
    return kernels().forward[doubled(a)](a);
}

int statecast_run(const statecast_forward_args *fixed, int64_t rows, int64_t steps, const void *x,
                  const int64_t *code, const void *h0, const void *c0, int64_t sources, const int64_t *source,
                  void *y, void *hn, void *cn) {
    statecast_forward_args a = *fixed;
    a.rows = rows, a.steps = steps;
    a.x = x, a.code = code, a.h0 = h0, a.c0 = c0;
    a.sources = sources, a.source = source;
    a.y = y, a.hn = hn, a.cn = cn;
    return statecast_forward(&a);
}

int statecast_stack(const statecast_stack_args *a) {
    if (const int wrong = check(*a)) return wrong;
    return kernels().stack(a);
}

int statecast_backward(const statecast_backward_args *b) {
    const statecast_forward_args *a = &b->forward;
    const bool lstm = a->cell == STATECAST_LSTM;
    if (const int wrong = check(*a)) return wrong;
    if (!complete(*a) || !a->w || !a->u || !a->y || !a->saved || !b->dw || !b->du || !b->dh0 ||
        (lstm && !b->dc0) || (a->bias && !b->dbias) || (a->resets && (!b->dhr || (lstm && !b->dcr))) ||
        (a->observed && (!b->dfeed || !b->dbase || !b->ddecay || !b->dlast)))
        return STATECAST_BAD_ARGUMENT;
    return kernels().backward[doubled(a)](b);
}

int64_t statecast_layers_saved_bytes(const statecast_forward_args *layers, int64_t count) {
    if (check(layers, count, itself)) return -1;
    return kernels().layers_saved_bytes[doubled(layers)](layers, count);
}

int statecast_layers_forward(const statecast_forward_args *layers, int64_t count) {
    if (const int wrong = check(layers, count, itself)) return wrong;
    for (int64_t l = 0; l < count; ++l) {
        const statecast_forward_args &a = layers[l];
        if (!complete(a, l == 0) || !a.hn || (a.cell == STATECAST_LSTM && !a.cn)) return STATECAST_BAD_ARGUMENT;
    }
    if (layers->saved && !layers->y) return STATECAST_BAD_ARGUMENT;
    return kernels().layers_forward[doubled(layers)](layers, count);
}

int statecast_layers_backward(const statecast_backward_args *layers, int64_t count) {
    if (const int wrong = check(layers, count, forward_of)) return wrong;
    for (int64_t l = 0; l < count; ++l) {
        const statecast_backward_args &b = layers[l];
        const statecast_forward_args &a = b.forward;
        if (!complete(a, l == 0) || !b.dw || !b.du || !b.dh0 || (a.cell == STATECAST_LSTM && !b.dc0) ||
            (a.bias && !b.dbias) || (l && (b.dy || b.dfed || b.dx)))
            return STATECAST_BAD_ARGUMENT;
    }
    if (!layers->forward.saved || !layers->dfeed || !layers->dbase || !layers->ddecay || !layers->dlast)
        return STATECAST_BAD_ARGUMENT;
    return kernels().layers_backward[doubled(&layers->forward)](layers, count);
}

int statecast_score(const statecast_score_args *a) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->score) return STATECAST_BAD_ARGUMENT;
    return kernels().scores->score[a->dtype](a);
}

int statecast_score_gradients(const statecast_score_gradients_args *g) {
    const statecast_score_args *a = &g->forward;
    if (const int wrong = check(*a)) return wrong;
    if (!g->dscore || !g->doutputs || !g->dtaken || !g->dkernel || !g->dbase || !g->ddecay ||
        (a->first && (!g->dfirst || !g->dlast)))
        return STATECAST_BAD_ARGUMENT;
    return kernels().scores->gradients[a->dtype](g);
}

int64_t statecast_softmax_bytes(const statecast_softmax_args *a) {
    return check(*a) == STATECAST_OK ? kernels().softmax->bytes(a) : -1;
}

int statecast_softmax_pack(const statecast_softmax_args *a, void *packed) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->kernel || !a->bias || !packed) return STATECAST_BAD_ARGUMENT;
    return kernels().softmax->pack(a, packed);
}

int statecast_softmax(const statecast_softmax_args *a) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->packed || !a->outputs || !a->nats || !a->codes != !a->best) return STATECAST_BAD_ARGUMENT;
    return kernels().softmax->run(a);
}

int statecast_affine(const statecast_softmax_args *a) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->packed || !a->outputs || !a->nats || a->codes || a->best) return STATECAST_BAD_ARGUMENT;
    return kernels().softmax->affine(a);
}

int statecast_counts(const statecast_counts_args *a) {
    if (const int wrong = check(*a)) return wrong;
    return kernels().counts->quantiles(a);
}

int statecast_weighted(const statecast_weighted_args *a) {
    if (const int wrong = check(*a)) return wrong;
    return kernels().weighted->quantiles(a);
}
