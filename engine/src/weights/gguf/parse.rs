//! The bytes of one GGUF file to its metadata and tensor table.
//!
//! Layout, little endian: magic, version, number of tensors and of keys, the keys, the tensor table, padding, data.
//! Every count, length and offset is compared with the bytes that are there before anything is done with it, and no
//! memory is reserved for what a count only promises.

use std::collections::BTreeMap;

use super::TensorInfo;
use super::error::GgufProblem;
use super::ggml_type::tensor_num_bytes;
use super::value::{Number, NumberArray, StringArray, Value, ValueType};
use crate::weights::quoted;

pub const MAX_KEYS: u64 = 65_536;
pub const MAX_TENSORS: u64 = 262_144;
pub const MAX_KEY_BYTES: u64 = 65_535;
pub const MAX_TENSOR_NAME_BYTES: u64 = 256;
pub const MAX_DIMS: u32 = 4;
/// The longest string, and the longest sum of the strings of one array.
pub const MAX_TEXT_BYTES: u64 = 1 << 30;
pub const MAX_ARRAY_ELEMENTS: u64 = 1 << 30;
pub const MAX_ALIGNMENT: u64 = 1 << 20;
/// The format asks for multiples of 8; this also makes every tensor readable in place as any element type.
pub const MIN_ALIGNMENT: u64 = 8;
pub const DEFAULT_ALIGNMENT: u64 = 32;
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// What one file declares. Offsets of the tensors are from the start of the file.
pub(super) struct ParsedFile {
    pub(super) entries: BTreeMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
}

pub(super) fn parse(bytes: &[u8], split: usize) -> Result<ParsedFile, GgufProblem> {
    let mut reader = Reader { bytes, position: 0 };
    let (num_tensors, num_keys) = header(&mut reader)?;
    let mut entries = BTreeMap::new();
    for index in 0..num_keys {
        let (key, value) = key_value(&mut reader, index)?;
        if entries.contains_key(&key) {
            return Err(GgufProblem::key(&key, "occurs twice"));
        }
        entries.insert(key, value);
    }
    let alignment = alignment(&entries)?;
    let mut tensors = Vec::new();
    for index in 0..num_tensors {
        tensors.push(tensor_info(&mut reader, index, alignment, split)?);
    }
    place_tensors(&mut tensors, reader.position as u64, alignment, bytes.len() as u64)?;
    Ok(ParsedFile { entries, tensors })
}

/// Magic, version and the two counts: (tensors, keys).
fn header(reader: &mut Reader) -> Result<(u64, u64), GgufProblem> {
    let magic = reader.bytes.get(..4).unwrap_or(reader.bytes);
    if magic != b"GGUF" {
        return Err(GgufProblem::Format(if reader.bytes.starts_with(b"version https://git-lfs") {
            "is a Git LFS pointer, not the model; fetch the file with `git lfs pull`".to_owned()
        } else {
            format!("is not a GGUF file: it starts with \"{}\"", magic.escape_ascii())
        }));
    }
    reader.position = 4;
    let format = |text| GgufProblem::Format(format!("is not a complete GGUF file: {text}"));
    let version = reader.u32().map_err(format)?;
    match version {
        2 | 3 => {}
        1 => {
            return Err(GgufProblem::Format(
                "is GGUF version 1, which has no 64-bit sizes; convert the model again".to_owned(),
            ));
        }
        swapped if matches!(swapped.swap_bytes(), 1..=3) => {
            return Err(GgufProblem::Format(
                "is a big-endian GGUF file; only little-endian files are read, convert it with gguf_convert_endian"
                    .to_owned(),
            ));
        }
        other => {
            return Err(GgufProblem::Format(format!(
                "is GGUF version {other}; versions 2 and 3 are read"
            )));
        }
    }
    let num_tensors = reader.u64().map_err(format)?;
    let num_keys = reader.u64().map_err(format)?;
    // The smallest entries: a key of one byte with a one-byte value, a scalar tensor with a one-byte name.
    for (what, count, max, min_bytes) in
        [("tensors", num_tensors, MAX_TENSORS, 25), ("keys", num_keys, MAX_KEYS, 14)]
    {
        if count > max {
            return Err(GgufProblem::Format(format!(
                "declares {count} {what}; at most {max} are read"
            )));
        }
        if count * min_bytes > reader.remaining() {
            return Err(GgufProblem::Format(format!(
                "declares {count} {what}, which cannot fit in its {} bytes",
                reader.bytes.len()
            )));
        }
    }
    Ok((num_tensors, num_keys))
}

fn key_value(reader: &mut Reader, index: u64) -> Result<(String, Value), GgufProblem> {
    let key = reader
        .name(MAX_KEY_BYTES)
        .map_err(|text| GgufProblem::Format(format!("the name of key {index}: {text}")))?;
    let value = value(reader).map_err(|text| GgufProblem::key(&key, text))?;
    Ok((key, value))
}

fn value(reader: &mut Reader) -> Result<Value, String> {
    match reader.value_type()? {
        ValueType::String => Ok(match std::str::from_utf8(reader.text()?) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => Value::NotUtf8 { element: None },
        }),
        ValueType::Array => array(reader),
        value_type => {
            let bytes = reader.fixed_size(value_type, 1)?;
            let number = Number::decode(value_type, bytes).ok_or("has no scalar value")?;
            Ok(Value::Number(number))
        }
    }
}

fn array(reader: &mut Reader) -> Result<Value, String> {
    let value_type = reader.value_type()?;
    let count = reader.u64()?;
    if count > MAX_ARRAY_ELEMENTS {
        return Err(format!(
            "is an array of {count} elements; at most {MAX_ARRAY_ELEMENTS} are read"
        ));
    }
    match value_type {
        ValueType::Array => Err("is an array of arrays, which is not supported".to_owned()),
        ValueType::String => strings(reader, count),
        _ => {
            let bytes = reader.fixed_size(value_type, count)?.into();
            Ok(Value::Numbers(NumberArray { value_type, bytes }))
        }
    }
}

