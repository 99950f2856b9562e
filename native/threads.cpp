/* Threads: how many a call may use, and which. docs/how_to/threads.md has the rules, decision 17 the reasons. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "services.h"

namespace statecast {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Every thread takes items until none is left. */
struct Job {
    int64_t items = 0;
    void (*task)(void *, int64_t) = nullptr;
    void *context = nullptr;
    std::atomic<int64_t> next{0};

    void work() {
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) task(context, item);
    }
};

/* -- the library's own threads ---------------------------------------------------------------- */

/* Workers join the open job. They wait busily for one for a while before they sleep, since waking a thread
 * takes longer than a small job. The caller waits for the workers that have begun an item, and for no other:
 * a worker that gets no CPU before all items are taken does not take part in the job. */
class Pool {
  public:
    ~Pool() = delete; /* workers may outlive main */

    bool run(int64_t items, void (*task)(void *, int64_t), void *context, int threads, bool small) {
        if (busy_.exchange(true, std::memory_order_acquire)) return false;
        const bool wakes = !small || Clock::now() - last_ < 2 * PATIENCE;
        while ((int)workers_.size() < threads - 1 && start()) continue;
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
        last_ = Clock::now();
        busy_.store(false, std::memory_order_release);
        return true;
    }

  private:
    static constexpr microseconds PATIENCE{80}; /* of a busy wait, before the thread sleeps */

    struct Worker {
        pthread_t thread;
        std::atomic<bool> inside{false}; /* a job, whose caller waits for it */
    };

    bool start() {
        try {
            const int index = (int)workers_.size();
            workers_.push_back(std::make_unique<Worker>());
            Worker *worker = workers_.back().get();
            try {
                std::thread thread([this, worker, index] { serve(*worker, index); });
                worker->thread = thread.native_handle();
#ifdef __linux__
                pthread_setname_np(worker->thread, "statecast"); /* its name in lists of threads */
#endif
                thread.detach();
            } catch (...) {
                workers_.pop_back();
                throw;
            }
            away_from_ = -1;
            return true;
        } catch (...) {
            return false; /* fewer threads, the same results */
        }
    }

    /* Keeps the workers off the caller's CPU. Linux often wakes a thread on the CPU of its waker, where it
     * would wait until the caller has done all the work. */
    void place() {
#ifdef __linux__
        const int here = sched_getcpu();
        cpu_set_t others;
        if (here < 0 || here == away_from_ || sched_getaffinity(0, sizeof others, &others)) return;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (const auto &worker : workers_) pthread_setaffinity_np(worker->thread, sizeof others, &others);
        away_from_ = here;
#endif
    }

    /* Gives the caller's CPU to a worker that has begun an item and lost its own CPU to another process: the
     * caller has no other work. */
    void lend() {
#ifdef __linux__
        const int here = sched_getcpu();
        if (here < 0) return;
        cpu_set_t own;
        CPU_ZERO(&own);
        CPU_SET(here, &own);
        for (const auto &worker : workers_)
            if (worker->inside.load()) {
                pthread_setaffinity_np(worker->thread, sizeof own, &own);
                away_from_ = -1;
                return;
            }
#endif
    }

    void serve(Worker &me, int index) {
        uint64_t seen = 0;
        for (;;) {
            wait(seen);
            seen = jobs_.load();
            me.inside.store(true);
            inside_.fetch_add(1); /* from here on the caller waits for this worker */
            if (open_.load() && index < helpers_) job_.work();
            me.inside.store(false);
            if (inside_.fetch_sub(1) == 1 && waits_.load()) {
                std::lock_guard<std::mutex> hold(mutex_);
                done_.notify_one();
            }
        }
    }

    /* Waits busily until `ready`, at most PATIENCE; whether it was. */
    template <class Ready>
    static bool soon(const Ready &ready) {
        const auto until = Clock::now() + PATIENCE;
        do {
            for (int i = 0; i < 64; ++i) {
                if (ready()) return true;
                relax();
            }
        } while (Clock::now() < until);
        return false;
    }

    /* Waits for the workers' last items, busily at first. */
    void finish() {
        const auto ready = [&] { return inside_.load() == 0; };
        if (soon(ready)) return;
        lend();
        {
            std::unique_lock<std::mutex> hold(mutex_);
            waits_.store(true);
            done_.wait(hold, ready);
            waits_.store(false);
        }
        if (away_from_ < 0) place();
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
    std::atomic<int> inside_{0}, sleepers_{0};
    int helpers_ = 0, away_from_ = -1;
    std::vector<std::unique_ptr<Worker>> workers_;
    Job job_;
    Clock::time_point last_; /* the end of the last job */
    std::mutex mutex_;
    std::condition_variable wake_, done_;
};

std::atomic<Pool *> the_pool{new (std::nothrow) Pool};
std::atomic<bool> forked{false};

/* A child of fork() has none of the parent's threads, so it starts with a new pool. */
void forget_threads() {
    forked.store(true);
    the_pool.store(new (std::nothrow) Pool);
}

/* From the loading of the library on, since a child may be forked before the first call. */
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, forget_threads);

