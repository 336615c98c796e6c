//! What a valid file holds comes back, by key and type.

use std::io::Write;

use expect_test::expect;
use quire_engine::weights::WeightLoader;
use quire_engine::weights::gguf::{GgufWriter, type_layout};
use quire_kernels::{Device, Tensor, WeightPolicy, embedding};

use crate::support::{open, small_model, small_writer};

#[test]
fn values_come_back() {
    let file = open(small_model().to_bytes()).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.require_string("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.u32("llama.block_count").unwrap(), Some(2));
    assert_eq!(metadata.require_u64("llama.block_count").unwrap(), 2);
    assert_eq!(metadata.u32("llama.context_length").unwrap(), Some(4096));
    assert_eq!(metadata.u32("llama.narrow").unwrap(), Some(7));
    assert_eq!(metadata.i64("llama.negative").unwrap(), Some(-1));
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), Some(10000.0));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap();
    assert_eq!(scores, Some(vec![0.0, -1.0, -2.5, f32::NEG_INFINITY]));
    assert_eq!(metadata.i32s("tokenizer.ggml.token_type").unwrap(), Some(vec![3, 1, 1, 1]));
    assert_eq!(metadata.u32s("tokenizer.ggml.token_type").unwrap(), Some(vec![3, 1, 1, 1]));
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().expect("it is there");
    assert_eq!(tokens.iter().collect::<Vec<_>>(), ["<s>", "", "ü", "▁the"]);
    assert_eq!((tokens.len(), &tokens[2], tokens.get(4)), (4, "ü", None));
    assert!(!metadata.contains("absent"));
    assert_eq!(metadata.u32("absent").unwrap(), None);
    assert_eq!(metadata.keys().count(), 12);
}

#[test]
fn a_scalar_or_an_array_gives_one_value_a_layer() {
    let file = open(small_model().to_bytes()).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.u32_or_u32s("llama.attention.head_count", 2).unwrap(), Some(vec![4, 8]));
    assert_eq!(metadata.u32_or_u32s("llama.block_count", 3).unwrap(), Some(vec![2, 2, 2]));
    let pattern = metadata.bool_or_bools("llama.attention.sliding_window_pattern", 2).unwrap();
    assert_eq!(pattern, Some(vec![true, false]));
    assert_eq!(metadata.bool_or_bools("absent", 2).unwrap(), None);
}

