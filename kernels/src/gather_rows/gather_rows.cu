// out[i] = x[rows[i]]: 16 bytes a thread where rows allow, else 2. F32 rows are pairs of the latter.
#include "prims.cuh"

template <class T>
__device__ __forceinline__ void gather(T* out, const T* x, const unsigned* rows, int cols, int out_stride, int x_stride) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= cols) return;
    out[(size_t)blockIdx.y * out_stride + column] = x[(size_t)rows[blockIdx.y] * x_stride + column];
}

// Columns and strides count elements of the named size.
extern "C" __global__ void __launch_bounds__(256)
    gather_rows_16(uint4* out, const uint4* x, const unsigned* rows, int cols, int out_stride, int x_stride) {
    gather(out, x, rows, cols, out_stride, x_stride);
}
KERNEL_EXPORT(gather_rows_16);

extern "C" __global__ void __launch_bounds__(256)
    gather_rows_2(uint16_t* out, const uint16_t* x, const unsigned* rows, int cols, int out_stride, int x_stride) {
    gather(out, x, rows, cols, out_stride, x_stride);
}
KERNEL_EXPORT(gather_rows_2);