/* -- OpenMP's threads ------------------------------------------------------------------------- */

#ifdef __linux__
/* The threads that OpenMP keeps for one calling thread. After a parallel region they wait busily for the
 * next one, for milliseconds, and occupy the CPUs that threads of our own would need. But a region ends with
 * a barrier that waits for all of them, also for one that had no CPU and has done nothing. So a job is given
 * to them only while each of them is on a CPU, and otherwise to the pool. */
class Team {
  public:
    /* Whether the job was done by the team. */
    bool run(statecast_openmp *openmp, int threads, Job &job) {
        const auto start = Clock::now();
        if (start < rest_) return false;
        const bool meets = (int)seats_.size() != threads - 1;
        if (meets) {
            if (start < meet_) return false;
            meet_ = start + BETWEEN_MEETINGS;
            seats_.assign((size_t)threads - 1, Seat{});
        } else if (start - done_ > RECENT && !running(start)) {
            return false;
        }
        Region region{job, meets, seats_, pthread_self()};
        openmp(body, &region, (unsigned)threads, 0);
        if (seats_.back().thread == 0) seats_.clear(); /* OpenMP has started fewer threads */
        if (meets) return true;
        done_ = Clock::now();
        if (done_ - region.worked > GRACE && late()) rest_ = done_ + REST;
        return true;
    }

  private:
    static constexpr microseconds GRACE{50}, RECENT{20};
    static constexpr std::chrono::milliseconds REST{100}, BETWEEN_MEETINGS{1000};

    struct Seat {
        pid_t thread = 0;
        int64_t cpu = 0; /* its CPU time in nanoseconds at `looked_` */
    };
    struct Region {
        Job &job;
        const bool meets; /* the threads write their ids to the seats */
        std::vector<Seat> &seats;
        const pthread_t caller;
        std::atomic<size_t> came{0};
        Clock::time_point worked{}; /* when the caller found no item left */
    };

    static void body(void *data) {
        Region &region = *static_cast<Region *>(data);
        const bool caller = pthread_equal(pthread_self(), region.caller);
        if (region.meets && !caller) region.seats[region.came.fetch_add(1)].thread = (pid_t)syscall(SYS_gettid);
        region.job.work();
        if (caller) region.worked = Clock::now();
    }

    /* A thread's CPU time; negative if the thread has ended. The clock's id is that of
     * pthread_getcpuclockid(), which needs a living thread. */
    static int64_t cpu(pid_t thread) {
        struct timespec time;
        if (clock_gettime(~(clockid_t)thread * 8 | 6, &time)) return -1;
        return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
    }

    /* Whether every thread is on a CPU: its CPU time differs between two readings. */
    bool running(Clock::time_point now) {
        for (Seat &seat : seats_) {
            const int64_t before = cpu(seat.thread);
            seat.cpu = cpu(seat.thread);
            if (before < 0 || seat.cpu < 0) {
                seats_.clear();
                return false;
            }
            if (seat.cpu == before) return false;
        }
        looked_ = now;
        return true;
    }

    /* Whether a thread was off its CPU for more than GRACE and a quarter of the time since `looked_`. A
     * thread that was only slower was not. */
    bool late() const {
        const auto since = done_ - looked_;
        for (const Seat &seat : seats_) {
            const auto lost = since - std::chrono::nanoseconds{cpu(seat.thread) - seat.cpu};
            if (lost > GRACE && lost > since / 4) return true;
        }
        return false;
    }

    std::vector<Seat> seats_;
    Clock::time_point looked_, done_; /* when the seats were read; the end of the last job */
    Clock::time_point rest_, meet_;   /* no region before; no writing of ids before */
};
thread_local Team team;
#endif

/* -- how many --------------------------------------------------------------------------------- */

constexpr int MOST = 1024;

int least(int a, int b) { return a < b ? a : b; }

/* A variable's whole number from 1, or the first of a list; else `otherwise`. */
int environment(const char *name, int otherwise) {
    const char *value = getenv(name);
    const long count = value ? strtol(value, nullptr, 10) : 0;
    return count < 1 ? otherwise : count > MOST ? MOST : (int)count;
}

struct Wishes {
    std::atomic<int> exact{-1}; /* 0: none; -1: the environment has not been read */
    std::atomic<int> omp{MOST};

    int read() {
        int count = exact.load(std::memory_order_acquire);
        if (count < 0) {
            omp.store(environment("OMP_NUM_THREADS", MOST));
            exact.store(count = environment("STATECAST_THREADS", 0), std::memory_order_release);
        }
        return count;
    }
} wishes;

int cpus() {
#ifdef __linux__
    cpu_set_t set; /* for up to 1,024 CPUs */
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const int count = (int)std::thread::hardware_concurrency();
    return count > 0 ? count : 1;
}

