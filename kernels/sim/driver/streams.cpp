// Streams, events and graphs. A stream is a queue: nothing runs before something waits for it, so a host that reads or
// reuses memory too early is noticed. QUIRE_SIM_STREAMS=eager runs everything at once.
#include "driver.h"

namespace {

struct Event {
    std::atomic<bool> done{true};
    Stream* stream = nullptr;
};

struct Graph {
    std::vector<Operation> operations;
};

std::mutex streams_mutex;
std::vector<Stream*> streams;

bool runs_at_once() {
    const char* text = getenv("QUIRE_SIM_STREAMS");
    return text && !strcmp(text, "eager");
}

}  // namespace

Stream& stream_of(void* handle) {
    if (handle) return *(Stream*)handle;
    return current_context ? current_context->null_stream : context_of(0).null_stream;
}

void drain(Stream& stream) {
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

void drain_all() {
    std::vector<Stream*> all;
    {
        std::lock_guard<std::mutex> lock(streams_mutex);
        all = streams;
    }
    for (int device = 0; device < device_count(); device++) all.push_back(&context_of(device).null_stream);
    for (Stream* stream : all) drain(*stream);
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

// For the stand-ins of other libraries.
API void quire_sim_enqueue(void* stream, Operation* operation) { enqueue(stream, std::move(*operation)); }

API Result cuStreamCreate(void** stream, unsigned) {
    auto* made = new Stream;
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
    return enqueue(stream, [event] { event->done = true; });
}
API Result cuEventQuery(void* event) {
    if (sticky_error) return sticky_error;
    return ((Event*)event)->done ? SUCCESS : NOT_READY;
}
API Result cuEventSynchronize(void* handle) {
    auto* event = (Event*)handle;
    if (!event->done && event->stream) drain(*event->stream);
    return sticky_error;
}
API Result cuEventElapsedTime_v2(float* milliseconds, void*, void*) {
    *milliseconds = 0;
    return SUCCESS;
}

API Result cuStreamBeginCapture_v2(void* handle, int) {
    Stream& stream = stream_of(handle);
    if (stream.capturing || !handle) return CAPTURE_UNSUPPORTED;
    stream.capturing = true;
    stream.captured.clear();
    return SUCCESS;
}
API Result cuStreamIsCapturing(void* stream, int* status) {
    *status = stream_of(stream).capturing;
    return SUCCESS;
}
API Result cuStreamEndCapture(void* handle, void** graph) {
    Stream& stream = stream_of(handle);
    stream.capturing = false;
    *graph = new Graph{std::move(stream.captured)};
    return SUCCESS;
}
API Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    *executable = new Graph(*(Graph*)graph);
    return SUCCESS;
}
API Result cuGraphLaunch(void* executable, void* stream) {
    auto* graph = (Graph*)executable;
    return enqueue(stream, [graph] {
        for (Operation& operation : graph->operations)
            if (!sticky_error) operation();
    });
}
API Result cuGraphUpload(void*, void*) { return SUCCESS; }
API Result cuGraphExecDestroy(void* executable) {
    delete (Graph*)executable;
    return SUCCESS;
}
API Result cuGraphDestroy(void* graph) {
    delete (Graph*)graph;
    return SUCCESS;
}
