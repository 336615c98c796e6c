// Segments of a step's rows and the states before and after them, as kernels meet them.
#pragma once
#include "prims.cuh"

// As `StateSegment` in recurrent_layer.rs.
struct StateSegment {
    uint32_t first_row, num_rows, from, to;
};

constexpr uint32_t NO_STATE = ~0u;

// The segments of all sequences.
struct StateBatch {
    const StateSegment* segments;
    const uint32_t* start_loc;  // [num_seqs + 1]: first segment of each sequence
    int num_seqs, rows;

    // Sequences without segments begin where the next one does.
    __device__ __forceinline__ int first_row(int seq) const {
        const uint32_t segment = start_loc[seq];
        return segment < start_loc[num_seqs] ? (int)segments[segment].first_row : rows;
    }

    // The sequence that has row `row`.
    __device__ __forceinline__ int sequence_of(int row) const {
        int low = 0, high = num_seqs;  // first_row(low) <= row < first_row(high)
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (first_row(middle) <= row) low = middle; else high = middle;
        }
        return low;
    }
};
