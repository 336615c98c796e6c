//! Files that make our own code panic are errors of the file: nothing that a model brings may end the process.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `run` returns, or the text of its panic.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic left half done is dropped with it.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without a text"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_text() {
        let index = |at: usize| guarded(|| ["a"][at]);
        assert_eq!(index(0), Ok("a"));
        assert!(index(1).unwrap_err().starts_with("panicked: index out of bounds"));
        let text = guarded(|| std::panic::panic_any("a word"));
        assert_eq!(text.map(|(): ()| ()), Err("panicked: a word".to_owned()));
    }
}
