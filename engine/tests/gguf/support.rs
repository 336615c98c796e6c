//! A small valid model, ways to open bytes, and folders to write in.

use std::fs;
use std::path::{Path, PathBuf};

use quire_engine::weights::gguf::{GgufError, GgufFile, GgufWriter};

pub(crate) const F32: u32 = 0;
pub(crate) const Q4_K: u32 = 12;
pub(crate) const Q8_0: u32 = 8;

pub(crate) fn open(bytes: Vec<u8>) -> Result<GgufFile, GgufError> {
    GgufFile::from_bytes(Path::new("small.gguf"), bytes)
}

pub(crate) fn open_error(bytes: Vec<u8>) -> String {
    open(bytes).err().map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

/// One value of each kind.
pub(crate) fn small_writer() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .string("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .u64("llama.context_length", 4096)
        .i32("llama.negative", -1)
        .u16("llama.narrow", 7)
        .f32("llama.rope.freq_base", 10000.0)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strings("tokenizer.ggml.tokens", &["<s>", "", "ü", "▁the"])
        .f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.5, f32::NEG_INFINITY])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1])
        .u32s("llama.attention.head_count", &[4, 8])
        .bools("llama.attention.sliding_window_pattern", &[true, false]);
    writer
}

pub(crate) fn small_model() -> GgufWriter {
    let mut writer = small_writer();
    for (name, dims, ggml_type) in [
        ("token_embd.weight", vec![64, 4], Q8_0),
        ("blk.0.attn_q.weight", vec![256, 3], Q4_K),
        ("output_norm.weight", vec![5], F32),
    ] {
        writer.tensor(name, &dims, ggml_type).unwrap();
    }
    writer
}

/// `bytes` with `value` written at `position`.
pub(crate) fn patched(mut bytes: Vec<u8>, position: usize, value: &[u8]) -> Vec<u8> {
    bytes[position..position + value.len()].copy_from_slice(value);
    bytes
}

/// A folder of one test's own, removed when it ends.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quire-gguf-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `text` with the paths in it relative to this folder.
    pub(crate) fn without(&self, text: &str) -> String {
        text.replace(&format!("{}{}", self.0.display(), std::path::MAIN_SEPARATOR), "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
