// Devices, contexts and errors. EMULATOR_DEVICES, EMULATOR_DRIVER (its version) and EMULATOR_MEMORY (bytes of each
// device) say what is plugged in.
#include "driver.h"

// What a test plugged in; 0: as the environment says.
static std::atomic<int> plugged_in{0};

int device_count() { return plugged_in ? plugged_in.load() : (int)setting("EMULATOR_DEVICES", 1); }
size_t device_memory() { return (size_t)setting("EMULATOR_MEMORY", 8l << 30); }

Context& context_of(int device) {
    static Context* contexts = [] {
        auto* all = new Context[16];
        for (int i = 0; i < 16; i++) all[i].device = i;
        return all;
    }();
    return contexts[device];
}

API Result cuInit(unsigned) { return device_count() ? SUCCESS : 100; }
API Result cuDriverGetVersion(int* version) {
    *version = (int)setting("EMULATOR_DRIVER", 13000);
    return SUCCESS;
}
API Result cuDeviceGetCount(int* count) {
    *count = device_count();
    return SUCCESS;
}
API Result cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= device_count()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
API Result cuDeviceGetName(char* name, int length, int) {
    snprintf(name, (size_t)length, "Quire's emulator");
    return SUCCESS;
}
API Result cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = device_memory();
    return SUCCESS;
}
// The attributes of CUdevice_attribute that are asked for; a small Hopper.
API Result cuDeviceGetAttribute(int* value, int attribute, int) {
    static const std::map<int, int> values = {{1, 1024}, {8, 49152}, {10, 32}, {16, 4}, {75, 9}, {76, 0}, {81, 233472}, {97, 232448}, {115, 1}};
    auto found = values.find(attribute);
    *value = found == values.end() ? 1 : found->second;
    return SUCCESS;
}
API Result cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = &context_of(device);
    return SUCCESS;
}
API Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API Result cuCtxGetCurrent(void** context) {
    *context = current_context;
    return SUCCESS;
}
API Result cuCtxSetCurrent(void* context) {
    current_context = (Context*)context;
    return SUCCESS;
}
// Whether devices are without a way to each other's memory.
static std::atomic<bool> is_apart{false};

// Memory of every device is memory of the host: all reach each other, as on a board with NVLink.
API Result cuDeviceCanAccessPeer(int* can_access, int device, int peer) {
    *can_access = device != peer && !is_apart;
    return SUCCESS;
}
API Result cuCtxEnablePeerAccess(void* context, unsigned flags) {
    if (!current_context || context == current_context || flags) return INVALID_VALUE;
    return SUCCESS;
}
API Result cuCtxSynchronize() {
    drain(stream_of(nullptr));
    return sticky_error;
}
API Result cuGetErrorName(int error, const char** name) {
    static const std::map<int, const char*> names = {
        {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
        {101, "CUDA_ERROR_INVALID_DEVICE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"}, {400, "CUDA_ERROR_INVALID_HANDLE"},
        {500, "CUDA_ERROR_NOT_FOUND"}, {600, "CUDA_ERROR_NOT_READY"}, {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
    auto found = names.find(error);
    *name = found == names.end() ? "an error of the emulator" : found->second;
    return SUCCESS;
}
API Result cuGetErrorString(int error, const char** text) { return cuGetErrorName(error, text); }

// For tests: the order and the asynchrony of the launches that follow; a fault is forgotten.
API void quire_sim_configure(int order, uint64_t seed, int lazy) {
    sim::settings() = {(sim::Order)order, seed | 1, lazy != 0};
    sticky_error = SUCCESS;
}

// For tests: so many devices from now on; 0: as the environment says.
API void quire_sim_plug_in(int devices) { plugged_in = devices; }

// For tests: whether devices that are opened from now on reach each other's memory.
API void quire_sim_connect(int connected) { is_apart = !connected; }
