//! GGUF files with keys added, for those that their converter left out.

/// A value of a key.
#[derive(Clone, Copy, Debug)]
pub enum KeyValue {
    U32(u32),
    F32(f32),
    Bools(&'static [bool]),
}

/// Magic, version, number of tensors.
const COUNT_OFFSET: usize = 16;
const HEADER_BYTES: usize = 24;
/// Where tensor data starts is a multiple of this, in files that do not say otherwise.
const ALIGNMENT: usize = 32;

/// The file with more keys in front; the tensors move by whole alignments, so what tells their place stays true.
pub fn with_keys(file: &[u8], keys: &[(&str, KeyValue)]) -> Vec<u8> {
    let mut added = Vec::new();
    for &(key, value) in keys {
        push_string(&mut added, key);
        match value {
            KeyValue::U32(value) => {
                added.extend(4_u32.to_le_bytes());
                added.extend(value.to_le_bytes());
            }
            KeyValue::F32(value) => {
                added.extend(6_u32.to_le_bytes());
                added.extend(value.to_le_bytes());
            }
            KeyValue::Bools(values) => {
                added.extend([9_u32, 7].map(u32::to_le_bytes).concat());
                added.extend((values.len() as u64).to_le_bytes());
                added.extend(values.iter().map(|&value| u8::from(value)));
            }
        }
    }
    push_string(&mut added, "test.padding");
    added.extend(8_u32.to_le_bytes());
    let padding = (added.len() + 8).next_multiple_of(ALIGNMENT) - (added.len() + 8);
    push_string(&mut added, &" ".repeat(padding));

    let mut count = [0; 8];
    count.copy_from_slice(&file[COUNT_OFFSET..HEADER_BYTES]);
    let count = u64::from_le_bytes(count) + keys.len() as u64 + 1;
    [&file[..COUNT_OFFSET], &count.to_le_bytes(), &added, &file[HEADER_BYTES..]].concat()
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
