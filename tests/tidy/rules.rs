//! The rules: each a function from the tree to its complaints.

use std::path::Path;

use crate::source::{Tree, code_only, functions, has_word};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

/// A crate, and the crates of this workspace that it may name.
const EDGES: &[(&str, &[&str])] = &[
    ("scheduler", &[]),
    ("kernels", &[]),
    ("engine", &["scheduler", "kernels"]),
    ("proto", &[]),
    ("server", &["engine", "proto"]),
    ("benches", &["scheduler", "kernels", "engine", "server", "proto"]),
    ("tests", &["scheduler", "kernels", "engine", "server", "proto"]),
];

/// What must not reach below the front-ends.
const KEPT_FROM_ENGINE: &[&str] = &["tokio", "axum", "hyper", "tonic"];

/// Model directories are described in JSON: only their readers may name what reads it.
const JSON_OF_ENGINE: &str = "engine/src/weights/";

/// Folders of `kernels/src` that are no op.
const NO_OPS: &[&str] = &["cpu", "cuda"];

/// `proto → server → engine → {scheduler, kernels}`, in the manifests and in the text.
pub(crate) fn imports(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for &(name, allowed) in EDGES {
        let others = EDGES.iter().map(|&(other, _)| other);
        let forbidden: Vec<&str> =
            others.filter(|other| *other != name && !allowed.contains(other)).collect();
        let manifest = format!("{name}/Cargo.toml");
        let entries = dependencies(tree.get(&manifest).unwrap_or(""));
        for (section, entry) in &entries {
            if forbidden.iter().any(|other| *entry == format!("quire-{other}")) {
                complaints.push(format!("{manifest}: {name} must not depend on {entry}"));
            }
            let is_shipped = !section.starts_with("dev-");
            if name == "scheduler" && is_shipped {
                complaints
                    .push(format!("{manifest}: scheduler must have no dependencies ({entry})"));
            }
            if name == "engine" && is_shipped && KEPT_FROM_ENGINE.contains(&entry.as_str()) {
                complaints.push(format!("{manifest}: engine must not use {entry}"));
            }
        }
        for (path, text) in tree.with_ending(".rs") {
            let is_own = path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
            let code = if is_own { code_only(text) } else { String::new() };
            for other in &forbidden {
                if has_word(&code, &format!("quire_{other}")) {
                    complaints.push(format!("{path}: {name} must not name quire_{other}"));
                }
            }
        }
    }
    complaints
}

/// JSON enters the engine through the readers of model files alone.
pub(crate) fn json(tree: &Tree) -> Vec<String> {
    tree.with_ending(".rs")
        .filter(|(path, _)| path.starts_with("engine/src/") && !path.starts_with(JSON_OF_ENGINE))
        .filter(|(_, text)| {
            let code = code_only(text);
            has_word(&code, "serde") || has_word(&code, "serde_json")
        })
        .map(|(path, _)| format!("{path}: JSON is read in {JSON_OF_ENGINE} alone"))
        .collect()
}

/// Files and functions short enough to read at once.
pub(crate) fn lengths(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for ending in [".rs", ".cu", ".cuh"] {
        for (path, text) in tree.with_ending(ending) {
            let num_lines = text.lines().count();
            if num_lines > MAX_FILE_LINES {
                complaints.push(format!("{path}: {num_lines} lines, {MAX_FILE_LINES} at most"));
            }
        }
    }
    for (path, text) in tree.with_ending(".rs") {
        for function in functions(text) {
            if function.num_lines > MAX_FUNCTION_LINES {
                let (line, name, num_lines) = (function.line, function.name, function.num_lines);
                complaints.push(format!(
                    "{path}:{line}: {name} has {num_lines} lines, {MAX_FUNCTION_LINES} at most"
                ));
            }
        }
    }
    complaints
}

/// `unsafe` stays in `kernels`, each with its reason beside it.
pub(crate) fn unsafe_code(tree: &Tree) -> Vec<String> {
    tree.with_ending(".rs")
        .filter(|(path, text)| {
            !path.starts_with("kernels/") && has_word(&code_only(text), "unsafe")
        })
        .map(|(path, _)| format!("{path}: unsafe belongs in kernels"))
        .collect()
}

