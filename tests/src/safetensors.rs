//! Reads the golden safetensors files: little-endian F32 and I32 tensors by name.

use std::path::Path;

use quire_engine::weights::safetensors::SafetensorsFile;

/// A golden file.
pub struct Safetensors(SafetensorsFile);

impl Safetensors {
    pub fn open(path: &Path) -> Self {
        Self(SafetensorsFile::open(path).unwrap_or_else(|error| panic!("{error}")))
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
        self.0.tensor(name).is_some()
    }

    fn words(&self, name: &str, dtype: &str) -> impl Iterator<Item = [u8; 4]> + '_ {
        let tensor = self.0.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(tensor.dtype, dtype, "{name}");
        self.0.tensor_bytes(tensor).as_chunks::<4>().0.iter().copied()
    }
}
