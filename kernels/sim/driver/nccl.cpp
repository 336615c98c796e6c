// NCCL: sums over ranks, which are threads of one process, each with its own stream. A sum runs when its stream does, waits
// there for the other ranks, and reports ranks that do not agree. Like NCCL's, it waits until somebody aborts it.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
extern "C" void quire_sim_enqueue(void*, std::function<void()>*);

namespace {

enum NcclResult { OK = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
enum Type { FLOAT32 = 7, BFLOAT16 = 9 };

struct UniqueId {
    char internal[128];
};

// What a rank brings to a sum.
struct Part {
    const void* from;
    void* to;
    size_t count;
    int type;

    size_t bytes() const { return count * (type == FLOAT32 ? 4 : 2); }
    bool agrees_with(const Part& other) const { return count == other.count && type == other.type; }
};

struct Group {
    std::mutex mutex;
    std::condition_variable changed;
    int num_ranks = 0, joined = 0, arrived = 0, left = 0;
    bool is_aborted = false, is_leaving = false, agrees = true;
    std::vector<Part> parts;
};

struct Communicator {
    std::shared_ptr<Group> group;
    int rank = 0;
    std::atomic<int> error{OK};
};

std::atomic<long> sums{0};
std::mutex groups_mutex;
auto& groups = *new std::map<std::string, std::shared_ptr<Group>>;

float read(const void* from, size_t at, int type) {
    if (type == FLOAT32) return ((const float*)from)[at];
    uint32_t bits = (uint32_t)((const uint16_t*)from)[at] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

void write(void* to, size_t at, int type, float value) {
    if (type == FLOAT32) {
        ((float*)to)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    ((uint16_t*)to)[at] = value == value ? (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16) : 0x7FFF;
}

// All ranks are there: their inputs are read before any output is written, which may be the same memory. Rounded to the
// type after each addition.
void add_up(const Group& group) {
    const Part& first = group.parts[0];
    std::vector<char> out((const char*)first.from, (const char*)first.from + first.bytes());
    for (size_t rank = 1; rank < group.parts.size(); rank++)
        for (size_t i = 0; i < first.count; i++) {
            float sum = read(out.data(), i, first.type) + read(group.parts[rank].from, i, first.type);
            write(out.data(), i, first.type, sum);
        }
    for (const Part& part : group.parts) memcpy(part.to, out.data(), out.size());
}

// Runs in the thread that waits for this rank's stream.
void take_part(Communicator& communicator, const Part& part) {
    Group& group = *communicator.group;
    std::unique_lock<std::mutex> lock(group.mutex);
    auto wait_for = [&](auto condition) {
        group.changed.wait(lock, [&] { return group.is_aborted || condition(); });
        if (group.is_aborted) communicator.error = REMOTE_ERROR;
        return !group.is_aborted;
    };
    // The sum before may still be read by others.
    if (!wait_for([&] { return !group.is_leaving; })) return;
    group.parts[(size_t)communicator.rank] = part;
    if (++group.arrived == group.num_ranks) {
        group.agrees = true;
        for (const Part& other : group.parts) group.agrees &= other.agrees_with(part);
        if (group.agrees) add_up(group);
        else fprintf(stderr, "emulator: ranks add up different things\n");
        group.is_leaving = true;
        group.changed.notify_all();
    } else if (!wait_for([&] { return group.is_leaving; })) {
        return;
    }
    if (!group.agrees) communicator.error = INVALID_USAGE;
    if (++group.left == group.num_ranks) {
        group.arrived = group.left = 0;
        group.is_leaving = false;
        group.changed.notify_all();
    }
}

Communicator* join(std::shared_ptr<Group> group, int rank) {
    auto* communicator = new Communicator;
    communicator->group = std::move(group);
    communicator->rank = rank;
    return communicator;
}

}  // namespace

API int ncclGetUniqueId(UniqueId* id) {
    static std::atomic<int> next{1};
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "group %d", next++);
    return OK;
}
// Returns when all ranks have called it.
API int ncclCommInitRank(void** handle, int num_ranks, UniqueId id, int rank) {
    if (num_ranks < 1 || rank < 0 || rank >= num_ranks) return INVALID_ARGUMENT;
    std::shared_ptr<Group> group;
    {
        std::lock_guard<std::mutex> lock(groups_mutex);
        auto& known = groups[id.internal];
        if (!known) known = std::make_shared<Group>();
        group = known;
    }
    std::unique_lock<std::mutex> lock(group->mutex);
    if (group->num_ranks && group->num_ranks != num_ranks) return INVALID_ARGUMENT;
    group->num_ranks = num_ranks;
    group->parts.resize((size_t)num_ranks);
    group->joined++;
    group->changed.notify_all();
    group->changed.wait(lock, [&] { return group->joined >= num_ranks; });
    *handle = join(group, rank);
    return OK;
}
// A queue may still name it.
API int ncclCommAbort(void* handle) {
    Group& group = *((Communicator*)handle)->group;
    std::lock_guard<std::mutex> lock(group.mutex);
    group.is_aborted = true;
    group.changed.notify_all();
    return OK;
}
API int ncclCommGetAsyncError(void* handle, int* error) {
    *error = ((Communicator*)handle)->error;
    return OK;
}
API const char* ncclGetErrorString(int error) {
    return error == INVALID_ARGUMENT ? "invalid argument"
           : error == INVALID_USAGE  ? "invalid usage"
           : error == REMOTE_ERROR   ? "a rank has left"
                                     : "an error of the emulator";
}
// What a thread groups are aborts, which may as well run one by one.
API int ncclGroupStart() { return OK; }
API int ncclGroupEnd() { return OK; }
API int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, void* handle, void* stream) {
    auto* communicator = (Communicator*)handle;
    bool is_known = (type == FLOAT32 || type == BFLOAT16) && operation == 0;
    if (!communicator || !is_known) return INVALID_ARGUMENT;
    if (communicator->error) return communicator->error;
    sums++;
    Part part{from, to, count, type};
    std::function<void()> operation_of_stream = [communicator, part] { take_part(*communicator, part); };
    quire_sim_enqueue(stream, &operation_of_stream);
    return OK;
}
// For tests: sums that were asked for; one that is replayed counts when it is recorded.
API long quire_sim_sums() { return sums; }
