//! Whatever the bytes are, opening ends with a model or an error, soon and with little memory.

use proptest::prelude::*;
use quire_engine::weights::gguf::GgufFile;

use crate::support::{open, small_model};

/// Reads everything that a file that was accepted gives out.
fn read_all(file: &GgufFile) {
    let metadata = file.metadata();
    for key in metadata.keys() {
        let _ = (metadata.string(key), metadata.u32(key), metadata.u64(key), metadata.i64(key));
        let _ = (metadata.f32(key), metadata.bool(key), metadata.f32s(key), metadata.i32s(key));
        let _ = (metadata.bools(key), metadata.u32_or_u32s(key, 2), metadata.u32s(key));
        if let Ok(Some(strings)) = metadata.strings(key) {
            assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor_bytes(tensor).len() as u64, tensor.num_bytes);
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
    }
}

#[derive(Debug, Clone)]
enum Patch {
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Truncate(usize),
    Number(usize, u64),
}

fn patch() -> impl Strategy<Value = Patch> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..16);
    let edge = prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|shift| 1 << shift),
        (0u64..64).prop_map(|less| u64::MAX - less),
        0u64..64,
    ];
    prop_oneof![
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Patch::Overwrite(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Patch::Insert(at, bytes)),
        (any::<usize>(), 1usize..16).prop_map(|(at, count)| Patch::Remove(at, count)),
        any::<usize>().prop_map(Patch::Truncate),
        (any::<usize>(), edge).prop_map(|(at, number)| Patch::Number(at, number)),
    ]
}

fn apply(bytes: &mut Vec<u8>, patch: &Patch) {
    let overwrite = |bytes: &mut Vec<u8>, at: usize, new: &[u8]| {
        let at = at % (bytes.len() + 1);
        let end = (at + new.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&new[..end - at]);
    };
    match patch {
        Patch::Overwrite(at, new) => overwrite(bytes, *at, new),
        Patch::Number(at, number) => overwrite(bytes, *at, &number.to_le_bytes()),
        Patch::Insert(at, new) => {
            let at = at % (bytes.len() + 1);
            bytes.splice(at..at, new.iter().copied());
        }
        Patch::Remove(at, count) => {
            let at = at % (bytes.len() + 1);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Patch::Truncate(length) => bytes.truncate(length % (bytes.len() + 1)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patched_files(patches in prop::collection::vec(patch(), 1..4)) {
        let mut bytes = small_model().to_bytes();
        for patch in &patches {
            apply(&mut bytes, patch);
        }
        if let Ok(file) = open(bytes) {
            read_all(&file);
        }
    }

    #[test]
    fn random_bytes(tail in prop::collection::vec(any::<u8>(), 0..512), with_header in any::<bool>()) {
        let mut bytes = if with_header { small_model().to_bytes()[..24].to_vec() } else { Vec::new() };
        bytes.extend(tail);
        if let Ok(file) = open(bytes) {
            read_all(&file);
        }
    }
}

/// Every byte position of a small file, with every number that has broken readers.
#[test]
fn every_number_at_every_position() {
    let good = small_model().to_bytes();
    let table_end = good.len() - 4 * 2 * 34 - 432 - 32;
    for position in 0..table_end {
        for number in [0, 1, u64::from(u32::MAX), 1 << 31, 1 << 32, 1 << 61, 1 << 63, u64::MAX - 31]
        {
            let mut bytes = good.clone();
            apply(&mut bytes, &Patch::Number(position, number));
            if let Ok(file) = open(bytes) {
                read_all(&file);
            }
        }
    }
}