#[test]
fn wrong_types_are_named() {
    let file = open(small_model().to_bytes()).unwrap();
    let metadata = file.metadata();
    let messages = [
        metadata.require_u64("llama.none").unwrap_err(),
        metadata.u32("general.architecture").unwrap_err(),
        metadata.u32("llama.negative").unwrap_err(),
        metadata.f32("llama.block_count").unwrap_err(),
        metadata.string("llama.block_count").unwrap_err(),
        metadata.bool("llama.block_count").unwrap_err(),
        metadata.strings("tokenizer.ggml.scores").unwrap_err(),
        metadata.f32s("tokenizer.ggml.token_type").unwrap_err(),
        metadata.i32s("tokenizer.ggml.tokens").unwrap_err(),
        metadata.u32("llama.attention.head_count").unwrap_err(),
        metadata.u32_or_u32s("llama.attention.head_count", 3).unwrap_err(),
        metadata.u32_or_u32s("llama.block_count", 1 << 40).unwrap_err(),
    ]
    .map(|error| error.to_string())
    .join("\n");
    expect![[r#"
        small.gguf: key "llama.none": is missing
        small.gguf: key "general.architecture": is a string, not a u32
        small.gguf: key "llama.negative": is the i32 -1, not a u32
        small.gguf: key "llama.block_count": is the u32 2, not an f32
        small.gguf: key "llama.block_count": is the u32 2, not a string
        small.gguf: key "llama.block_count": is the u32 2, not a bool
        small.gguf: key "tokenizer.ggml.scores": is an array of 4 f32, not an array of string
        small.gguf: key "tokenizer.ggml.token_type": is an array of 4 i32, not an array of f32: element 0 does not fit
        small.gguf: key "tokenizer.ggml.tokens": is an array of 4 string, not an array of i32
        small.gguf: key "llama.attention.head_count": is an array of 2 u32, not a u32
        small.gguf: key "llama.attention.head_count": has 2 values for 3 layers
        small.gguf: key "llama.block_count": 1099511627776 layers are more than 65536"#]].assert_eq(&messages);
}

#[test]
fn text_that_is_not_utf8_fails_only_when_read() {
    let mut writer = GgufWriter::new();
    let bad = [2u64.to_le_bytes().as_slice(), b"\xC3("].concat();
    // The two halves of one character: valid together, not apart.
    let cut =
        [1u64.to_le_bytes().as_slice(), b"\xC3", 1u64.to_le_bytes().as_slice(), b"\xBC"].concat();
    writer.raw("name", 8, &bad).array("cut", 8, 2, &cut).array("bad", 8, 1, &bad).u32("fine", 1);
    let file = open(writer.to_bytes()).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.u32("fine").unwrap(), Some(1));
    let messages = [
        metadata.string("name").unwrap_err(),
        metadata.strings("cut").unwrap_err(),
        metadata.strings("bad").unwrap_err(),
    ]
    .map(|error| error.to_string())
    .join("\n");
    expect![[r#"
        small.gguf: key "name": is a string that is not UTF-8, not a string
        small.gguf: key "cut": is an array of string whose element 0 is not UTF-8, not an array of string
        small.gguf: key "bad": is an array of string whose element 0 is not UTF-8, not an array of string"#]].assert_eq(&messages);
}

#[test]
fn tensors_come_back_with_their_data() {
    for alignment in [8, 32, 4096] {
        let mut writer = small_writer();
        writer.alignment(alignment);
        writer.tensor("b", &[5], 0).unwrap().tensor("a", &[32, 2], 8).unwrap();
        let mut bytes = Vec::new();
        let fill = |byte: u8| move |out: &mut dyn Write| out.write_all(&[byte; 20]);
        writer
            .write(&mut bytes, |tensor, out| match tensor.name.as_str() {
                "b" => fill(1)(out),
                _ => out.write_all(&[2; 68]),
            })
            .unwrap();
        let file = open(bytes.clone()).unwrap();
        assert_eq!(file.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let (a, b) = (file.tensor("a").unwrap(), file.tensor("b").unwrap());
        assert_eq!((a.dims.as_slice(), a.ggml_type, a.num_bytes), ([32, 2].as_slice(), 8, 68));
        assert_eq!(a.num_elements(), 64);
        assert_eq!(file.tensor_bytes(a), [2; 68]);
        assert_eq!(file.tensor_bytes(b), [1; 20]);
        assert_eq!(a.offset % u64::from(alignment), 0);
        assert_eq!(file.num_bytes(), bytes.len() as u64);
        assert!(file.tensor("c").is_none());
    }
}

#[test]
fn every_type_number_has_a_layout_or_advice() {
    for id in 0..64 {
        let removed = matches!(id, 4 | 5 | 31..=33 | 36..=38);
        match type_layout(id) {
            Ok(layout) => assert!(!removed && id <= 42 && layout.id == id),
            Err(text) => assert!((removed || id > 42) && text.contains("re-quantise"), "{text}"),
        }
    }
    assert!(type_layout(u32::MAX).is_err());
}

/// Two blocks of NVFP4: scales of 1, codes that stand for 6 (doubled: 12).
#[test]
fn a_factor_beside_an_nvfp4_tensor_multiplies_it() {
    for factor in [None, Some(0.25)] {
        let mut writer = GgufWriter::new();
        writer.tensor("a.weight", &[64, 2], 40).unwrap();
        if factor.is_some() {
            writer.tensor("a.scale", &[1], 0).unwrap();
        }
        let mut bytes = Vec::new();
        writer
            .write(&mut bytes, |tensor, data| match tensor.name.as_str() {
                "a.scale" => data.write_all(&0.25_f32.to_le_bytes()),
                _ => data.write_all(&[&[0x38; 4][..], &[0x77; 32]].concat().repeat(2)),
            })
            .unwrap();
        let file = open(bytes).unwrap();
        for policy in [WeightPolicy::Packed, WeightPolicy::Float32] {
            let device = Device::cpu(1);
            let loader = WeightLoader::new(&file, &device, policy, &|_, _| ());
            let weight = loader.linear("a.weight", 2, 64).unwrap();
            let mut out = Tensor::from_f32(&[0.0; 64], 1, 64);
            embedding(&device, out.view_mut(), (&[1]).into(), (&weight, 0), 1.0);
            assert_eq!(out.f32(), [6.0 * factor.unwrap_or(1.0); 64], "{policy:?}");
        }
    }
}