fn strings(reader: &mut Reader, count: u64) -> Result<Value, String> {
    const LENGTH_BYTES: u64 = 8;
    if count * LENGTH_BYTES > reader.remaining() {
        return Err(reader.short(&format!("an array of {count} strings")));
    }
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..count {
        bytes.extend_from_slice(reader.text()?);
        let end = u32::try_from(bytes.len()).ok().filter(|&end| u64::from(end) <= MAX_TEXT_BYTES);
        ends.push(
            end.ok_or_else(|| format!("has strings of more than {MAX_TEXT_BYTES} bytes in all"))?,
        );
    }
    Ok(match StringArray::new(bytes, ends) {
        Ok(array) => Value::Strings(array),
        Err(index) => Value::NotUtf8 { element: Some(index) },
    })
}

fn alignment(entries: &BTreeMap<String, Value>) -> Result<u64, GgufProblem> {
    let Some(value) = entries.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    let number = if let Value::Number(number) = value { number.integer::<u64>() } else { None };
    number
        .filter(|n| n.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(n))
        .ok_or_else(|| {
            let found = value.describe();
            let text =
                format!("is {found}, not a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
            GgufProblem::key(ALIGNMENT_KEY, text)
        })
}

/// One entry of the tensor table; `offset` is still from the start of the data.
fn tensor_info(
    reader: &mut Reader,
    index: u64,
    alignment: u64,
    split: usize,
) -> Result<TensorInfo, GgufProblem> {
    let name = reader
        .name(MAX_TENSOR_NAME_BYTES)
        .map_err(|text| GgufProblem::Format(format!("the name of tensor {index}: {text}")))?;
    let mut rest = || {
        let num_dims = reader.u32()?;
        if num_dims > MAX_DIMS {
            return Err(format!("has {num_dims} dimensions; at most {MAX_DIMS} are read"));
        }
        let mut dims = (0..num_dims).map(|_| reader.u64()).collect::<Result<Vec<u64>, String>>()?;
        if dims.is_empty() {
            dims.push(1);
        }
        let ggml_type = reader.u32()?;
        let offset = reader.u64()?;
        if offset % alignment != 0 {
            return Err(format!("its offset {offset} is not a multiple of {alignment}"));
        }
        let num_bytes = tensor_num_bytes(&dims, ggml_type)?;
        Ok((dims, ggml_type, offset, num_bytes))
    };
    let (dims, ggml_type, offset, num_bytes) =
        rest().map_err(|text| GgufProblem::tensor(&name, text))?;
    Ok(TensorInfo { name, dims, ggml_type, offset, num_bytes, split })
}

/// Makes offsets absolute, after a check that every tensor lies in the file and no two share a byte.
fn place_tensors(
    tensors: &mut [TensorInfo],
    table_end: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), GgufProblem> {
    // Both terms are at most 2^63: a file's length and an alignment that was checked.
    let data_start = table_end.next_multiple_of(alignment);
    for tensor in &mut *tensors {
        let offset = data_start.checked_add(tensor.offset);
        let end = offset.and_then(|offset| offset.checked_add(tensor.num_bytes));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= file_len => tensor.offset = offset,
            _ => {
                let text = format!(
                    "its {} bytes at {} of the data lie beyond the end of the file ({file_len} bytes): \
                     truncated, or an unfinished download",
                    tensor.num_bytes, tensor.offset
                );
                return Err(GgufProblem::tensor(&tensor.name, text));
            }
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].num_bytes > pair[1].offset {
            let text = format!("its data overlaps with that of {}", quoted(&pair[0].name));
            return Err(GgufProblem::tensor(&pair[1].name, text));
        }
    }
    Ok(())
}

/// A position in the bytes that never passes their end.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], String> {
        if count > self.remaining() {
            return Err(self.short(&format!("{what} of {count} bytes")));
        }
        let start = self.position;
        self.position += count as usize;
        Ok(&self.bytes[start..self.position])
    }

    fn short(&self, what: &str) -> String {
        format!("the file ends within {what} at byte {} of {}", self.position, self.bytes.len())
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4, "a number")?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let bytes = self.take(8, "a number")?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn value_type(&mut self) -> Result<ValueType, String> {
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| format!("has the unknown value type {id}"))
    }

    /// `count` values of a type that is neither string nor array.
    fn fixed_size(&mut self, value_type: ValueType, count: u64) -> Result<&'a [u8], String> {
        let size = value_type.num_bytes().ok_or("has no fixed size")? as u64;
        let num_bytes = size.checked_mul(count).ok_or("has a size that overflows")?;
        let bytes = self.take(num_bytes, "a value")?;
        if value_type == ValueType::Bool && bytes.iter().any(|&byte| byte > 1) {
            return Err("has a bool that is neither 0 nor 1".to_owned());
        }
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.u64()?;
        let bytes = self.take(length, "a string")?;
        if length > MAX_TEXT_BYTES {
            return Err(format!(
                "has a string of {length} bytes; at most {MAX_TEXT_BYTES} are read"
            ));
        }
        Ok(bytes)
    }

    fn name(&mut self, max_bytes: u64) -> Result<String, String> {
        let bytes = self.text()?;
        match bytes.len() as u64 {
            0 => return Err("is empty".to_owned()),
            length if length > max_bytes => {
                return Err(format!("has {length} bytes; at most {max_bytes} are read"));
            }
            _ => {}
        }
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| format!("is not UTF-8: \"{}\"", bytes.escape_ascii()))
    }
}
