/* Threads: how many a call may use, and whose. docs/threads.md says it to users, decision 17 why. */
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

/* Every thread takes items until there are none. */
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

/* Workers join the job that is open. They look for one for a while before they sleep: a wake costs more than
 * a small job. The caller waits for those that have begun an item, and for no other: a worker that gets no
 * CPU before the items are taken has no part in the job. */
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
    static constexpr microseconds PATIENCE{80}; /* of who waits, before it sleeps */

    struct Worker {
        pthread_t thread;
        std::atomic<bool> inside{false}; /* a job: its caller does not return before */
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
                pthread_setname_np(worker->thread, "statecast"); /* for who looks at the process */
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

    /* Keeps the workers off the caller's CPU. Linux likes to wake a thread where it is called from; there
     * it would wait until the caller has done all by itself. */
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

    /* Gives the caller's CPU to a worker that has begun an item and lost its own to another process: the
     * caller has nothing left to do with it. */
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
            inside_.fetch_add(1); /* from here on the caller does not return */
            if (open_.load() && index < helpers_) job_.work();
            me.inside.store(false);
            if (inside_.fetch_sub(1) == 1 && waits_.load()) {
                std::lock_guard<std::mutex> hold(mutex_);
                done_.notify_one();
            }
        }
    }

    /* Whether `ready` comes true within a while. */
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

    /* The caller waits for the workers' last items, and not for long on the CPU. */
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
    Clock::time_point last_; /* when a job was done */
    std::mutex mutex_;
    std::condition_variable wake_, done_;
};

std::atomic<Pool *> the_pool{new (std::nothrow) Pool};
std::atomic<bool> forked{false};

/* A child of fork() has none of the parent's threads, so it begins with a pool of its own. */
void forget_threads() {
    forked.store(true);
    the_pool.store(new (std::nothrow) Pool);
}

/* Since the library was loaded: a child of a fork before the first call is one too. */
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, forget_threads);

/* -- OpenMP's threads ------------------------------------------------------------------------- */

#ifdef __linux__
/* The threads that OpenMP keeps for one calling thread. After a parallel region they wait busily for the
 * next one, for milliseconds, and hold the CPUs that threads of our own would need. But a region ends with a
 * barrier that waits for every one of them, also for one that had no CPU and has done nothing. So a job goes
 * there only while each of them is on a CPU, and otherwise to the pool. */
class Team {
  public:
    /* Whether the job was done there. */
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
        if (seats_.back().thread == 0) seats_.clear(); /* fewer came than were asked for */
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
        int64_t cpu = 0; /* its time on a CPU in nanoseconds, as of `looked_` */
    };
    struct Region {
        Job &job;
        const bool meets; /* the threads write down who they are */
        std::vector<Seat> &seats;
        const pthread_t caller;
        std::atomic<size_t> came{0};
        Clock::time_point worked{}; /* when the caller found no more items */
    };

    static void body(void *data) {
        Region &region = *static_cast<Region *>(data);
        const bool caller = pthread_equal(pthread_self(), region.caller);
        if (region.meets && !caller) region.seats[region.came.fetch_add(1)].thread = (pid_t)syscall(SYS_gettid);
        region.job.work();
        if (caller) region.worked = Clock::now();
    }

    /* A thread's time on a CPU; negative where the thread is no more. The clock's number is what
     * pthread_getcpuclockid() makes of a thread, which must be alive for that. */
    static int64_t cpu(pid_t thread) {
        struct timespec time;
        if (clock_gettime(~(clockid_t)thread * 8 | 6, &time)) return -1;
        return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
    }

    /* Whether every thread is on a CPU: its time goes on from one look to the next. */
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

    /* Whether a thread was off the CPU for a good part of the time since it was looked at. One that is
     * only slower was not. */
    bool late() const {
        const auto since = done_ - looked_;
        for (const Seat &seat : seats_) {
            const auto lost = since - std::chrono::nanoseconds{cpu(seat.thread) - seat.cpu};
            if (lost > GRACE && lost > since / 4) return true;
        }
        return false;
    }

    std::vector<Seat> seats_;
    Clock::time_point looked_, done_; /* at the seats, with the last job */
    Clock::time_point rest_, meet_;   /* no job before, no meeting before */
};
thread_local Team team;
#endif

/* -- how many --------------------------------------------------------------------------------- */

constexpr int MOST = 1024;

int least(int a, int b) { return a < b ? a : b; }

/* A whole number from 1 in the environment, the first where OpenMP takes a list; else `otherwise`. */
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
    cpu_set_t set; /* too small beyond 1,024 CPUs */
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

/* CPUs' worth of time that a group itself may use; infinity where it says nothing. */
double quota_of(const std::string &folder, bool second) {
    const std::vector<std::string> words =
        second ? split(lines(folder + "/cpu.max")[0], ' ')
               : std::vector<std::string>{lines(folder + "/cpu.cfs_quota_us")[0],
                                          lines(folder + "/cpu.cfs_period_us")[0]};
    if (words.size() != 2) return INFINITY;
    const double quota = strtod(words[0].c_str(), nullptr), period = strtod(words[1].c_str(), nullptr);
    return quota > 0 && period > 0 ? quota / period : INFINITY;
}

/* The least of a group's and of all around it, as far up as this process sees them. */
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
        /* A container sees its own group as the mount's root, under the name that the host gave it. */
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

/* Reading it takes some dozen microseconds, so it is read anew after a second at the earliest. */
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
        /* The whole team or none: OpenMP ends the threads that a smaller one leaves over. */
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

int statecast_threads(int64_t told) {
    if (const int exact = wishes.read()) return exact;
    int count = least(cpus(), wishes.omp.load());
    if (const int quota = current_quota()) count = least(count, quota);
    return told > 0 && told < count ? (int)told : count;
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
