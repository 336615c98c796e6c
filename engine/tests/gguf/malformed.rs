//! Files that are wrong in one known way, and the message for each.

use std::fmt::Write;

use expect_test::expect;
use quire_engine::weights::gguf::{GgufWriter, TensorInfo};

use crate::support::{F32, Q4_K, open, open_error, patched, small_model, small_writer};

fn messages(cases: Vec<(&str, Vec<u8>)>) -> String {
    cases.into_iter().fold(String::new(), |mut all, (name, bytes)| {
        writeln!(all, "{name}: {}", open_error(bytes)).unwrap();
        all
    })
}

fn tensor(name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> TensorInfo {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TensorInfo { name, dims, ggml_type, offset, num_bytes: 0, split: 0 }
}

/// A file with these tensors and 4 KiB of data.
fn with_tensors(tensors: Vec<TensorInfo>) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    for tensor in tensors {
        writer.raw_tensor(tensor);
    }
    let mut bytes = writer.header();
    bytes.resize(bytes.len() + 4096, 0);
    bytes
}

fn with_key(add: impl FnOnce(&mut GgufWriter)) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    add(&mut writer);
    writer.to_bytes()
}

#[test]
fn headers() {
    let good = small_model().to_bytes();
    expect![[r#"
        empty: small.gguf: is not a GGUF file: it starts with ""
        short: small.gguf: is not a GGUF file: it starts with "GGU"
        magic: small.gguf: is not a GGUF file: it starts with "PK\x03\x04"
        lfs: small.gguf: is a Git LFS pointer, not the model; fetch the file with `git lfs pull`
        magic only: small.gguf: is not a complete GGUF file: the file ends within a number of 4 bytes at byte 4 of 4
        version 0: small.gguf: is GGUF version 0; versions 2 and 3 are read
        version 1: small.gguf: is GGUF version 1, which has no 64-bit sizes; convert the model again
        version 4: small.gguf: is GGUF version 4; versions 2 and 3 are read
        big endian: small.gguf: is a big-endian GGUF file; only little-endian files are read, convert it with gguf_convert_endian
        2^63 tensors: small.gguf: declares 9223372036854775808 tensors; at most 262144 are read
        2^63 keys: small.gguf: declares 9223372036854775808 keys; at most 65536 are read
        -1 tensors: small.gguf: declares 18446744073709551615 tensors; at most 262144 are read
        10000 tensors: small.gguf: declares 10000 tensors, which cannot fit in its 1568 bytes
        60000 keys: small.gguf: declares 60000 keys, which cannot fit in its 1568 bytes
    "#]].assert_eq(&messages(vec![
        ("empty", Vec::new()),
        ("short", b"GGU".to_vec()),
        ("magic", b"PK\x03\x04rest of it".to_vec()),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\n".to_vec()),
        ("magic only", b"GGUF".to_vec()),
        ("version 0", patched(good.clone(), 4, &0u32.to_le_bytes())),
        ("version 1", patched(good.clone(), 4, &1u32.to_le_bytes())),
        ("version 4", patched(good.clone(), 4, &4u32.to_le_bytes())),
        ("big endian", patched(good.clone(), 4, &3u32.to_be_bytes())),
        ("2^63 tensors", patched(good.clone(), 8, &(1u64 << 63).to_le_bytes())),
        ("2^63 keys", patched(good.clone(), 16, &(1u64 << 63).to_le_bytes())),
        ("-1 tensors", patched(good.clone(), 8, &(-1i64).to_le_bytes())),
        ("10000 tensors", patched(good.clone(), 8, &10_000u64.to_le_bytes())),
        ("60000 keys", patched(good, 16, &60_000u64.to_le_bytes())),
    ]));
    let version_2 = patched(small_model().to_bytes(), 4, &2u32.to_le_bytes());
    assert!(open(version_2).is_ok());
}

