// Streams, events and graphs. A stream is a queue: nothing runs before something waits for it, so a host that reads or
// reuses memory too early is noticed. EMULATOR_STREAMS=eager runs everything at once.
#include <chrono>
#include <ctime>

#include "driver.h"

namespace {

struct Event {
    std::atomic<bool> done{true};
    Stream* stream = nullptr;
    std::chrono::steady_clock::time_point time;
};

struct Graph {
    std::vector<Operation> operations;
};

std::atomic<long> products{0}, replays{0}, replays_waiting{0}, most_replays_waiting{0};

std::mutex streams_mutex;
auto& streams = *new std::vector<Stream*>;

bool is_eager_by_environment() {
    const char* text = getenv("EMULATOR_STREAMS");
    return text && !strcmp(text, "eager");
}

std::atomic<bool>& runs_at_once() {
    static std::atomic<bool> eager{is_eager_by_environment()};
    return eager;
}

// Processor time of the threads that ran streams: the "device's".
std::atomic<long> device_nanoseconds{0};

long thread_nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000l + now.tv_nsec;
}

struct Stopwatch {
    long start = thread_nanoseconds();
    ~Stopwatch() { device_nanoseconds += thread_nanoseconds() - start; }
};

}  // namespace

Stream& stream_of(void* handle) {
    if (handle) return *(Stream*)handle;
    return current_context ? current_context->null_stream : context_of(0).null_stream;
}

void drain(Stream& stream) {
    Stopwatch stopwatch;
    std::lock_guard<std::recursive_mutex> turn(stream.running);
    for (;;) {
        std::vector<Operation> queue;
        {
            std::lock_guard<std::mutex> lock(stream.mutex);
            queue.swap(stream.queue);
        }
        if (queue.empty()) return;
        for (Operation& operation : queue)
            if (!sticky_error) operation();
    }
}

void drain_context() {
    if (!current_context) return;
    std::vector<Stream*> own;
    {
        std::lock_guard<std::mutex> lock(streams_mutex);
        for (Stream* stream : streams)
            if (stream->context == current_context) own.push_back(stream);
    }
    own.push_back(&current_context->null_stream);
    for (Stream* stream : own) drain(*stream);
}

Result enqueue(void* handle, Operation operation) {
    if (sticky_error) return sticky_error;
    if (!current_context) return INVALID_CONTEXT;
    Stream& stream = stream_of(handle);
    if (stream.capturing) {
        stream.captured.push_back(std::move(operation));
        return SUCCESS;
    }
    {
        std::lock_guard<std::mutex> lock(stream.mutex);
        stream.queue.push_back(std::move(operation));
    }
    if (runs_at_once()) drain(stream);
    return sticky_error;
}

// For tests: whether streams run their work at once or when something waits; and how long they have been at work.
// Negative: as the environment says.
API void quire_sim_run_streams(int eager) { runs_at_once() = eager < 0 ? is_eager_by_environment() : eager != 0; }
API long quire_sim_device_nanoseconds() { return device_nanoseconds; }

// For the stand-ins of other libraries; and, for tests, how much cuBLASLt asked for.
API void quire_sim_enqueue(void* stream, Operation* operation) { enqueue(stream, std::move(*operation)); }
API void quire_sim_enqueue_product(void* stream, Operation* operation) {
    products++;
    enqueue(stream, std::move(*operation));
}
API long quire_sim_products() { return products; }

API Result cuStreamCreate(void** stream, unsigned) {
    auto* made = new Stream;
    made->context = current_context;
    std::lock_guard<std::mutex> lock(streams_mutex);
    streams.push_back(made);
    *stream = made;
    return SUCCESS;
}
API Result cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API Result cuStreamDestroy_v2(void* stream) {
    drain(stream_of(stream));
    return SUCCESS;
}
API Result cuStreamSynchronize(void* handle) {
    Stream& stream = stream_of(handle);
    if (stream.capturing) return CAPTURE_UNSUPPORTED;
    drain(stream);
    return sticky_error;
}
API Result cuStreamQuery(void* handle) {
    Stream& stream = stream_of(handle);
    std::lock_guard<std::mutex> lock(stream.mutex);
    return stream.queue.empty() ? (Result)sticky_error : NOT_READY;
}
API Result cuStreamWaitEvent(void* stream, void* handle, unsigned) {
    auto* event = (Event*)handle;
    return enqueue(stream, [event] {
        if (!event->done && event->stream) drain(*event->stream);
    });
}
API Result cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    return enqueue(stream, [=] { function(data); });
}

API Result cuEventCreate(void** event, unsigned) {
    *event = new Event;
    return SUCCESS;
}
// A queue may still name it.
API Result cuEventDestroy_v2(void*) { return SUCCESS; }
API Result cuEventRecord(void* handle, void* stream) {
    auto* event = (Event*)handle;
    event->done = false;
    event->stream = &stream_of(stream);
    return enqueue(stream, [event] {
        event->time = std::chrono::steady_clock::now();
        event->done = true;
    });
}
API Result cuEventQuery(void* event) {
    if (sticky_error) return sticky_error;
    return ((Event*)event)->done ? SUCCESS : NOT_READY;
}
API Result cuEventSynchronize(void* handle) {
    auto* event = (Event*)handle;
    if (recording) return CAPTURE_UNSUPPORTED;
    if (!event->done && event->stream) drain(*event->stream);
    return sticky_error;
}
// Of the emulator, which says nothing about a GPU.
API Result cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    std::chrono::duration<float, std::milli> span = ((Event*)end)->time - ((Event*)start)->time;
    *milliseconds = span.count();
    return SUCCESS;
}

API Result cuStreamBeginCapture_v2(void* handle, int) {
    Stream& stream = stream_of(handle);
    if (stream.capturing || !handle) return CAPTURE_UNSUPPORTED;
    stream.capturing = true;
    recording++;
    stream.captured.clear();
    return SUCCESS;
}
API Result cuStreamIsCapturing(void* stream, int* status) {
    *status = stream_of(stream).capturing;
    return SUCCESS;
}
API Result cuStreamEndCapture(void* handle, void** graph) {
    Stream& stream = stream_of(handle);
    if (!stream.capturing) return INVALID_VALUE;
    stream.capturing = false;
    recording--;
    *graph = new Graph{std::move(stream.captured)};
    return SUCCESS;
}
API Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    *executable = new Graph(*(Graph*)graph);
    return SUCCESS;
}
API Result cuGraphLaunch(void* executable, void* stream) {
    auto* graph = (Graph*)executable;
    replays++;
    if (++replays_waiting > most_replays_waiting) most_replays_waiting = replays_waiting.load();
    return enqueue(stream, [graph] {
        replays_waiting--;
        for (Operation& operation : graph->operations)
            if (!sticky_error) operation();
    });
}
// For tests: graphs that were launched.
API long quire_sim_replays() { return replays; }
// For tests: how many of them were launched and had not run, at most since this was asked last.
API long quire_sim_most_replays_waiting() { return most_replays_waiting.exchange(0); }
API Result cuGraphUpload(void*, void*) { return SUCCESS; }
API Result cuGraphExecDestroy(void* executable) {
    delete (Graph*)executable;
    return SUCCESS;
}
API Result cuGraphDestroy(void* graph) {
    delete (Graph*)graph;
    return SUCCESS;
}
