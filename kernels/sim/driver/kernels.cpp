// Modules and launches: the kernels are linked into this library, so every module holds all of them.
#include "driver.h"

namespace {

std::atomic<long> launches{0}, launches_together{0};

// For each kernel whether it has run.
std::vector<std::atomic<bool>>& have_run() {
    static std::vector<std::atomic<bool>> all(sim::kernels().size());
    return all;
}

// Arguments as they were at the launch.
struct Arguments {
    std::vector<std::unique_ptr<char[], void (*)(void*)>> copies;
    std::vector<void*> pointers;
};

// Beginning of the names of the kernels that run, where the others are to take no time; empty: all.
std::string& runs_only = *new std::string;

std::shared_ptr<Arguments> copy_arguments(const sim::Kernel& kernel, void** arguments) {
    auto out = std::make_shared<Arguments>();
    for (size_t i = 0; i < kernel.sizes.size(); i++) {
        auto* copy = (char*)aligned_alloc(64, (kernel.sizes[i] + 63) / 64 * 64);
        memcpy(copy, arguments[i], kernel.sizes[i]);
        out->copies.emplace_back(copy, free);
        out->pointers.push_back(copy);
    }
    return out;
}

// What is planted in launches that are recorded into graphs.
std::string& planted_in_recordings = *new std::string;

// A bug planted in the launches of some kernels, for tests: EMULATOR_PLANT=<beginning of their names>:<what>. False: the
// launch is left out.
bool plant(const sim::Kernel& kernel, sim::Grid& grid, void** arguments) {
    static const char* by_environment = getenv("EMULATOR_PLANT");
    const char* planted = recording ? planted_in_recordings.c_str() : by_environment;
    const char* colon = planted ? strchr(planted, ':') : nullptr;
    if (!colon || strncmp(kernel.name, planted, (size_t)(colon - planted))) return true;
    std::string what = colon + 1;
    if (what == "not launched") return false;
    if (what == "a block less" && grid.blocks.x > 1) grid.blocks.x--;
    if (what == "half the threads") grid.threads.x /= 2;
    if (what == "another address") {
        for (size_t i = 0; i < kernel.sizes.size(); i++) {
            if (kernel.sizes[i] != 8) continue;
            *(char**)arguments[i] += 256;
            break;
        }
    }
    if (what == "an argument one larger") {
        for (size_t i = kernel.sizes.size(); i-- > 0;) {
            if (kernel.sizes[i] != 4) continue;
            ++*(int*)arguments[i];
            break;
        }
    }
    return true;
}

// Of EMULATOR_PLANT=<beginning of their names>:<what> N: what, when this is the Nth launch of such kernels, replays of
// graphs among them; else nothing.
std::string planted_now(const sim::Kernel& kernel) {
    static const char* planted = getenv("EMULATOR_PLANT");
    static std::atomic<long> met{0};
    const char* colon = planted ? strchr(planted, ':') : nullptr;
    const char* number = colon ? strrchr(colon, ' ') : nullptr;
    if (!number || atol(number) < 1 || strncmp(kernel.name, planted, (size_t)(colon - planted))) return "";
    return ++met == atol(number) ? std::string(colon + 1, number) : "";
}

// The first number where the third address among the arguments points to: of `sample_rows`, a logit.
void make_no_number(void** arguments) {
    float* numbers;
    memcpy(&numbers, (const char*)arguments[0] + 2 * sizeof(void*), sizeof numbers);
    *numbers = NAN;
}

Result launch(void* function, sim::Grid grid, void* stream, void** arguments) {
    const auto* kernel = (const sim::Kernel*)function;
    size_t threads = (size_t)grid.threads.x * grid.threads.y * grid.threads.z;
    if (threads < 1 || threads > sim::MAX_THREADS || grid.shared_bytes > sim::MAX_SHARED_BYTES) return INVALID_VALUE;
    if (!grid.blocks.x || !grid.blocks.y || !grid.blocks.z) return INVALID_VALUE;
    if (grid.blocks.y > 65535 || grid.blocks.z > 65535) return INVALID_VALUE;
    auto copies = copy_arguments(*kernel, arguments);
    if (!plant(*kernel, grid, copies->pointers.data())) return SUCCESS;
    return enqueue(stream, [=] {
        launches++;
        have_run()[(size_t)(kernel - sim::kernels().data())].store(true, std::memory_order_relaxed);
        const std::string planted = planted_now(*kernel);
        if (planted == "fault") {  // as one that reads beyond its memory
            sticky_error = LAUNCH_FAILED;
            return;
        }
        if (planted == "not a number") make_no_number(copies->pointers.data());
        if (strncmp(kernel->name, runs_only.c_str(), runs_only.size())) return;
        if (sim::launch(grid, kernel->body, copies->pointers.data())) return;
        fprintf(stderr, "emulator: kernel %s failed\n", kernel->name);
        sticky_error = LAUNCH_FAILED;
    });
}

}  // namespace