/// Every op has its oracle, its CPU path and its cases, and its cases are run.
pub(crate) fn ops(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let listed = code_only(tree.get("kernels/src/cases.rs").unwrap_or(""));
    for op in tree.folders_in("kernels/src/") {
        let has = |file: &str| tree.get(&format!("kernels/src/{op}/{file}")).is_some();
        if NO_OPS.contains(&op) || !has("mod.rs") {
            continue;
        }
        for file in ["reference.rs", "cpu.rs", "cases.rs"] {
            if !has(file) && !has(&file.replace(".rs", "/mod.rs")) {
                complaints.push(format!("kernels/src/{op}: no {file}"));
            }
        }
        if !has_word(&listed, op) {
            complaints.push(format!("kernels/src/cases.rs: the cases of {op} are not listed"));
        }
    }
    complaints
}

/// No placeholder, no note to do it later, no test that is not run.
pub(crate) fn leftovers(tree: &Tree) -> Vec<String> {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut complaints = Vec::new();
    for (path, text) in tree.with_ending(".rs") {
        let code = code_only(text);
        for note in notes.iter().filter(|note| has_word(text, note)) {
            complaints.push(format!("{path}: {note}"));
        }
        for left in ["todo!", "unimplemented!", "#[ignore"] {
            if code.contains(left) {
                complaints.push(format!("{path}: {left}"));
            }
        }
    }
    complaints
}

/// The first line of a file is its role.
pub(crate) fn first_lines(tree: &Tree) -> Vec<String> {
    tree.with_ending(".rs")
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| format!("{path}: the first line is not a //! doc"))
        .collect()
}

/// ARCHITECTURE.md names every top-level folder, and the folders of engine and server, as `name/`, and no file that is gone.
pub(crate) fn architecture(tree: &Tree) -> Vec<String> {
    let Some(text) = tree.get("ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md is missing".into()];
    };
    let mut complaints = Vec::new();
    for parent in ["", "engine/src/", "server/src/"] {
        for folder in tree.folders_in(parent) {
            if !text.contains(&format!("{folder}/")) && !text.contains(&format!("`{folder}`")) {
                complaints.push(format!("ARCHITECTURE.md does not mention {parent}{folder}/"));
            }
        }
    }
    let is_there = |name: &str| {
        tree.files.keys().any(|path| path == name || path.ends_with(&format!("/{name}")))
    };
    let quoted = text.split('`').filter(|name| !name.contains([' ', '<']));
    let files = quoted.filter(|name| Path::new(name).extension().is_some_and(|it| it == "rs"));
    let gone = files.filter(|name| !is_there(name));
    complaints.extend(gone.map(|name| format!("ARCHITECTURE.md names {name}, which is not there")));
    complaints
}

/// The list of reports has each that is kept, and none that is gone.
pub(crate) fn reports(tree: &Tree) -> Vec<String> {
    const FOLDER: &str = "benches/results/";
    let list = tree.get("benches/results/README.md").unwrap_or("");
    let listed: Vec<&str> =
        list.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let reports = tree.with_ending(".md").filter_map(|(path, _)| path.strip_prefix(FOLDER));
    let own: Vec<&str> = reports.filter(|name| *name != "README.md").collect();
    let unlisted = own.iter().filter(|name| !listed.contains(name));
    let gone = listed.iter().filter(|name| !own.contains(name));
    let unlisted = unlisted.map(|name| format!("{FOLDER}README.md does not list {name}"));
    unlisted
        .chain(gone.map(|name| format!("{FOLDER}README.md lists {name}, which is gone")))
        .collect()
}

/// The dependencies of a manifest, each with its section's name.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            // Of `target.'cfg(…)'.dependencies`, what counts is the end; of `dependencies.libc`, both parts.
            let (table, entry) = match name.split_once("dependencies.") {
                Some((before, entry)) => (format!("{before}dependencies"), Some(entry)),
                None => (name.to_owned(), None),
            };
            let table = table.rsplit('.').next().unwrap_or("").to_owned();
            section = if entry.is_some() { String::new() } else { table.clone() };
            found.extend(entry.map(|entry| (table, entry.to_owned())));
        } else if section.ends_with("dependencies") && !line.starts_with('#') {
            let end = line.find(['.', '=', ' ']).unwrap_or(line.len());
            if end > 0 {
                found.push((section.clone(), line[..end].trim_matches('"').to_owned()));
            }
        }
    }
    found
}
