//! Reads the golden safetensors files: little-endian F32 and I32 tensors by name.

use std::path::Path;

use serde_json::Value;

/// A golden file in memory.
pub struct Safetensors {
    header: Value,
    data: Vec<u8>,
}

impl Safetensors {
    pub fn open(path: &Path) -> Self {
        let bytes =
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (len, rest) = bytes.split_first_chunk::<8>().expect("a header length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
        let header = serde_json::from_slice(header).expect("a JSON header");
        Self { header, data: data.to_vec() }
    }

    /// All elements of an F32 tensor.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.words(name, "F32").map(f32::from_le_bytes).collect()
    }

    /// All elements of an I32 tensor of token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name, "I32").map(u32::from_le_bytes).collect()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.header.get(name).is_some()
    }

    fn words(&self, name: &str, dtype: &str) -> impl Iterator<Item = [u8; 4]> + '_ {
        let entry = &self.header[name];
        assert_eq!(entry["dtype"], dtype, "{name}");
        let offset =
            |index: usize| entry["data_offsets"][index].as_u64().expect("an offset") as usize;
        let bytes = &self.data[offset(0)..offset(1)];
        bytes.as_chunks::<4>().0.iter().copied()
    }
}
