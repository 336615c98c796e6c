//! What a user types, and which file or message it leads to.

use std::fmt::Write;
use std::fs;

use expect_test::expect;
use quire_engine::model_path::resolve_model_path;

use crate::support::Folder;

#[test]
fn typed_paths() {
    let long_list: Vec<String> = (10..40).map(|number| format!("m{number}.gguf")).collect();
    let cases: [(&str, Vec<&str>); 15] = [
        ("a.gguf", vec!["a.gguf"]),
        ("sha256-abc", vec!["sha256-abc"]),
        ("a.safetensors", vec!["a.safetensors"]),
        ("absent", vec![]),
        ("one", vec!["one/a.GGUF", "one/README.md", "one/b.gguf/"]),
        ("splits", vec!["splits/m-00003-of-00003.gguf", "splits/m-00002-of-00003.gguf"]),
        ("vision", vec!["vision/m.gguf", "vision/mmproj-m.gguf"]),
        ("projector", vec!["projector/mmproj-m.gguf"]),
        ("two", vec!["two/b.gguf", "two/a.gguf", "two/m-00001-of-00002.gguf"]),
        ("sets", vec!["sets/m-00001-of-00002.gguf", "sets/m-00001-of-00003.gguf"]),
        ("tensors", vec!["tensors/model.safetensors", "tensors/config.json"]),
        ("bare", vec!["bare/model.safetensors"]),
        ("pickle", vec!["pickle/pytorch_model.bin", "pickle/config.json"]),
        ("none", vec!["none/README.md"]),
        ("many", long_list.iter().map(String::as_str).collect()),
    ];
    let mut results = String::new();
    for (typed, files) in cases {
        let folder = Folder::new(&format!("typed-{typed}"));
        for file in files {
            let path = folder.path(if typed == "many" { "many" } else { "" }).join(file);
            fs::create_dir_all(if file.ends_with('/') { &path } else { path.parent().unwrap() })
                .unwrap();
            if !file.ends_with('/') {
                fs::write(path, []).unwrap();
            }
        }
        let result = match resolve_model_path(&folder.path(typed)) {
            Ok(path) => path.display().to_string(),
            Err(error) => error.to_string(),
        };
        writeln!(results, "{typed} -> {}", folder.without(&result)).unwrap();
    }
    expect![[r"
        a.gguf -> a.gguf
        sha256-abc -> sha256-abc
        a.safetensors -> a.safetensors: a safetensors file alone says little; pass the directory that it and config.json lie in
        absent -> absent: no such file or directory; pass a .gguf file or a model directory (nothing is downloaded)
        one -> one/a.GGUF
        splits -> splits/m-00002-of-00003.gguf
        vision -> vision/m.gguf
        projector -> projector/mmproj-m.gguf
        two -> two: the directory has several models; pass one of a.gguf, b.gguf, m-00001-of-00002.gguf
        sets -> sets: the directory has several models; pass one of m-00001-of-00002.gguf, m-00001-of-00003.gguf
        tensors -> tensors
        bare -> bare: the directory has safetensors files, but no config.json beside them
        pickle -> pickle: the directory has its weights only as pickles (pytorch_model.bin), which run code when they are read; get the model as safetensors or GGUF
        none -> none: the directory has neither a .gguf file nor safetensors with a config.json
        many -> many: the directory has several models; pass one of m10.gguf, m11.gguf, m12.gguf, m13.gguf, m14.gguf, m15.gguf, m16.gguf, m17.gguf, m18.gguf, m19.gguf, m20.gguf, m21.gguf, m22.gguf, m23.gguf, m24.gguf, m25.gguf, m26.gguf, m27.gguf, m28.gguf, m29.gguf and 10 more
    "]].assert_eq(&results);
}
