/* Threads, memory, and the choice of an instruction set. */
#include "services.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sched.h>
#include <sys/mman.h>
#endif
#ifdef STATECAST_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace statecast {
namespace {

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* -- threads -------------------------------------------------------------------------------- */

/* Every thread takes items until there are none. */
struct Job {
    int64_t items = 0;
    void (*task)(void *, int64_t) = nullptr;
    void *context = nullptr;
    std::atomic<int64_t> next{0};

    void work() {
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;)
            task(context, item);
    }
};

/* Workers join the job that is open. They look for one for a while before they sleep: a wake
 * costs more than a small job. */
class Pool {
  public:
    ~Pool() = delete; /* workers may outlive main */

    bool run(int64_t items, void (*task)(void *, int64_t), void *context, int threads, bool small) {
        if (busy_.exchange(true, std::memory_order_acquire)) return false;
        const bool wakes = !small || clock::now() - last_ < 2 * PATIENCE;
        while ((int)threads_.size() < threads - 1 && start()) continue;
        job_.items = items, job_.task = task, job_.context = context;
        job_.next.store(0, std::memory_order_relaxed);
        helpers_ = threads - 1;
        open_.store(true);
        jobs_.fetch_add(1);
        if (wakes && sleepers_.load() > 0) {
            place();
            std::lock_guard<std::mutex> hold(mutex_);
            wake_.notify_all();
        }
        job_.work();
        open_.store(false);
        finish();
        last_ = clock::now();
        busy_.store(false, std::memory_order_release);
        return true;
    }

  private:
    using clock = std::chrono::steady_clock;
    static constexpr std::chrono::microseconds PATIENCE{80}; /* of who waits, before it sleeps */

    bool start() {
        try {
            threads_.reserve(threads_.size() + 1);
            std::thread thread([this] { serve(); });
            threads_.push_back(thread.native_handle());
            thread.detach();
            away_from_ = -1;
            return true;
        } catch (...) {
            return false; /* fewer threads, the same results */
        }
    }

    /* Keeps the workers off the caller's CPU. Linux likes to wake a thread where it is called from; there
     * it would wait until the caller has done all by itself. */
    void place() {
#ifdef __linux__
        const int here = sched_getcpu();
        cpu_set_t others;
        if (here < 0 || here == away_from_ || sched_getaffinity(0, sizeof others, &others)) return;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (pthread_t thread : threads_) pthread_setaffinity_np(thread, sizeof others, &others);
        away_from_ = here;
#endif
    }

    void serve() {
        const int me = started_.fetch_add(1);
        uint64_t seen = 0;
        for (;;) {
            wait(seen);
            seen = jobs_.load();
            inside_.fetch_add(1); /* from here on the caller does not return */
            if (open_.load() && me < helpers_) job_.work();
            if (inside_.fetch_sub(1) == 1 && waits_.load()) {
                std::lock_guard<std::mutex> hold(mutex_);
                done_.notify_one();
            }
        }
    }

    /* Whether `ready` comes true within a while. */
    template <class Ready>
    static bool soon(const Ready &ready) {
        const auto until = clock::now() + PATIENCE;
        do {
            for (int i = 0; i < 64; ++i) {
                if (ready()) return true;
                relax();
            }
        } while (clock::now() < until);
        return false;
    }

    /* The caller waits for the workers' last items, and not for long on the CPU: a worker that lost
     * its own gets the caller's. With twice as many threads as CPUs that is a third of the time. */
    void finish() {
        const auto ready = [&] { return inside_.load() == 0; };
        if (soon(ready)) return;
        std::unique_lock<std::mutex> hold(mutex_);
        waits_.store(true);
        done_.wait(hold, ready);
        waits_.store(false);
    }

