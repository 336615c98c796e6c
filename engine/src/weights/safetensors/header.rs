//! The header of a safetensors file to its tensor table.
//!
//! Layout: the header's length (u64, little endian), the header (one JSON object: name → dtype, shape, data offsets), data.
//! Every length and offset is compared with the bytes that are there before anything is done with it. As the format
//! asks, the tensors cover the data without a gap or an overlap.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::TensorInfo;
use super::dtype::dtype_bits;
use crate::weights::quoted;

pub const MAX_HEADER_BYTES: u64 = 100_000_000;
pub const MAX_TENSORS: usize = 1 << 20;
pub const MAX_TENSOR_NAME_BYTES: usize = 1024;
pub const MAX_DIMS: usize = 8;

/// Key of the header for what is no tensor.
const METADATA_KEY: &str = "__metadata__";
const LENGTH_BYTES: usize = 8;

/// The tensors sorted by name, with offsets from the start of the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<TensorInfo>, String> {
    let header = header(bytes)?;
    let Entries(entries) =
        serde_json::from_slice(header).map_err(|error| format!("its header: {error}"))?;
    let data_start = (LENGTH_BYTES + header.len()) as u64;
    let num_data_bytes = bytes.len() as u64 - data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let num_bytes = num_bytes(&entry, num_data_bytes)
            .map_err(|problem| format!("tensor {}: {problem}", quoted(&name)))?;
        let offset = data_start + entry.data_offsets.0;
        let Entry { dtype, shape, .. } = entry;
        tensors.push(TensorInfo { name, dtype, shape, offset, num_bytes });
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format!("tensor {} occurs twice", quoted(&pair[0].name)));
    }
    check_places(&tensors, data_start, bytes.len() as u64)?;
    Ok(tensors)
}

fn header(bytes: &[u8]) -> Result<&[u8], String> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(
            "is a Git LFS pointer, not the weights; fetch the file with `git lfs pull`".into()
        );
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("is not a safetensors file: it has {} bytes", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "is not a safetensors file: its header would have {length} bytes; at most {MAX_HEADER_BYTES} are read"
        ));
    }
    let Some(header) = rest.get(..length as usize) else {
        return Err(format!(
            "its header of {length} bytes lies beyond the end of the file ({} bytes): truncated, or an unfinished download",
            bytes.len()
        ));
    };
    if header.first() != Some(&b'{') {
        return Err("is not a safetensors file: its header is no JSON object".into());
    }
    Ok(header)
}

/// The bytes of a tensor, whose offsets, dtype and shape agree. A dtype that is not known is left to who uses it.
fn num_bytes(entry: &Entry, num_data_bytes: u64) -> Result<u64, String> {
    let (start, end) = entry.data_offsets;
    if start > end || end > num_data_bytes {
        return Err(format!(
            "its data at {start} to {end} does not lie within the {num_data_bytes} bytes of data: \
             truncated, or an unfinished download"
        ));
    }
    if entry.shape.len() > MAX_DIMS {
        return Err(format!("has {} dimensions; at most {MAX_DIMS} are read", entry.shape.len()));
    }
    let elements = entry.shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let elements = elements.ok_or_else(|| format!("the size of {:?} overflows", entry.shape))?;
    let Some(bits) = dtype_bits(&entry.dtype) else { return Ok(end - start) };
    let expected = elements.checked_mul(bits).filter(|bits| bits.is_multiple_of(8));
    if expected.map(|bits| bits / 8) != Some(end - start) {
        return Err(format!(
            "{:?} of {} does not take the {} bytes that it has",
            entry.shape,
            entry.dtype,
            end - start
        ));
    }
    Ok(end - start)
}

/// Each tensor begins where the one before it ends, and the last ends the file.
fn check_places(tensors: &[TensorInfo], data_start: u64, file_bytes: u64) -> Result<(), String> {
    let mut in_order: Vec<&TensorInfo> = tensors.iter().collect();
    in_order.sort_unstable_by_key(|tensor| (tensor.offset, tensor.num_bytes));
    let mut end = data_start;
    for tensor in in_order {
        if tensor.offset != end {
            let what = if tensor.offset < end { "overlaps" } else { "leaves a gap to" };
            let name = quoted(&tensor.name);
            return Err(format!("the data of tensor {name} {what} what lies before it"));
        }
        end += tensor.num_bytes;
    }
    if end != file_bytes {
        return Err(format!("its tensors end at byte {end} of {file_bytes}"));
    }
    Ok(())
}

/// A tensor as the header has it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All entries in order: a map would keep one of two with the same name.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if name.len() > MAX_TENSOR_NAME_BYTES {
                return Err(A::Error::custom(format!(
                    "a tensor's name has {} bytes; at most {MAX_TENSOR_NAME_BYTES} are read",
                    name.len()
                )));
            }
            if entries.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let entry = map
                .next_value()
                .map_err(|error| A::Error::custom(format!("tensor {}: {error}", quoted(&name))))?;
            entries.push((name, entry));
        }
        Ok(Entries(entries))
    }
}