#[test]
fn keys() {
    let long = "k".repeat(65_536);
    let not_utf8 = patched(with_key(|w| _ = w.u32("key", 1)), 24 + 8, b"\xFFey");
    let huge = (1u64 << 63).to_le_bytes();
    expect![[r#"
        empty key: small.gguf: the name of key 0: is empty
        long key: small.gguf: the name of key 0: has 65536 bytes; at most 65535 are read
        not UTF-8: small.gguf: the name of key 0: is not UTF-8: "\xffey"
        twice: small.gguf: key "key": occurs twice
        type 13: small.gguf: key "key": has the unknown value type 13
        bool 2: small.gguf: key "key": has a bool that is neither 0 nor 1
        bools 2: small.gguf: key "key": has a bool that is neither 0 nor 1
        nested: small.gguf: key "key": is an array of arrays, which is not supported
        string of 2^63: small.gguf: key "key": the file ends within a string of 9223372036854775808 bytes at byte 47 of 64
        array of 2^63: small.gguf: key "key": is an array of 9223372036854775808 elements; at most 1073741824 are read
        array of 2^30: small.gguf: key "key": the file ends within a value of 8589934592 bytes at byte 51 of 128
        strings of 2^63: small.gguf: key "key": is an array of 9223372036854775808 elements; at most 1073741824 are read
        strings of 2^30: small.gguf: key "key": the file ends within an array of 1073741824 strings at byte 51 of 128
        string in array: small.gguf: key "key": the file ends within a string of 9223372036854775808 bytes at byte 59 of 64
        alignment 0: small.gguf: key "general.alignment": is the u32 0, not a power of two from 8 to 1048576
        alignment 48: small.gguf: key "general.alignment": is the u32 48, not a power of two from 8 to 1048576
        alignment 4: small.gguf: key "general.alignment": is the u32 4, not a power of two from 8 to 1048576
        alignment 2^31: small.gguf: key "general.alignment": is the u32 2147483648, not a power of two from 8 to 1048576
        alignment -32: small.gguf: key "general.alignment": is the i32 -32, not a power of two from 8 to 1048576
        alignment text: small.gguf: key "general.alignment": is a string, not a power of two from 8 to 1048576
        control characters: small.gguf: key "a\u{1b}[2J": occurs twice
    "#]].assert_eq(&messages(vec![
        ("empty key", with_key(|w| _ = w.u32("", 1))),
        ("long key", with_key(|w| _ = w.u32(&long, 1))),
        ("not UTF-8", not_utf8),
        ("twice", with_key(|w| _ = w.u32("key", 1).string("key", "x"))),
        ("type 13", with_key(|w| _ = w.raw("key", 13, &[0; 8]))),
        ("bool 2", with_key(|w| _ = w.raw("key", 7, &[2]))),
        ("bools 2", with_key(|w| _ = w.array("key", 7, 3, &[0, 1, 2]))),
        ("nested", with_key(|w| _ = w.array("key", 9, 1, &[0; 64]))),
        ("string of 2^63", with_key(|w| _ = w.raw("key", 8, &huge))),
        ("array of 2^63", with_key(|w| _ = w.array("key", 10, 1 << 63, &[0; 64]))),
        ("array of 2^30", with_key(|w| _ = w.array("key", 10, 1 << 30, &[0; 64]))),
        ("strings of 2^63", with_key(|w| _ = w.array("key", 8, 1 << 63, &[0; 64]))),
        ("strings of 2^30", with_key(|w| _ = w.array("key", 8, 1 << 30, &[0; 64]))),
        ("string in array", with_key(|w| _ = w.array("key", 8, 1, &huge))),
        ("alignment 0", with_key(|w| _ = w.u32("general.alignment", 0))),
        ("alignment 48", with_key(|w| _ = w.u32("general.alignment", 48))),
        ("alignment 4", with_key(|w| _ = w.u32("general.alignment", 4))),
        ("alignment 2^31", with_key(|w| _ = w.u32("general.alignment", 1 << 31))),
        ("alignment -32", with_key(|w| _ = w.i32("general.alignment", -32))),
        ("alignment text", with_key(|w| _ = w.string("general.alignment", "32"))),
        ("control characters", with_key(|w| _ = w.bool("a\x1b[2J", true).bool("a\x1b[2J", true))),
    ]));
}