    void wait(uint64_t seen) {
        if (soon([&] { return jobs_.load() != seen; })) return;
        std::unique_lock<std::mutex> hold(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(hold, [&] { return jobs_.load() != seen; });
        sleepers_.fetch_sub(1);
    }

    std::atomic<bool> busy_{false}, open_{false}, waits_{false};
    std::atomic<uint64_t> jobs_{0};
    std::atomic<int> inside_{0}, sleepers_{0}, started_{0};
    int helpers_ = 0, away_from_ = -1;
    std::vector<pthread_t> threads_; /* the workers */
    Job job_;
    clock::time_point last_; /* when a job was done */
    std::mutex mutex_;
    std::condition_variable wake_, done_;
};

std::atomic<statecast_openmp *> openmp{nullptr};
std::atomic<Pool *> the_pool{nullptr};
std::atomic<int> chosen_threads{0};

/* A child of fork() has none of the parent's threads, so it begins with a pool of its own. */
void forget_threads() {
    openmp.store(nullptr);
    the_pool.store(new (std::nothrow) Pool);
}

Pool *pool() {
    static const bool once = [] {
        forget_threads();
        pthread_atfork(nullptr, nullptr, forget_threads);
        return true;
    }();
    (void)once;
    return the_pool.load();
}

int available() {
    if (const char *wish = getenv("STATECAST_THREADS")) {
        const int count = atoi(wish);
        if (count > 0) return count;
    }
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const int count = (int)std::thread::hardware_concurrency();
    return count > 0 ? count : 1;
}

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

}  // namespace

void parallel(int64_t items, void (*task)(void *, int64_t), void *context, bool small) {
    int threads = statecast_threads();
    if (threads > items) threads = (int)items;
    if (threads > 1) {
        if (statecast_openmp *borrowed = openmp.load()) {
            Job job = {items, task, context};
            return borrowed([](void *j) { static_cast<Job *>(j)->work(); }, &job, (unsigned)threads, 0);
        }
        Pool *p = pool();
        if (p && p->run(items, task, context, threads, small)) return;
    }
    for (int64_t i = 0; i < items; ++i) task(context, i);
}

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
/* Linux lends the tiles to a process that asks, where it knows how to keep them over a switch of
 * threads; it refuses where a signal's stack would be too small for them. */
bool has_tiles() {
    unsigned a, b, c, d;
    const unsigned tiles = 1u << 24, bf16 = 1u << 22;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & tiles) || !(d & bf16)) return false;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

bool runs(const Kernels &k) {
#ifdef STATECAST_AMX
    if (&k == &kernels_amx) return has_avx512() && has_tiles();
#endif
#ifdef STATECAST_X86
    if (&k == &kernels_avx512) return has_avx512();
    if (&k == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

/* Best first. */
const Kernels *const all[] = {
#ifdef STATECAST_AMX
    &kernels_amx,
#endif
#ifdef STATECAST_X86
    &kernels_avx512,
    &kernels_avx2,
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
    if (a.dtype != STATECAST_F32 && a.dtype != STATECAST_F64) return STATECAST_BAD_ARGUMENT;
    if (a.members < 0 || a.rows < 0 || a.steps < 0 || a.inputs < 0 || a.units < 1 ||
        a.codes < 0)
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

int check(const statecast_score_args &a) {
    if (a.dtype != STATECAST_F32 && a.dtype != STATECAST_F64) return STATECAST_BAD_ARGUMENT;
    if (a.members < 0 || a.rows < 0 || a.steps < 0 || a.units < 1) return STATECAST_BAD_ARGUMENT;
    if (a.quantiles < 3 || a.quantiles % 2 == 0) return STATECAST_BAD_ARGUMENT;
    int64_t n;
    if (a.units > (1 << 24) || a.quantiles > (1 << 16)) return STATECAST_TOO_LARGE;
    if (a.rows > (INT64_MAX >> 1) || __builtin_mul_overflow(a.rows + 64, a.members + 1, &n) ||
        __builtin_mul_overflow(n, a.steps + 1, &n) ||
        __builtin_mul_overflow(n, (a.units + 64) * (a.quantiles + 64) * 8, &n))
        return STATECAST_TOO_LARGE;
    const bool there = a.outputs && a.taken && a.kernel && a.base && a.decay && a.target &&
                       a.weight && a.levels && a.gaps && !a.first == !a.last;
    return there ? STATECAST_OK : STATECAST_BAD_ARGUMENT;
}

int check(const statecast_softmax_args &a) {
    if (a.members < 1 || a.rows < 0 || a.units < 1 || a.tokens < 1 || a.best < 0)
        return STATECAST_BAD_ARGUMENT;
    int64_t n;
    if (a.units > (1 << 24) || a.tokens > (1 << 30) || a.best > a.tokens) return STATECAST_TOO_LARGE;
    if (__builtin_mul_overflow(a.units + 1, (a.tokens + 64) * 8, &n) ||
        __builtin_mul_overflow(n, a.members, &n) || a.rows > (INT64_MAX >> 1) ||
        __builtin_mul_overflow(a.rows + 64, a.members, &n) ||
        __builtin_mul_overflow(n, (a.units + a.tokens + 64) * 8, &n))
        return STATECAST_TOO_LARGE;
    return STATECAST_OK;
}

}  // namespace
}  // namespace statecast

using namespace statecast;

namespace {

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

}  // namespace

const char *statecast_built(void) {
    return ""
#ifdef STATECAST_AMX
           "amx,"
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

int statecast_threads(void) {
    int count = chosen_threads.load(std::memory_order_relaxed);
    if (count < 1) chosen_threads.store(count = available());
    return count;
}

void statecast_set_threads(int count) { chosen_threads.store(count < 1 ? 0 : count); }

void statecast_borrow(statecast_openmp *parallel) {
    pool(); /* what a child of fork() forgets is known from here on */
    openmp.store(parallel);
}

int64_t statecast_saved_bytes(const statecast_forward_args *a) {
    return check(*a) == STATECAST_OK ? kernels().saved_bytes[a->dtype](a) : -1;
}

int64_t statecast_packed_bytes(const statecast_forward_args *a) {
    return check(*a) == STATECAST_OK ? kernels().packed_bytes[a->dtype](a) : -1;
}

int statecast_pack(const statecast_forward_args *a, void *packed) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->w || !a->u || !packed) return STATECAST_BAD_ARGUMENT;
    return kernels().pack[a->dtype](a, packed);
}

