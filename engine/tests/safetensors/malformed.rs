//! Files that are wrong in one known way, and the message for each.

use std::fmt::Write;

use expect_test::expect;

use crate::support::{open, with_header};

fn messages(cases: &[(&str, Vec<u8>)]) -> String {
    cases.iter().fold(String::new(), |mut all, (name, bytes)| {
        let result = open(bytes.clone());
        let message = result.err().map_or_else(|| "no error".to_owned(), |e| e.problem);
        writeln!(all, "{name}: {message}").unwrap();
        all
    })
}

/// A file with 16 bytes of data and these entries.
fn with(entries: &str) -> Vec<u8> {
    with_header(&format!("{{{entries}}}"), 16)
}

#[test]
fn headers() {
    let huge = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    expect![[r#"
        empty: is not a safetensors file: it has 0 bytes
        short: is not a safetensors file: it has 3 bytes
        lfs: is a Git LFS pointer, not the weights; fetch the file with `git lfs pull`
        2^63: is not a safetensors file: its header would have 9223372036854775808 bytes; at most 100000000 are read
        100 MB and one: is not a safetensors file: its header would have 100000001 bytes; at most 100000000 are read
        beyond the end: its header of 3 bytes lies beyond the end of the file (10 bytes): truncated, or an unfinished download
        no header: is not a safetensors file: its header is no JSON object
        no object: is not a safetensors file: its header is no JSON object
        no JSON: its header: key must be a string at line 1 column 2
        deep: its header: tensor "a": EOF while parsing a list at line 1 column 10012
        more behind it: its header: trailing characters at line 1 column 4
        padded: no error
        metadata: no error
        nothing describes the data: its tensors end at byte 10 of 11
    "#]].assert_eq(&messages(&[
        ("empty", Vec::new()),
        ("short", b"abc".to_vec()),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\n".to_vec()),
        ("2^63", huge(1 << 63)),
        ("100 MB and one", huge(100_000_001)),
        ("beyond the end", huge(3)),
        ("no header", huge(0)),
        ("no object", with_header("[]", 0)),
        ("no JSON", with_header("{,}", 0)),
        ("deep", with_header(&format!("{{\"a\": {{\"x\": {}", "[".repeat(10_000)), 0)),
        ("more behind it", with_header("{} {}", 0)),
        ("padded", with_header("{}      ", 0)),
        ("metadata", with_header(r#"{"__metadata__": {"format": "pt"}}"#, 0)),
        ("nothing describes the data", with_header("{}", 1)),
    ]));
}

#[test]
fn tensors() {
    let long = format!(r#""{}": {{}}"#, "n".repeat(1025));
    let good = r#""a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}"#;
    let one = |dtype: &str, shape: &str, offsets: &str| {
        with(&format!(
            r#""a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}"#
        ))
    };
    let two = |first: &str, second: &str| {
        let entry = |name: &str, offsets: &str| {
            format!(r#""{name}": {{"dtype": "U8", "shape": [8], "data_offsets": {offsets}}}"#)
        };
        with(&format!("{}, {}", entry("a", first), entry("b", second)))
    };
    expect![[r#"
        good: no error
        twice: tensor "a" occurs twice
        long name: its header: a tensor's name has 1025 bytes; at most 1024 are read at line 1 column 1028
        no shape: its header: tensor "a": missing field `shape` at line 1 column 47
        negative: its header: tensor "a": invalid value: integer `-4`, expected u64 at line 1 column 35
        fraction: its header: tensor "a": invalid type: floating point `4.0`, expected u64 at line 1 column 36
        9 dimensions: tensor "a": has 9 dimensions; at most 8 are read
        scalar: no error
        zero: no error
        elements overflow: tensor "a": the size of [4294967296, 4294967296] overflows
        bits overflow: tensor "a": [1152921504606846976] of F64 does not take the 0 bytes that it has
        shape: tensor "a": [3] of F32 does not take the 16 bytes that it has
        half a byte: tensor "a": [31] of F4 does not take the 16 bytes that it has
        nibbles: no error
        unknown type: no error
        backwards: tensor "a": its data at 16 to 0 does not lie within the 16 bytes of data: truncated, or an unfinished download
        beyond the end: tensor "a": its data at 0 to 20 does not lie within the 16 bytes of data: truncated, or an unfinished download
        offset of 2^64-1: tensor "a": its data at 18446744073709551614 to 18446744073709551615 does not lie within the 16 bytes of data: truncated, or an unfinished download
        three offsets: its header: tensor "a": trailing characters at line 1 column 62
        same place: the data of tensor "b" overlaps what lies before it
        overlap: the data of tensor "b" overlaps what lies before it
        gap: the data of tensor "a" leaves a gap to what lies before it
        unused end: its tensors end at byte 76 of 84
        in any order: no error
    "#]].assert_eq(&messages(&[
        ("good", with(good)),
        ("twice", with(&format!("{good}, {good}"))),
        ("long name", with(&long)),
        ("no shape", with(r#""a": {"dtype": "F32", "data_offsets": [0, 16]}"#)),
        ("negative", one("F32", "[-4]", "[0, 16]")),
        ("fraction", one("F32", "[4.0]", "[0, 16]")),
        ("9 dimensions", one("U8", "[1,1,1,1,1,1,1,1,16]", "[0, 16]")),
        ("scalar", with_header(r#"{"a": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}}"#, 8)),
        ("zero", with_header(r#"{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}"#, 0)),
        ("elements overflow", one("U8", "[4294967296, 4294967296]", "[0, 16]")),
        ("bits overflow", one("F64", "[1152921504606846976]", "[0, 0]")),
        ("shape", one("F32", "[3]", "[0, 16]")),
        ("half a byte", one("F4", "[31]", "[0, 16]")),
        ("nibbles", one("F4", "[32]", "[0, 16]")),
        ("unknown type", one("Q9", "[3]", "[0, 16]")),
        ("backwards", one("F32", "[4]", "[16, 0]")),
        ("beyond the end", one("F32", "[5]", "[0, 20]")),
        ("offset of 2^64-1", one("U8", "[1]", "[18446744073709551614, 18446744073709551615]")),
        ("three offsets", one("F32", "[4]", "[0, 16, 16]")),
        ("same place", two("[0, 8]", "[0, 8]")),
        ("overlap", two("[0, 8]", "[7, 15]")),
        (
            "gap",
            with_header(r#"{"a": {"dtype": "U8", "shape": [8], "data_offsets": [8, 16]}}"#, 16),
        ),
        ("unused end", one("U8", "[8]", "[0, 8]")),
        ("in any order", two("[8, 16]", "[0, 8]")),
    ]));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = with(r#""a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}"#);
    for length in 0..=whole.len() {
        assert_eq!(open(whole[..length].to_vec()).is_ok(), length == whole.len(), "{length}");
    }
}
