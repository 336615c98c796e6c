//! Models in several files.

use std::fs;
use std::path::Path;

use expect_test::expect;
use quire_engine::weights::gguf::{GgufFile, GgufWriter, SplitName};

use crate::support::{F32, Folder};

/// The message of opening `name`, without the folder.
fn error(folder: &Folder, name: &str) -> String {
    folder.without(&GgufFile::open(&folder.path(name)).unwrap_err().to_string())
}

struct Split {
    index: u16,
    count: u16,
    num_tensors: i32,
    tensor: &'static str,
}

fn write(path: &Path, split: &Split) {
    let mut writer = GgufWriter::new();
    if split.index == 0 {
        writer.string("general.architecture", "llama");
    }
    writer
        .u16("split.no", split.index)
        .u16("split.count", split.count)
        .i32("split.tensors.count", split.num_tensors)
        .tensor(split.tensor, &[2], F32)
        .unwrap();
    let mut bytes = Vec::new();
    let fill = [split.index as u8; 8];
    writer.write(&mut bytes, |_, out| out.write_all(&fill)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Three good splits, then `change` to one of them.
fn folder(name: &str, change: impl Fn(&mut Split)) -> Folder {
    let folder = Folder::new(name);
    for (index, tensor) in ["a", "b", "c"].into_iter().enumerate() {
        let mut split = Split { index: index as u16, count: 3, num_tensors: 3, tensor };
        change(&mut split);
        write(&folder.path(&format!("m-{:05}-of-00003.gguf", index + 1)), &split);
    }
    folder
}

#[test]
fn any_split_opens_the_whole() {
    let folder = folder("whole", |_| {});
    for number in 1..=3 {
        let file = GgufFile::open(&folder.path(&format!("m-{number:05}-of-00003.gguf"))).unwrap();
        assert_eq!(file.path(), folder.path("m-00001-of-00003.gguf"));
        assert_eq!(file.metadata().require_string("general.architecture").unwrap(), "llama");
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            let tensor = file.tensor(name).unwrap();
            assert_eq!(file.tensor_bytes(tensor), [index as u8; 8]);
        }
        let sizes =
            fs::read_dir(folder.path("")).unwrap().map(|f| f.unwrap().metadata().unwrap().len());
        assert_eq!(file.num_bytes(), sizes.sum::<u64>());
    }
}

#[test]
fn splits_that_do_not_fit_together() {
    let name = "m-00001-of-00003.gguf";
    let missing = folder("missing", |_| {});
    fs::remove_file(missing.path("m-00002-of-00003.gguf")).unwrap();
    let mut messages = vec![error(&missing, name)];
    fs::remove_file(missing.path("m-00003-of-00003.gguf")).unwrap();
    messages.push(error(&missing, name));
    fs::rename(missing.path(name), missing.path("m.gguf")).unwrap();
    messages.push(error(&missing, "m.gguf"));
    fs::rename(missing.path("m.gguf"), missing.path("m-00002-of-00003.gguf")).unwrap();
    messages.push(error(&missing, "m-00002-of-00003.gguf"));

    let second = |change: fn(&mut Split)| {
        move |split: &mut Split| {
            if split.index == 1 {
                change(split);
            }
        }
    };
    messages.push(error(&folder("no", second(|split| split.index = 2)), name));
    messages.push(error(&folder("count", second(|split| split.count = 4)), name));
    messages.push(error(&folder("tensors", second(|split| split.num_tensors = 4)), name));
    messages.push(error(&folder("sum", |split| split.num_tensors = 5), name));
    messages.push(error(&folder("twice", second(|split| split.tensor = "a")), name));
    messages.push(error(&folder("many", |split| split.count = 60_000), name));
    let empty = Folder::new("none");
    messages.push(error(&empty, "none.gguf"));
    fs::create_dir(empty.path("folder.gguf")).unwrap();
    messages.push(error(&empty, "folder.gguf"));
    fs::write(empty.path("empty.gguf"), []).unwrap();
    messages.push(error(&empty, "empty.gguf"));
    expect![[r#"
        m-00001-of-00003.gguf: is one of 3 splits; missing beside it: m-00002-of-00003.gguf
        m-00001-of-00003.gguf: is one of 3 splits; missing beside it: m-00002-of-00003.gguf and 1 more
        m.gguf: is one of 3 splits, but its name does not end in -00001-of-00003.gguf, so that the others cannot be found
        m-00002-of-00003.gguf: key "split.no": is 0; the name and the other splits say 1
        m-00002-of-00003.gguf: key "split.no": is 2; the name and the other splits say 1
        m-00002-of-00003.gguf: key "split.count": is 4; the name and the other splits say 3
        m-00002-of-00003.gguf: key "split.tensors.count": is 4; the name and the other splits say 3
        m-00001-of-00003.gguf: key "split.tensors.count": is 5, but the splits hold 3 tensors
        m-00001-of-00003.gguf: tensor "a": occurs twice
        m-00001-of-00003.gguf: key "split.count": is 60000; at most 4096 splits are read
        none.gguf: cannot be read: No such file or directory (os error 2)
        folder.gguf: is not a regular file
        empty.gguf: is not a GGUF file: it starts with """#]].assert_eq(&messages.join("\n"));
}

#[test]
fn split_names() {
    let name = SplitName::parse("a-b-00002-of-00010.gguf").unwrap();
    assert_eq!((name.model.as_str(), name.index, name.count), ("a-b", 1, 10));
    assert_eq!(name.file_name(9), "a-b-00010-of-00010.gguf");
    for other in ["a.gguf", "a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf"] {
        assert_eq!(SplitName::parse(other), None, "{other}");
    }
}