#ifdef __linux__
std::vector<std::string> split(const std::string &text, char by) {
    std::vector<std::string> parts(1);
    for (const char c : text)
        if (c == by)
            parts.emplace_back();
        else
            parts.back() += c;
    return parts;
}

std::vector<std::string> lines(const std::string &path) {
    std::string text;
    if (FILE *file = fopen(path.c_str(), "re")) {
        char some[4096];
        for (size_t size; (size = fread(some, 1, sizeof some, file)) > 0;) text.append(some, size);
        fclose(file);
    }
    return split(text, '\n');
}

bool among(const std::vector<std::string> &words, const char *word) {
    for (const std::string &each : words)
        if (each == word) return true;
    return false;
}

/* The number of CPUs that a group's own quota allows; infinity if it has none. */
double quota_of(const std::string &folder, bool second) {
    const std::vector<std::string> words =
        second ? split(lines(folder + "/cpu.max")[0], ' ')
               : std::vector<std::string>{lines(folder + "/cpu.cfs_quota_us")[0],
                                          lines(folder + "/cpu.cfs_period_us")[0]};
    if (words.size() != 2) return INFINITY;
    const double quota = strtod(words[0].c_str(), nullptr), period = strtod(words[1].c_str(), nullptr);
    return quota > 0 && period > 0 ? quota / period : INFINITY;
}

/* The least quota of a group and of the groups around it that this process sees. */
double quota(const std::string &root, const std::string &group, bool second) {
    double least = INFINITY;
    for (const std::string &line : lines(root + "/proc/self/mountinfo")) {
        const std::vector<std::string> fields = split(line, ' ');
        size_t dash = 0; /* optional fields end there */
        while (dash < fields.size() && fields[dash] != "-") ++dash;
        if (dash < 6 || dash + 3 >= fields.size()) continue;
        const bool mounted = second
                                 ? fields[dash + 1] == "cgroup2"
                                 : fields[dash + 1] == "cgroup" && among(split(fields[dash + 3], ','), "cpu");
        if (!mounted) continue;
        /* In a container the mount's root is its own group, with the host's name for it. */
        const std::string &top = fields[3], place = root + fields[4];
        std::string below = top == "/" ? group : group.rfind(top, 0) == 0 ? group.substr(top.size()) : "";
        if (below.find("..") != std::string::npos) below.clear();
        for (;;) {
            const double own = quota_of(place + below, second);
            if (own < least) least = own;
            const size_t slash = below.rfind('/');
            if (slash == std::string::npos) break;
            below.resize(slash);
        }
    }
    return least;
}
#endif

/* Reading it takes dozens of microseconds, so it is read at most once a second. */
int current_quota() {
    using std::chrono::seconds;
    static std::atomic<int> found{-1};
    static std::atomic<int64_t> due{0};
    const int64_t now = std::chrono::duration_cast<seconds>(Clock::now().time_since_epoch()).count();
    int64_t when = due.load();
    if (found.load() < 0 || (now >= when && due.compare_exchange_strong(when, now + 1))) {
        found.store(statecast_quota(""));
        due.store(now + 1);
    }
    return found.load();
}

} // namespace

void parallel(int64_t items, void (*task)(void *, int64_t), void *context, const Host &host, bool small) {
    const int allowed = items > 1 ? statecast_threads(host.threads) : 1;
    const int threads = items < allowed ? (int)items : allowed;
    if (threads > 1) {
        Pool *p = the_pool.load();
#ifdef __linux__
        /* The whole team or none: OpenMP ends the threads that a smaller region does not need. */
        if (host.openmp && host.threads == allowed && !forked.load()) {
            Job job;
            job.items = items, job.task = task, job.context = context;
            if (team.run(host.openmp, allowed, job)) return;
        }
#endif
        if (p && p->run(items, task, context, threads, small)) return;
    }
    for (int64_t i = 0; i < items; ++i) task(context, i);
}

} // namespace statecast

using namespace statecast;

int statecast_threads(int64_t host) {
    if (const int exact = wishes.read()) return exact;
    int count = least(cpus(), wishes.omp.load());
    if (const int quota = current_quota()) count = least(count, quota);
    return host > 0 && host < count ? (int)host : count;
}

void statecast_set_threads(int count) { wishes.exact.store(count < 1 ? -1 : least(count, MOST)); }

int statecast_quota(const char *root) {
#ifdef __linux__
    double least = INFINITY;
    for (const std::string &line : lines(std::string(root) + "/proc/self/cgroup")) {
        const size_t first = line.find(':'), next = line.find(':', first + 1);
        if (first == std::string::npos || next == std::string::npos) continue;
        const std::string kinds = line.substr(first + 1, next - first - 1), group = line.substr(next + 1);
        const bool second = kinds.empty();
        if (!second && !among(split(kinds, ','), "cpu")) continue;
        const double own = quota(root, group == "/" ? "" : group, second);
        if (own < least) least = own;
    }
    if (least < MOST) return least < 1 ? 1 : (int)(least + 0.5);
#else
    (void)root;
#endif
    return 0;
}
