//! The grammar of model names. What passes it can be joined to a folder or an address without harm.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Result, bail};

/// `ORG/REPO`, and which of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    pub org: String,
    pub repo: String,
    pub selector: Selector,
}

/// What stands after the colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Nothing: the repository has one model.
    Only,
    /// As `Q4_K_M`.
    Quant(String),
    /// As `folder/model.gguf`.
    File(String),
}

impl ModelName {
    /// `ORG/REPO`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.org, self.repo)
    }
}

/// With the hub in front, as other programs write it.
impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf.co/{}/{}", self.org, self.repo)?;
        match &self.selector {
            Selector::Only => Ok(()),
            Selector::Quant(text) | Selector::File(text) => write!(f, ":{text}"),
        }
    }
}

impl FromStr for ModelName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (id, selector) = match text.split_once(':') {
            Some((id, selector)) => (id, Some(selector)),
            None => (text, None),
        };
        let Some((org, repo)) = id.split_once('/').filter(|(a, b)| is_name(a) && is_name(b)) else {
            bail!(
                "'{text}' is not a model name: write ORG/REPO, ORG/REPO:QUANT or ORG/REPO:FILE.gguf"
            )
        };
        let selector = match selector {
            None => Selector::Only,
            Some(file) if is_gguf(file) && is_file_path(file) => Selector::File(file.to_owned()),
            Some(quant) if is_name(quant) && !is_gguf(quant) => Selector::Quant(quant.to_owned()),
            Some(other) => {
                bail!("'{other}' is neither a quantization (as Q4_K_M) nor a .gguf file's name")
            }
        };
        Ok(Self { org: org.to_owned(), repo: repo.to_owned(), selector })
    }
}

fn is_gguf(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|ending| ending == "gguf")
}

/// Letters, digits, `.`, `_`, `-`; begins with a letter, digit or `_`; no `..`; at most 96.
pub(crate) fn is_name(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let all_known = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    starts_well && all_known && text.len() <= 96 && !text.contains("..")
}

/// Up to four such names (the last one up to 200 bytes, `+` allowed), joined by `/`.
pub(crate) fn is_file_path(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let (folders, file) = parts.split_at(parts.len() - 1);
    let file_ok = file.iter().all(|name| {
        name.len() <= 200
            && !name.contains("..")
            && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
    });
    folders.len() <= 3 && folders.iter().all(|name| is_name(name)) && file_ok
}

/// A branch, tag or commit.
pub fn check_revision(text: &str) -> Result<()> {
    if text.split('/').all(is_name) && text.len() <= 128 {
        return Ok(());
    }
    bail!("--revision '{text}' is not the name of a branch, tag or commit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        let selector = |text: &str| text.parse::<ModelName>().map(|name| name.selector).unwrap();
        assert_eq!(selector("Org/Repo-1.5B_x"), Selector::Only);
        assert_eq!(selector("o/r:Q4_K_M"), Selector::Quant("Q4_K_M".into()));
        assert_eq!(selector("o/r:UD-Q4_K_XL"), Selector::Quant("UD-Q4_K_XL".into()));
        assert_eq!(selector("o/r:a/b.Q8_0.gguf"), Selector::File("a/b.Q8_0.gguf".into()));
        assert_eq!("o/r:Q8_0".parse::<ModelName>().unwrap().id(), "o/r");
    }

    #[test]
    fn nothing_leaves_its_folder() {
        let long = format!("o/{}", "r".repeat(97));
        for text in [
            "",
            "repo",
            "/repo",
            "org/",
            "a/b/c",
            "../x",
            "o/..",
            "./r",
            "o/.hidden",
            "-o/r",
            "o /r",
            "o/r:",
            "o/r:../x.gguf",
            "o/r:/etc/x.gguf",
            "o/r:a/../x.gguf",
            "o/r:a//x.gguf",
            "o/r:..gguf",
            "o/r:.gguf",
            "o/r:a\\b.gguf",
            "o/r:x.bin/../y",
            "o/r:Q4 K",
            "o/r:a\0.gguf",
            "o/r:a/b/c/d/e.gguf",
            "https://hub/o/r",
            "o/r?x",
            "o/ř",
            long.as_str(),
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
        assert!(check_revision("refs/pr/1").is_ok());
        for text in ["", "..", "a/../b", "a b", "/main", "main/"] {
            assert!(check_revision(text).is_err(), "{text:?}");
        }
    }
}
