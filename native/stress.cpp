/* Callers on several threads at once, on threads of the library's own and on a stand-in for OpenMP's: for the
 * thread sanitizer, which cannot follow OpenMP itself. Every result must have the bits of one thread. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "statecast.h"

namespace {

/* As OpenMP does, each calling thread keeps a team that waits busily and ends a region with a barrier. */
struct Team {
    explicit Team(unsigned count) {
        for (unsigned i = 1; i < count; ++i) threads.emplace_back([this] { serve(); });
    }
    ~Team() {
        ends.store(true);
        for (std::thread &each : threads) each.join();
    }
    void serve() {
        for (uint64_t seen = 0;; ++seen) {
            while (region.load() == seen)
                if (ends.load())
                    return;
                else
                    sched_yield();
            body(data);
            left.fetch_add(1);
        }
    }
    void run(void (*work)(void *), void *with) {
        body = work, data = with;
        left.store(0);
        region.fetch_add(1);
        work(with);
        while (left.load() < threads.size()) sched_yield();
    }
    void (*body)(void *) = nullptr;
    void *data = nullptr;
    std::atomic<uint64_t> region{0};
    std::atomic<size_t> left{0};
    std::atomic<bool> ends{false};
    std::vector<std::thread> threads;
};
thread_local std::unique_ptr<Team> team;
std::atomic<int> regions{0};

void openmp(void (*body)(void *), void *data, unsigned threads, unsigned) {
    if (!team || team->threads.size() + 1 != threads) team = std::make_unique<Team>(threads);
    regions.fetch_add(1);
    team->run(body, data);
}

/* One LSTM, and a closed loop around two, forward and backward. */
struct Problem {
    static constexpr int64_t ROWS = 150, STEPS = 3, INPUTS = 2, UNITS = 20;
    std::vector<float> x, w, u, bias, zeros, dy;

    static std::vector<float> draw(int64_t count, uint32_t seed) {
        std::vector<float> found((size_t)count);
        for (float &each : found) {
            seed = seed * 1664525u + 1013904223u;
            each = (float)(seed >> 8) / (1 << 24) - .5f;
        }
        return found;
    }
    explicit Problem(uint32_t seed)
        : x(draw(ROWS * STEPS * INPUTS, seed)),
          w(draw(INPUTS * 4 * UNITS, seed + 1)),
          u(draw(UNITS * 4 * UNITS, seed + 2)),
          bias(draw(4 * UNITS, seed + 3)),
          zeros(ROWS * UNITS),
          dy(draw(ROWS * STEPS * UNITS, seed + 4)) {}

    std::vector<float> run(int64_t threads, statecast_openmp *openmp) const {
        statecast_backward_args b = {};
        statecast_forward_args &a = b.forward;
        a.cell = STATECAST_LSTM, a.dtype = STATECAST_F32;
        a.members = 1, a.rows = ROWS, a.steps = STEPS, a.inputs = INPUTS, a.units = UNITS;
        a.x = x.data(), a.w = w.data(), a.u = u.data(), a.bias = bias.data();
        a.h0 = a.c0 = zeros.data();
        a.threads = threads, a.openmp = openmp;
        std::vector<float> h(zeros), c(zeros), y(dy), found(x.size() + w.size() + u.size() + bias.size());
        std::vector<float> dh0(zeros), dc0(zeros);
        std::vector<char> saved((size_t)statecast_saved_bytes(&a));
        a.y = y.data(), a.hn = h.data(), a.cn = c.data(), a.saved = saved.data();
        float *to = found.data();
        b.dy = dy.data(), b.dx = to, b.dw = to += x.size(), b.du = to += w.size(), b.dbias = to += u.size();
        b.dh0 = dh0.data(), b.dc0 = dc0.data();
        if (statecast_forward(&a) || statecast_backward(&b)) return {};
        found.insert(found.end(), y.begin(), y.end());
        const std::vector<float> loop = run_loop(b);
        if (loop.empty()) return {};
        found.insert(found.end(), loop.begin(), loop.end());
        return found;
    }

    /* The second layer takes in the outputs of the first, which has the arguments of `one`. */
    std::vector<float> run_loop(const statecast_backward_args &one) const {
        statecast_backward_args layers[2] = {one, one};
        statecast_forward_args calls[2] = {one.forward, one.forward};
        statecast_forward_args &a = calls[0], &above = calls[1];
        const std::vector<uint8_t> observed(ROWS * STEPS);
        const float decay = .5f;
        std::vector<float> y(dy), fed(ROWS * STEPS), dx(x), base(ROWS), last(ROWS), feed(UNITS);
        std::vector<float> state[8]; /* hn, cn, dh0 and dc0 of each layer */
        std::vector<float> found(w.size() + 3 * u.size() + 2 * bias.size() + 1);
        for (std::vector<float> &each : state) each = zeros;
        a.observed = observed.data();
        a.feed = dy.data(), a.base = a.last = zeros.data(), a.decay = &decay;
        a.y = y.data(), a.fed = fed.data();
        above.inputs = UNITS;
        above.w = u.data();
        above.x = above.y = above.saved = nullptr;
        for (int l = 0; l < 2; ++l) calls[l].hn = state[4 * l].data(), calls[l].cn = state[4 * l + 1].data();
        std::vector<char> saved((size_t)statecast_layers_saved_bytes(calls, 2));
        a.saved = saved.data();
        float *to = found.data();
        for (int l = 0; l < 2; ++l) {
            statecast_backward_args &b = layers[l];
            b.forward = calls[l];
            b.dw = to, b.du = to += l ? u.size() : w.size(), b.dbias = to += u.size(), to += bias.size();
            b.dh0 = state[4 * l + 2].data(), b.dc0 = state[4 * l + 3].data();
        }
        layers[0].dx = dx.data(), layers[0].dfeed = feed.data(), layers[0].ddecay = to;
        layers[0].dbase = base.data(), layers[0].dlast = last.data();
        layers[1].dx = nullptr, layers[1].dy = nullptr;
        if (statecast_layers_forward(calls, 2) || statecast_layers_backward(layers, 2)) return {};
        for (const std::vector<float> *each : {&y, &fed, &dx, &base, &last, &feed})
            found.insert(found.end(), each->begin(), each->end());
        return found;
    }
};

} // namespace

int main() {
    constexpr int CALLERS = 4, CALLS = 60;
    std::vector<Problem> problems;
    std::vector<std::vector<float>> expected;
    statecast_set_threads(1);
    for (uint32_t i = 0; i < CALLERS; ++i) {
        problems.emplace_back(i);
        expected.push_back(problems.back().run(1, nullptr));
    }
    std::atomic<int> wrong{0};
    for (const int64_t threads : {2, 3}) {
        statecast_set_threads((int)threads);
        std::vector<std::thread> callers;
        for (int i = 0; i < CALLERS; ++i)
            callers.emplace_back([&, i, threads] {
                for (int call = 0; call < CALLS; ++call) {
                    const std::vector<float> found = problems[i].run(threads, call % 3 ? openmp : nullptr);
                    if (found.empty() || found.size() != expected[i].size() ||
                        memcmp(found.data(), expected[i].data(), found.size() * sizeof(float)))
                        wrong.fetch_add(1);
                }
            });
        for (std::thread &each : callers) each.join();
    }
    printf("%d of %d calls wrong; %d regions on the stand-in for OpenMP\n", wrong.load(), 2 * CALLERS * CALLS,
           regions.load());
    return wrong.load() || !regions.load();
}
