// one_shot_*: x = Σ x of all ranks, added in their order, in one launch on each GPU. A rank puts its numbers where all can
// read them, tells each, waits until each has told it, and adds up (the one-shot all-reduce of TensorRT-LLM and vLLM).
#include "vectors.cuh"

constexpr int MAX_RANKS = 8, BLOCKS = 16;

// What lies at the beginning of a rank's memory; zeros before the first launch.
struct Desk {
    unsigned turns[BLOCKS];                // launches so far, counted here: a graph replays the same arguments
    unsigned arrivals[BLOCKS][MAX_RANKS];  // the last turn for which a block of each rank brought its numbers
    unsigned is_called_off;                // what the host said, for this launch and all later ones
};
constexpr size_t DESK_BYTES = 1024, ROOM_BYTES = 512 << 10;
static_assert(sizeof(Desk) <= DESK_BYTES, "");

struct OneShot {
    char* of_rank[MAX_RANKS];  // the memory of each: its desk, then two rooms
    void* x;
    const unsigned* called_off;  // in memory of the host: not 0 when a rank will never come
    unsigned rank, num_ranks, pieces, unused;  // `pieces`: of 16 bytes
};

// Block b of a rank waits for the blocks b of the others only, so all blocks of a launch must be on the GPU together. A room
// is written again two launches later: by then every rank has come to the launch between, so has read it.
template <class T>
__device__ __forceinline__ void one_shot(const OneShot& a) {
    constexpr int N = 16 / sizeof(T);
    Desk& own = *(Desk*)a.of_rank[a.rank];
    unsigned turn = own.turns[blockIdx.x] + 1;
    size_t room = DESK_BYTES + (turn & 1) * ROOM_BYTES;
    unsigned first = blockIdx.x * blockDim.x + threadIdx.x, stride = gridDim.x * blockDim.x;
    for (unsigned i = first; i < a.pieces; i += stride) ((uint4*)(a.of_rank[a.rank] + room))[i] = ((const uint4*)a.x)[i];
    __syncthreads();  // the numbers are in the room
    if (threadIdx.x < a.num_ranks) {
        Desk& other = *(Desk*)a.of_rank[threadIdx.x];
        __threadfence_system();
        st_release_system(&other.arrivals[blockIdx.x][a.rank], turn);
        const unsigned* arrival = &own.arrivals[blockIdx.x][threadIdx.x];
        // A rank that was here may be in the next launch already.
        auto has_come = [&] { return (int)(ld_acquire_system(arrival) - turn) >= 0; };
        for (unsigned polls = 1; !has_come() && !ld_acquire_system(&own.is_called_off); polls++) {
            // The host's memory is far.
            if (polls % 256 == 0 && ld_acquire_system(a.called_off)) st_release_system(&own.is_called_off, 1);
            __nanosleep(20);
        }
    }
    __syncthreads();  // all ranks have brought theirs
    for (unsigned i = first; i < a.pieces; i += stride) {
        float sum[N], more[N];
        load_numbers(sum, (const T*)(a.of_rank[0] + room) + i * N);
        for (unsigned rank = 1; rank < a.num_ranks; rank++) {
            load_numbers(more, (const T*)(a.of_rank[rank] + room) + i * N);
#pragma unroll
            for (int k = 0; k < N; k++) sum[k] += more[k];
        }
        store_numbers((T*)a.x + i * N, sum);
    }
    if (threadIdx.x == 0) own.turns[blockIdx.x] = turn;
}

extern "C" __global__ void __launch_bounds__(256) one_shot_f32(const __grid_constant__ OneShot a) { one_shot<float>(a); }
KERNEL_EXPORT(one_shot_f32);

extern "C" __global__ void __launch_bounds__(256) one_shot_bf16(const __grid_constant__ OneShot a) { one_shot<bf16>(a); }
KERNEL_EXPORT(one_shot_bf16);
