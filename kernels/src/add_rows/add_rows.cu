// add_rows: x[r] += table[rows[r]], or row 0 for all where `rows` is null.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void add_rows(float* x, const float* table, const unsigned* rows, int cols, int x_stride, int table_stride) {
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    float* to = x + (size_t)blockIdx.x * x_stride + column;
    float values[N], added[N];
    load_numbers(values, (const float*)to);
    load_numbers(added, table + (size_t)(rows ? rows[blockIdx.x] : 0) * table_stride + column);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] += added[i];
    store_numbers(to, values);
}

#define ADD_ROWS(N)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                      \
        add_rows_##N(float* x, const float* table, const unsigned* rows, int cols, int x_stride, int table_stride) {       \
        add_rows<N>(x, table, rows, cols, x_stride, table_stride);                                                         \
    }                                                                                                                      \
    KERNEL_EXPORT(add_rows_##N)

ADD_ROWS(4);
ADD_ROWS(1);