#[test]
fn tensors() {
    let long = "t".repeat(257);
    let one =
        |dims: &[u64], ggml_type, offset| with_tensors(vec![tensor("t", dims, ggml_type, offset)]);
    let two = |first: TensorInfo, second: TensorInfo| with_tensors(vec![first, second]);
    expect![[r#"
        scalar: no error
        empty name: small.gguf: the name of tensor 0: is empty
        long name: small.gguf: the name of tensor 0: has 257 bytes; at most 256 are read
        5 dims: small.gguf: tensor "t": has 5 dimensions; at most 4 are read
        2^32-1 dims: small.gguf: tensor "t": has 4294967295 dimensions; at most 4 are read
        zero: small.gguf: tensor "t": dimension 1 of [4, 0] is zero
        overflow of elements: small.gguf: tensor "t": the size of dimensions [4294967296, 4294967296] overflows
        overflow of bytes: small.gguf: tensor "t": the size of dimensions [4611686018427387904] overflows
        negative: small.gguf: tensor "t": the size of dimensions [18446744073709551584] overflows
        part of a block: small.gguf: tensor "t": a row of 255 elements is not a whole number of Q4_K blocks of 256
        removed type: small.gguf: tensor "t": ggml type 4 was removed from the format; re-quantise the model
        unknown type: small.gguf: tensor "t": ggml type 99 is unknown; re-quantise the model to a type that is known
        unaligned: small.gguf: tensor "t": its offset 4 is not a multiple of 32
        too long: small.gguf: tensor "t": its 4100 bytes at 0 of the data lie beyond the end of the file (4160 bytes): truncated, or an unfinished download
        just fits: no error
        starts at the end: small.gguf: tensor "t": its 4 bytes at 4096 of the data lie beyond the end of the file (4160 bytes): truncated, or an unfinished download
        offset of 2^64-32: small.gguf: tensor "t": its 32 bytes at 18446744073709551584 of the data lie beyond the end of the file (4160 bytes): truncated, or an unfinished download
        same name: small.gguf: tensor "t": occurs twice
        same data: small.gguf: tensor "b": its data overlaps with that of "a"
        overlap: small.gguf: tensor "a": its data overlaps with that of "b"
        gap: no error
    "#]].assert_eq(&messages(vec![
        ("scalar", one(&[], F32, 0)),
        ("empty name", with_tensors(vec![tensor("", &[1], F32, 0)])),
        ("long name", with_tensors(vec![tensor(&long, &[1], F32, 0)])),
        ("5 dims", one(&[1, 1, 1, 1, 1], F32, 0)),
        ("2^32-1 dims", patched(one(&[1], F32, 0), 24 + 9, &u32::MAX.to_le_bytes())),
        ("zero", one(&[4, 0], F32, 0)),
        ("overflow of elements", one(&[1 << 32, 1 << 32], F32, 0)),
        ("overflow of bytes", one(&[1 << 62], F32, 0)),
        ("negative", one(&[u64::MAX - 31], F32, 0)),
        ("part of a block", one(&[255, 256], Q4_K, 0)),
        ("removed type", one(&[32], 4, 0)),
        ("unknown type", one(&[32], 99, 0)),
        ("unaligned", one(&[4], F32, 4)),
        ("too long", one(&[1025], F32, 0)),
        ("just fits", one(&[1024], F32, 0)),
        ("starts at the end", one(&[1], F32, 4096)),
        ("offset of 2^64-32", one(&[8], F32, u64::MAX - 31)),
        ("same name", two(tensor("t", &[1], F32, 0), tensor("t", &[1], F32, 32))),
        ("same data", two(tensor("a", &[1], F32, 0), tensor("b", &[1], F32, 0))),
        ("overlap", two(tensor("a", &[1], F32, 32), tensor("b", &[9], F32, 0))),
        ("gap", two(tensor("a", &[1], F32, 320), tensor("b", &[8], F32, 0))),
    ]));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let mut writer = small_writer();
    writer.strings("more", &vec!["text of a certain length"; 400]);
    writer.tensor("t", &[4096], F32).unwrap();
    let bytes = writer.to_bytes();
    for length in (0..bytes.len()).step_by(4096) {
        assert!(open(bytes[..length].to_vec()).is_err(), "{length} bytes");
    }
    let small = small_model().to_bytes();
    // The last tensor's 20 bytes are followed by padding that nothing needs.
    let needed = small.len() - 12;
    for length in 0..small.len() {
        assert_eq!(open(small[..length].to_vec()).is_ok(), length >= needed, "{length} bytes");
    }
}
