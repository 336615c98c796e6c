//! Whatever the bytes are, opening ends with a file or an error.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::support::{file_of, open};

#[derive(Debug, Clone)]
enum Patch {
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Truncate(usize),
    /// In place of the digits at a position, where there are some.
    Number(usize, u64),
}

fn patch() -> impl Strategy<Value = Patch> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..8);
    let edge = prop_oneof![any::<u64>(), (0u32..64).prop_map(|shift| 1 << shift), 0u64..64];
    prop_oneof![
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Patch::Overwrite(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Patch::Insert(at, bytes)),
        (any::<usize>(), 1usize..16).prop_map(|(at, count)| Patch::Remove(at, count)),
        any::<usize>().prop_map(Patch::Truncate),
        (any::<usize>(), edge).prop_map(|(at, number)| Patch::Number(at, number)),
    ]
}

fn apply(bytes: &mut Vec<u8>, patch: &Patch) {
    let length = bytes.len() + 1;
    match patch {
        Patch::Overwrite(at, new) => {
            let at = at % length;
            let end = (at + new.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&new[..end - at]);
        }
        Patch::Insert(at, new) => {
            let at = at % length;
            bytes.splice(at..at, new.iter().copied());
        }
        Patch::Remove(at, count) => {
            let at = at % length;
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Patch::Truncate(to) => bytes.truncate(to % length),
        Patch::Number(at, number) => {
            let at = at % length;
            let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(at..at + digits, number.to_string().into_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patched_files(patches in prop::collection::vec(patch(), 1..4), keeps_length in any::<bool>()) {
        let shapes = [("a", vec![4, 8]), ("b", vec![16]), ("c", vec![2, 2, 2])];
        let shapes: BTreeMap<String, Vec<u64>> =
            shapes.map(|(name, shape)| (name.to_owned(), shape)).into();
        let mut bytes = file_of(&shapes);
        let header_end = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let data = bytes.split_off(header_end);
        let mut header = bytes.split_off(if keeps_length { 8 } else { 0 });
        patches.iter().for_each(|patch| apply(&mut header, patch));
        if keeps_length {
            // The header is read to its end, whatever became of it.
            bytes = (header.len() as u64).to_le_bytes().to_vec();
        }
        if let Ok(file) = open([bytes, header, data].concat()) {
            for tensor in file.tensors() {
                prop_assert_eq!(file.tensor_bytes(tensor).len() as u64, tensor.num_bytes);
                prop_assert_eq!(file.tensor(&tensor.name), Some(tensor));
            }
        }
    }
}
