// Kernels by name, and grids of blocks on the threads of the host.
#pragma once
#include <sys/mman.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "schedule.h"

namespace sim {

struct Kernel {
    const char* name;
    void (*body)(void**);
    std::vector<size_t> sizes;  // of the arguments
};

inline std::vector<Kernel>& kernels() {
    static std::vector<Kernel> kernels;
    return kernels;
}

template <class... A, size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_cv_t<std::remove_reference_t<A>>*)arguments[I]...);
}
template <class... A>
inline void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}
template <class... A>
inline std::vector<size_t> sizes_of(void (*)(A...)) {
    return {sizeof(A)...};
}

struct Registration {
    Registration(const char* name, void (*body)(void**), std::vector<size_t> sizes) {
        kernels().push_back({name, body, std::move(sizes)});
    }
};

struct Grid {
    dim3 blocks, threads;
    size_t shared_bytes;
    bool cooperative;  // blocks may wait for one another
};

// What a thread of the host keeps from launch to launch, and leaves to others.
struct Worker {
    unsigned char* stacks;
    unsigned char* shared;
    std::vector<Fiber> fibers;
    Block block;
    Worker() : fibers(MAX_THREADS) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        stacks = (unsigned char*)mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
        shared = (unsigned char*)aligned_alloc(1024, (MAX_SHARED_BYTES + 2047) / 1024 * 1024);
    }
};

// A thread's worker: one that another thread has left, if there is one, since its memory is slow to get.
class Lease {
  public:
    Lease() {
        std::lock_guard<std::mutex> lock(mutex);
        if (left.empty()) left.push_back(new Worker);
        worker = left.back();
        left.pop_back();
    }
    ~Lease() {
        std::lock_guard<std::mutex> lock(mutex);
        left.push_back(worker);
    }
    Worker* operator->() const { return worker; }

  private:
    Worker* worker;
    // Outlive the last thread.
    static inline auto& mutex = *new std::mutex;
    static inline auto& left = *new std::vector<Worker*>;
};

inline void run_one_block(const Grid& grid, size_t index, void (*body)(void**), void** arguments) {
    static thread_local Lease worker;
    Block& block = worker->block;
    block.grid = grid.blocks;
    block.size = grid.threads;
    block.fibers = worker->fibers.data();
    block.stacks = worker->stacks;
    block.shared = worker->shared;
    block.shared_bytes = grid.shared_bytes;
    block.body = body;
    block.arguments = arguments;
    block.cooperative = grid.cooperative;
    block.random = settings().seed * 0x9E3779B97F4A7C15ull + index * 0xD1B54A32D192ED03ull + 1;
    size_t plane = (size_t)grid.blocks.x * grid.blocks.y;
    block.index = {(unsigned)(index % grid.blocks.x), (unsigned)(index / grid.blocks.x % grid.blocks.y),
                   (unsigned)(index / plane)};
    run_block(block);
}

// Threads that live as long as the process and share the blocks of one launch at a time.
class Pool {
  public:
    Pool() {
        unsigned count = std::max(1u, std::thread::hardware_concurrency());
        for (unsigned i = 1; i < count; i++) std::thread([this] { serve(); }).detach();
        helpers = (int)count - 1;
    }

    // Calls work(i) for each i below `count`.
    void run(size_t count, const std::function<void(size_t)>& work) {
        std::lock_guard<std::mutex> one_at_a_time(launches);
        {
            std::lock_guard<std::mutex> lock(mutex);
            job = &work;
            end = count;
            next = 0;
            busy = helpers;
            generation++;
        }
        start.notify_all();
        take();
        std::unique_lock<std::mutex> lock(mutex);
        finish.wait(lock, [this] { return busy == 0; });
    }

  private:
    void take() {
        for (size_t i; (i = next++) < end;) (*job)(i);
    }

    void serve() {
        for (uint64_t seen = 0;;) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                start.wait(lock, [&] { return generation != seen; });
                seen = generation;
            }
            take();
            std::lock_guard<std::mutex> lock(mutex);
            if (--busy == 0) finish.notify_one();
        }
    }

    std::mutex launches, mutex;
    std::condition_variable start, finish;
    const std::function<void(size_t)>* job = nullptr;
    std::atomic<size_t> next{0};
    size_t end = 0;
    int helpers = 0, busy = 0;
    uint64_t generation = 0;
};

inline void run_cooperatively(size_t blocks, const std::function<void(size_t)>& work) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < blocks; i++) threads.emplace_back([&, i] { work(i); });
    for (std::thread& thread : threads) thread.join();
}

// Whether the kernel ran without a fault.
inline bool launch(const Grid& grid, void (*body)(void**), void** arguments) {
    static Pool& pool = *new Pool;  // outlives the end of main
    launch_failed = false;
    size_t blocks = (size_t)grid.blocks.x * grid.blocks.y * grid.blocks.z;
    std::function<void(size_t)> work = [&](size_t i) {
        if (!launch_failed) run_one_block(grid, i, body, arguments);
    };
    if (grid.cooperative) run_cooperatively(blocks, work);
    else if (blocks == 1) work(0);
    else pool.run(blocks, work);
    return !launch_failed;
}

}  // namespace sim

#define KERNEL_EXPORT(kernel)                                      \
    static sim::Registration sim_registration_##kernel(            \
        #kernel, [](void** arguments) { sim::call(kernel, arguments); }, sim::sizes_of(kernel))
