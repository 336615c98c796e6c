//! Writes GGUF files: small ones for tests, random-weight ones for benches.

use std::io::{self, Write};

use super::TensorInfo;
use super::ggml_type::tensor_num_bytes;
use super::parse::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
use super::value::ValueType;

/// A GGUF version 3 file in the making: keys and the tensor table first, the data streamed by [`Self::write`].
///
/// It writes what it is told, also what a reader must reject, so that tests can say it.
pub struct GgufWriter {
    keys: Vec<u8>,
    num_keys: u64,
    alignment: u64,
    tensors: Vec<TensorInfo>,
    data_len: u64,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    pub fn new() -> Self {
        let tensors = Vec::new();
        Self { keys: Vec::new(), num_keys: 0, alignment: DEFAULT_ALIGNMENT, tensors, data_len: 0 }
    }

    pub fn string(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, ValueType::String as u32, &string_bytes(value.as_bytes()))
    }

    pub fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.raw(key, ValueType::U16 as u32, &value.to_le_bytes())
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.raw(key, ValueType::U32 as u32, &value.to_le_bytes())
    }

    pub fn u64(&mut self, key: &str, value: u64) -> &mut Self {
        self.raw(key, ValueType::U64 as u32, &value.to_le_bytes())
    }

    pub fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.raw(key, ValueType::I32 as u32, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.raw(key, ValueType::F32 as u32, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, ValueType::Bool as u32, &[u8::from(value)])
    }

    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let elements: Vec<u8> =
            values.iter().flat_map(|value| string_bytes(value.as_ref().as_bytes())).collect();
        self.array(key, ValueType::String as u32, values.len() as u64, &elements)
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, ValueType::F32 as u32, values.len() as u64, &elements)
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, ValueType::I32 as u32, values.len() as u64, &elements)
    }

    pub fn u32s(&mut self, key: &str, values: &[u32]) -> &mut Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, ValueType::U32 as u32, values.len() as u64, &elements)
    }

    pub fn bools(&mut self, key: &str, values: &[bool]) -> &mut Self {
        let elements: Vec<u8> = values.iter().map(|&value| u8::from(value)).collect();
        self.array(key, ValueType::Bool as u32, values.len() as u64, &elements)
    }

    /// An array with the element type and count it is said to have, whatever the bytes are.
    pub fn array(&mut self, key: &str, type_id: u32, count: u64, elements: &[u8]) -> &mut Self {
        let mut bytes = type_id.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(elements);
        self.raw(key, ValueType::Array as u32, &bytes)
    }

    /// A value of the type it is said to have, whatever the bytes are.
    pub fn raw(&mut self, key: &str, type_id: u32, value: &[u8]) -> &mut Self {
        self.keys.extend(string_bytes(key.as_bytes()));
        self.keys.extend(type_id.to_le_bytes());
        self.keys.extend(value);
        self.num_keys += 1;
        self
    }

    /// Lays out the data with `alignment` instead of 32 and says so; call it before [`Self::tensor`].
    pub fn alignment(&mut self, alignment: u32) -> &mut Self {
        self.alignment = u64::from(alignment);
        self.u32(ALIGNMENT_KEY, alignment)
    }

    /// Declares a tensor of `dims` (ggml order) whose data follows that of the ones before.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ggml_type: u32) -> io::Result<&mut Self> {
        let num_bytes = tensor_num_bytes(dims, ggml_type).map_err(|text| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {text}"))
        })?;
        let offset = self.data_len;
        self.data_len = (offset + num_bytes).next_multiple_of(self.alignment);
        Ok(self.raw_tensor(TensorInfo {
            name: name.to_owned(),
            dims: dims.to_vec(),
            ggml_type,
            offset,
            num_bytes,
            split: 0,
        }))
    }

    /// Declares a tensor at the offset it is said to have, from the start of the data.
    pub fn raw_tensor(&mut self, tensor: TensorInfo) -> &mut Self {
        self.tensors.push(tensor);
        self
    }

    /// Everything before the data, padded to where the data starts.
    pub fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.num_keys.to_le_bytes());
        bytes.extend(&self.keys);
        for tensor in &self.tensors {
            bytes.extend(string_bytes(tensor.name.as_bytes()));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.ggml_type.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment as usize), 0);
        bytes
    }

    /// Writes the file; `data` writes the `num_bytes` of each tensor, in the order they were declared.
    pub fn write<W: Write>(
        &self,
        out: &mut W,
        mut data: impl FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        out.write_all(&self.header())?;
        for tensor in &self.tensors {
            let mut counted = Counted { out, num_bytes: 0 };
            data(tensor, &mut counted)?;
            let written = counted.num_bytes;
            if written != tensor.num_bytes {
                let TensorInfo { name, num_bytes, .. } = tensor;
                let text = format!("{name}: {written} bytes were written for {num_bytes}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let padding = written.next_multiple_of(self.alignment) - written;
            out.write_all(&vec![0; padding as usize])?;
        }
        out.flush()
    }

    /// The file in memory, with zeros for data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len() + self.data_len as usize, 0);
        bytes
    }
}

fn string_bytes(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

struct Counted<'a, W> {
    out: &'a mut W,
    num_bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.num_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