int statecast_forward(const statecast_forward_args *a) {
    const bool lstm = a->cell == STATECAST_LSTM;
    if (const int wrong = check(*a)) return wrong;
    if (!complete(*a) || (!a->packed && (!a->w || !a->u)) || !a->hn || (lstm && !a->cn) ||
        (a->saved && !a->y))
        return STATECAST_BAD_ARGUMENT;
    return kernels().forward[a->dtype](a);
}

int statecast_run(const statecast_forward_args *fixed, int64_t rows, int64_t steps, const void *x,
                  const int64_t *code, const void *h0, const void *c0, int64_t sources,
                  const int64_t *source, void *y, void *hn, void *cn) {
    statecast_forward_args a = *fixed;
    a.rows = rows, a.steps = steps;
    a.x = x, a.code = code, a.h0 = h0, a.c0 = c0;
    a.sources = sources, a.source = source;
    a.y = y, a.hn = hn, a.cn = cn;
    return statecast_forward(&a);
}

int statecast_backward(const statecast_backward_args *b) {
    const statecast_forward_args *a = &b->forward;
    const bool lstm = a->cell == STATECAST_LSTM;
    if (const int wrong = check(*a)) return wrong;
    if (!complete(*a) || !a->w || !a->u || !a->y || !a->saved || !b->dw || !b->du || !b->dh0 ||
        (lstm && !b->dc0) || (a->bias && !b->dbias) ||
        (a->resets && (!b->dhr || (lstm && !b->dcr))) ||
        (a->observed && (!b->dfeed || !b->dbase || !b->ddecay || !b->dlast)))
        return STATECAST_BAD_ARGUMENT;
    return kernels().backward[a->dtype](b);
}

int statecast_score(const statecast_score_args *a) {
    if (const int wrong = check(*a)) return wrong;
    if (!a->score) return STATECAST_BAD_ARGUMENT;
    return kernels().quantiles->score[a->dtype](a);
}

int statecast_score_gradients(const statecast_score_gradients_args *g) {
    const statecast_score_args *a = &g->forward;
    if (const int wrong = check(*a)) return wrong;
    if (!g->dscore || !g->doutputs || !g->dtaken || !g->dkernel || !g->dbase || !g->ddecay ||
        (a->first && (!g->dfirst || !g->dlast)))
        return STATECAST_BAD_ARGUMENT;
    return kernels().quantiles->gradients[a->dtype](g);
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
