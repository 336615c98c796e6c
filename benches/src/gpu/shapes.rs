//! Sizes that are timed: those of Llama 3.1 8B, or tiny ones to see that everything runs.

/// Dimensions of a model, and the batches that its kernels meet.
#[derive(Clone, Debug)]
pub struct Shapes {
    pub name: &'static str,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Rows of a step, for products of dense weights.
    pub rows: Vec<usize>,
    /// Rows of a step, for each quantized format.
    pub quantized_rows: Vec<usize>,
    /// Sequences and positions of each.
    pub decode: Vec<(usize, usize)>,
    /// Queries and positions of one sequence.
    pub prefill: Vec<(usize, usize)>,
    /// Memory that repeated calls walk through: far more than a cache holds.
    pub rotation_bytes: usize,
    /// Bytes of the copy, rows of the product, that limits are measured with.
    pub copy_bytes: usize,
    pub product_size: usize,
}

impl Shapes {
    pub fn full() -> Self {
        Self {
            name: "Llama-3.1-8B",
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            rows: vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096],
            quantized_rows: vec![1, 8, 16, 64, 512],
            decode: vec![
                (1, 1024),
                (1, 8192),
                (8, 1024),
                (8, 8192),
                (32, 1024),
                (32, 4096),
                (32, 8192),
                (128, 1024),
                (256, 1024),
            ],
            prefill: vec![
                (512, 512),
                (1024, 1024),
                (2048, 2048),
                (4096, 4096),
                (8192, 8192),
                (512, 8192),
            ],
            rotation_bytes: 512 << 20,
            copy_bytes: 4 << 30,
            product_size: 8192,
        }
    }

    pub fn tiny() -> Self {
        Self {
            name: "tiny",
            hidden_size: 256,
            intermediate_size: 256,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 64,
            vocab_size: 512,
            rows: vec![1, 20],
            quantized_rows: vec![1],
            decode: vec![(3, 40)],
            prefill: vec![(20, 40)],
            rotation_bytes: 1 << 12,
            copy_bytes: 1 << 16,
            product_size: 64,
        }
    }

    /// Name, out_features and in_features of a layer's products, and of the head.
    pub fn products(&self) -> [(&'static str, usize, usize); 5] {
        let (hidden, q_size) = (self.hidden_size, self.num_heads * self.head_dim);
        [
            ("qkv", q_size + 2 * self.num_kv_heads * self.head_dim, hidden),
            ("attn_output", hidden, q_size),
            ("gate_up", 2 * self.intermediate_size, hidden),
            ("down", hidden, self.intermediate_size),
            ("head", self.vocab_size, hidden),
        ]
    }
}
