//! The house rules, checked on the source tree: who imports whom, lengths, where `unsafe` lives, what each op has.
//!
//! Every rule is a function from the tree to complaints, and is tested on a tree with a planted violation.

mod planted;
mod rules;
mod source;

use source::Tree;

#[test]
fn imports_follow_the_stages() {
    none(rules::imports(&Tree::read()));
}

#[test]
fn the_engine_reads_json_in_one_place() {
    none(rules::json(&Tree::read()));
}

#[test]
fn files_and_functions_are_short() {
    none(rules::lengths(&Tree::read()));
}

#[test]
fn unsafe_lives_in_kernels_alone() {
    none(rules::unsafe_code(&Tree::read()));
}

#[test]
fn each_op_has_reference_cpu_and_cases() {
    none(rules::ops(&Tree::read()));
}

#[test]
fn nothing_is_left_undone() {
    none(rules::leftovers(&Tree::read()));
}

#[test]
fn each_file_says_its_role() {
    none(rules::first_lines(&Tree::read()));
}

#[test]
fn architecture_names_every_folder() {
    none(rules::architecture(&Tree::read()));
}

#[test]
fn reports_are_listed() {
    none(rules::reports(&Tree::read()));
}

#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
