//! Planted violations: each rule finds what it is there for, and lets the lookalikes pass.

use crate::rules;
use crate::source::{Tree, code_only, functions};

/// The complaints about the planted files hold each of `expected`, one each.
#[track_caller]
fn finds(rule: fn(&Tree) -> Vec<String>, files: &[(&str, &str)], expected: &[&str]) {
    let complaints = rule(&Tree::of(files));
    assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
    for (complaint, part) in complaints.iter().zip(expected) {
        assert!(complaint.contains(part), "{complaint} does not say {part}");
    }
}

#[test]
fn wrong_imports() {
    let engine = "[dependencies]\nquire-kernels.workspace = true\n\
                  tokio = \"1\"\n[dev-dependencies]\nserde = \"1\"\n";
    finds(rules::imports, &[("engine/Cargo.toml", engine)], &["engine must not use tokio"]);
    let scheduler =
        "[dev-dependencies]\nproptest = \"1\"\n\n[dependencies.libc]\nversion = \"1\"\n";
    finds(rules::imports, &[("scheduler/Cargo.toml", scheduler)], &["no dependencies (libc)"]);
    let target = "[target.'cfg(unix)'.dependencies]\nquire-engine = { path = \"../engine\" }\n";
    finds(rules::imports, &[("kernels/Cargo.toml", target)], &["depend on quire-engine"]);
    let server = "//! Doc.\nuse quire_engine::Request;\nuse quire_kernels::Device;\n";
    finds(rules::imports, &[("server/src/a.rs", server)], &["must not name quire_kernels"]);
    let comment = "// unlike quire_kernels\nlet text = \"quire_scheduler\";\n";
    finds(rules::imports, &[("server/src/a.rs", comment)], &[]);
    let benches = "use quire_benches::time;";
    finds(rules::imports, &[("engine/src/a.rs", benches)], &["must not name quire_benches"]);
    finds(rules::imports, &[("tests/golden.rs", "use quire_kernels::Device;")], &[]);
}

#[test]
fn json_outside_the_readers_of_files() {
    let code = "//! Doc.\nuse serde_json::Value;\n";
    finds(rules::json, &[("engine/src/engine.rs", code)], &["engine.rs: JSON is read in"]);
    finds(rules::json, &[("engine/src/models/a.rs", "#[derive(serde::Deserialize)]")], &["a.rs"]);
    finds(rules::json, &[("engine/src/weights/json.rs", code)], &[]);
    finds(rules::json, &[("server/src/a.rs", code), ("engine/tests/a.rs", code)], &[]);
    finds(rules::json, &[("engine/src/a.rs", "// no serde_json here")], &[]);
}

#[test]
fn long_files_and_functions() {
    let long = "// x\n".repeat(601);
    finds(rules::lengths, &[("engine/src/a.rs", &long)], &["601 lines"]);
    finds(rules::lengths, &[("kernels/src/a.cu", &long)], &["601 lines"]);
    let lines = |count: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(count));
    finds(rules::lengths, &[("a/b.rs", &lines(71))], &["b.rs:1: f has 71 lines"]);
    finds(rules::lengths, &[("a/b.rs", &lines(70))], &[]);
    let commented = format!("fn f() {{\n{}}}\n", "    // why\n\n".repeat(71));
    finds(rules::lengths, &[("a/b.rs", &commented)], &[]);
}

#[test]
fn unsafe_outside_kernels() {
    let code = "fn f() { unsafe { g() } }";
    finds(rules::unsafe_code, &[("engine/src/a.rs", code)], &["engine/src/a.rs"]);
    finds(rules::unsafe_code, &[("kernels/src/a.rs", code)], &[]);
    let other = "#![deny(unsafe_code)] // unsafe\nconst A: &str = r#\"unsafe \" \"#;";
    finds(rules::unsafe_code, &[("engine/src/a.rs", other)], &[]);
}

#[test]
fn ops_without_their_files() {
    let cases = ("kernels/src/cases.rs", "all.extend(moe::cases()); // rope");
    let whole =
        ["mod", "reference", "cpu", "cases"].map(|file| format!("kernels/src/moe/{file}.rs"));
    let mut files: Vec<(&str, &str)> = whole.iter().map(|path| (path.as_str(), "")).collect();
    files.push(cases);
    files.push(("kernels/src/cpu/mod.rs", ""));
    finds(rules::ops, &files, &[]);
    files.push(("kernels/src/rope/mod.rs", ""));
    files.push(("kernels/src/rope/cpu.rs", ""));
    finds(rules::ops, &files, &["no reference.rs", "no cases.rs", "cases of rope are not listed"]);
}

#[test]
fn work_left_for_later() {
    let note = concat!("// TO", "DO: later");
    finds(rules::leftovers, &[("a/b.rs", note)], &["a/b.rs"]);
    finds(rules::leftovers, &[("a/b.rs", "fn f() { todo!() }")], &["todo!"]);
    finds(rules::leftovers, &[("a/b.rs", "#[ignore = \"slow\"]\nfn f() {}")], &["#[ignore"]);
    finds(rules::leftovers, &[("a/b.rs", "const A: &str = \"todo!\";")], &[]);
}

#[test]
fn files_without_a_role() {
    finds(rules::first_lines, &[("a/b.rs", "use std::io;\n")], &["a/b.rs"]);
    finds(rules::first_lines, &[("a/b.rs", "//! Role.\n")], &[]);
}

#[test]
fn folders_that_the_map_lacks() {
    let files = [("engine/src/models/a.rs", ""), ("server/src/text/b.rs", "")];
    finds(rules::architecture, &files, &["missing"]);
    let map = [("ARCHITECTURE.md", "`engine` and server/, models/"), files[0], files[1]];
    finds(rules::architecture, &map, &["server/src/text/"]);
    let map = [(
        "ARCHITECTURE.md",
        "`engine`, server/, models/, text/: `a.rs`, `models/a.rs`, `c.rs`, `<op>/d.rs`",
    )];
    finds(rules::architecture, &[map[0], files[0], files[1]], &["c.rs"]);
}

#[test]
fn reports_without_a_line_and_lines_without_a_report() {
    let list = ("benches/results/README.md", "[a](one.md), [b](two.md)");
    let files = [list, ("benches/results/one.md", ""), ("benches/results/three.md", "")];
    finds(rules::reports, &files, &["three.md", "two.md"]);
    finds(rules::reports, &[files[0], files[1], ("benches/results/two.md", "")], &[]);
}

#[test]
fn the_scanner_knows_rust() {
    let code =
        code_only("a /* x /* y */ z */ b 'c' '\\'' 'life \"s\\\"{\" r##\"}\"#\"## b'{' r#fn 1");
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "b", "'life", "b", "r#fn", "1"]);
    let text = "trait T { fn a(&self) -> [u8; 4]; fn b() {} }\ntype F = fn(u8);\n\
                fn c<'a>(x: &'a str)\nwhere\n    T: U,\n{\n    let s = \"{\";\n    fn d() {}\n}\n";
    let found: Vec<(String, usize, usize)> =
        functions(text).into_iter().map(|f| (f.name, f.line, f.num_lines)).collect();
    let expected = [("b", 1, 0), ("c", 3, 2), ("d", 8, 0)];
    assert_eq!(found, expected.map(|(name, line, len)| (name.to_owned(), line, len)));
}
