// What `index_scores` and `choose_positions` share.
#pragma once
#include "prims.cuh"

// As `ChooseArgs` in cuda.rs.
struct ChooseArgs {
    uint32_t* out;                    // [rows][top_k]
    float* scores;                    // [rows of this launch][scores_stride]
    const bf16* queries;              // [rows, heads, head_dim], rows queries_stride apart
    const float* weights;             // [rows, heads], rows weights_stride apart
    const bf16* keys;                 // [block][block_size][head_dim]
    const uint32_t* query_start_loc;  // [num_seqs + 1]
    const uint32_t* context_lens;     // [num_seqs]
    const uint32_t* block_tables;     // [table rows][max_blocks]
    const uint32_t* rows;             // [num_seqs]: table row of each sequence
    int first_row;                    // of this launch
    int num_seqs, max_blocks, block_size;
    int heads, head_dim, top_k;
    int scores_stride, queries_stride, weights_stride;
};

// What the query of a row sees: so many positions, in the blocks of `table`. Rows of no sequence see nothing.
struct IndexRow {
    int row, num_positions;
    const uint32_t* table;

    __device__ __forceinline__ IndexRow(const ChooseArgs& a, int row_) : row(row_), num_positions(0), table(nullptr) {
        int low = 0, high = a.num_seqs;  // query_start_loc[low] <= row < query_start_loc[high]
        if (row >= (int)a.query_start_loc[high]) return;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if ((int)a.query_start_loc[middle] <= row) low = middle; else high = middle;
        }
        const int after = (int)a.query_start_loc[low + 1] - row;
        num_positions = (int)a.context_lens[low] + 1 - after;
        table = a.block_tables + (size_t)a.rows[low] * a.max_blocks;
    }
};