API Result cuModuleLoadData(void** module, const void*) {
    *module = (void*)1;
    return SUCCESS;
}
API Result cuModuleUnload(void*) { return SUCCESS; }
API Result cuModuleGetFunctionCount(unsigned* count, void*) {
    *count = (unsigned)sim::kernels().size();
    return SUCCESS;
}
API Result cuModuleEnumerateFunctions(void** functions, unsigned count, void*) {
    for (unsigned i = 0; i < count; i++) functions[i] = &sim::kernels()[i];
    return SUCCESS;
}
API Result cuModuleGetFunction(void** function, void*, const char* name) {
    for (sim::Kernel& kernel : sim::kernels()) {
        if (strcmp(kernel.name, name)) continue;
        *function = &kernel;
        return SUCCESS;
    }
    return NOT_FOUND;
}
API Result cuFuncGetName(const char** name, void* function) {
    *name = ((sim::Kernel*)function)->name;
    return SUCCESS;
}
API Result cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* bytes) {
    const auto& sizes = ((sim::Kernel*)function)->sizes;
    if (index >= sizes.size()) return INVALID_VALUE;
    size_t at = 0;
    for (size_t i = 0; i < index; i++) at += sizes[i];
    *offset = at;
    *bytes = sizes[index];
    return SUCCESS;
}
API Result cuFuncSetAttribute(void*, int, int) { return SUCCESS; }
API Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, size_t) {
    *blocks = 2;
    return SUCCESS;
}

API Result cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                          unsigned shared, void* stream, void** arguments, void**) {
    return launch(function, {dim3(x, y, z), dim3(tx, ty, tz), shared, false}, stream, arguments);
}
API Result cuLaunchCooperativeKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty,
                                     unsigned tz, unsigned shared, void* stream, void** arguments) {
    launches_together++;
    return launch(function, {dim3(x, y, z), dim3(tx, ty, tz), shared, true}, stream, arguments);
}

// For benches: from now on only kernels whose names begin so run, and no matrix product does.
API void quire_sim_run_only(const char* text) { runs_only = text; }
API int quire_sim_runs_all() { return runs_only.empty(); }

// For tests: as EMULATOR_PLANT, for what is recorded from now on.
API void quire_sim_plant_in_recordings(const char* text) { planted_in_recordings = text; }

API Result cuTensorMapEncodeTiled(CUtensorMap* map, int type, unsigned rank, void* base, const uint64_t* size,
                                  const uint64_t* stride, const unsigned* box, const unsigned*, int, int swizzle, int, int) {
    static const int bytes_of_type[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
    if (rank > 5 || type > 9 || (uintptr_t)base % 16) return INVALID_VALUE;
    memset(map, 0, sizeof *map);
    map->base = (const uint8_t*)base;
    map->element_bytes = (uint32_t)bytes_of_type[type];
    map->rank = rank;
    for (unsigned i = 0; i < rank; i++) {
        map->size[i] = size[i];
        map->box[i] = box[i];
        if (i == 0) continue;
        map->stride[i] = stride[i - 1];
        if (stride[i - 1] % 16) return INVALID_VALUE;
    }
    map->swizzle = swizzle == 3 ? 128 : swizzle == 2 ? 64 : swizzle == 1 ? 32 : 0;
    return SUCCESS;
}

// For tests: kernels that have run, how often and, from `index` on in the list of all, which one has not; null: each has.
API long quire_sim_launches() { return launches; }
// Launches whose blocks may wait for each other; one that is replayed counts when it is recorded.
API long quire_sim_launches_together() { return launches_together; }
API const char* quire_sim_has_not_run(size_t* index) {
    for (; *index < have_run().size(); ++*index)
        if (!have_run()[*index]) return sim::kernels()[(*index)++].name;
    return nullptr;
}
