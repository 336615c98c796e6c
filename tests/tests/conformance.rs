//! Tiny models as GGUF with golden numbers of a reference implementation, in float32 and in the default mode.

use quire_engine::GgufFile;
use quire_engine::config::{Activations, Weights};
use quire_engine::weights::ModelFiles;
use quire_tests::distance::{Distance, check_prompt, prompts};
use quire_tests::families::FAMILIES;
use quire_tests::layers::first_wrong_layer;
use quire_tests::{start_files, tiny_model};

#[test]
fn float32_reproduces_the_golden_numbers() {
    for family in FAMILIES {
        let Some(files) = family.open_gguf() else {
            println!("{}: no GGUF file here", family.name);
            continue;
        };
        let (options, golden) = (family.options(Weights::Float32), family.golden());
        for prompt in prompts() {
            let wrong = first_wrong_layer(&files, &options, &golden, &prompt);
            assert_eq!(wrong, None, "{}", family.name);
        }
        let handle = start_files(&files, &options, &[]);
        let mut distance = Distance::default();
        for prompt in prompts() {
            check_prompt(&handle, &golden, &prompt, 0.0, &mut distance);
        }
        println!("{} float32: {distance:?}", family.name);
        assert!(distance.largest <= 2e-3, "{}: {distance:?}", family.name);
    }
}

#[test]
fn the_default_mode_stays_close() {
    for family in FAMILIES {
        let Some(files) = family.open_gguf() else {
            println!("{}: no GGUF file here", family.name);
            continue;
        };
        for activations in [family.options(Weights::Packed).activations, Activations::INT16] {
            println!("{}", family.check_packed(&files, activations));
        }
    }
}

/// Finds what a bug in one layer would change.
#[test]
fn the_first_wrong_layer_is_named() {
    let path = tiny_model("llama3");
    let bytes = std::fs::read(&path).expect("committed");
    let family = FAMILIES.iter().find(|family| family.name == "llama3").expect("a family");
    let found = |spoilt: Option<&str>| {
        let mut bytes = bytes.clone();
        if let Some(name) = spoilt {
            let file = GgufFile::from_bytes(&path, bytes.clone()).expect("a valid file");
            let start = file.tensor(name).expect("it has the tensor").offset as usize;
            // The first numbers of a matrix of BF16, or of a norm of F32.
            bytes[start..start + 64].copy_from_slice(&[0x3F; 64]);
        }
        let files: ModelFiles = GgufFile::from_bytes(&path, bytes).expect("a valid file").into();
        let options = family.options(Weights::Float32);
        first_wrong_layer(&files, &options, &family.golden(), "p3")
    };
    assert_eq!(found(None), None);
    for (name, expected) in [
        ("blk.0.attn_v.weight", "layer 0 is wrong"),
        ("blk.1.ffn_norm.weight", "layer 1 is wrong"),
        ("blk.2.attn_output.weight", "layer 2 is wrong"),
        ("blk.3.ffn_down.weight", "layer 3 or the final norm is wrong"),
        ("output_norm.weight", "layer 3 or the final norm is wrong"),
    ] {
        let message = found(Some(name)).expect("a wrong layer");
        assert!(message.starts_with(expected), "{name}: {message}");
    }
}
