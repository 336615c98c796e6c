//! The one grammar of models' names and of digests. What passes it can be joined to a folder without harm.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `[HOST[:PORT]/][NAMESPACE/]MODEL[:TAG]`, whole: what was left out has its default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName {
    pub host: String,
    pub namespace: String,
    pub model: String,
    pub tag: String,
}

/// A text that is no name or no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "'{0}' is not a model name: write MODEL, MODEL:TAG, NAMESPACE/MODEL:TAG or HOST/NAMESPACE/MODEL:TAG"
    )]
    Name(String),
    #[error("'{0}' is not a digest: write sha256: and 64 hexadecimal digits")]
    Digest(String),
}

pub(crate) const DEFAULT_HOST: &str = "registry.ollama.ai";
pub(crate) const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

const MAX_PART: usize = 80;
const MAX_HOST: usize = 350;

impl FromStr for StoreName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError::Name(crate::error::shortened(text).into_owned());
        // A colon behind the last slash begins the tag; one before it, a port.
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, DEFAULT_TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (host, namespace, model) = match parts.as_slice() {
            [model] => (DEFAULT_HOST, DEFAULT_NAMESPACE, *model),
            [namespace, model] => (DEFAULT_HOST, *namespace, *model),
            [host, namespace, model] => (*host, *namespace, *model),
            _ => return Err(error()),
        };
        if !is_host(host) || ![namespace, model, tag].iter().all(|part| is_part(part)) {
            return Err(error());
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

/// As short as it can be read back.
impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host != DEFAULT_HOST {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if self.namespace != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

impl StoreName {
    /// Below the folder of manifests.
    pub(super) fn path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag].iter().collect()
    }
}

/// A letter or digit, then letters, digits, `_`, `-`, `.`; no `..`.
fn is_part(text: &str) -> bool {
    text.len() <= MAX_PART
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && !text.contains("..")
        && !text.ends_with('.')
}

/// As a part, but longer, with a port where it has one.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    host.len() <= MAX_HOST
        && host.split('.').all(|label| {
            label.starts_with(|c: char| c.is_ascii_alphanumeric())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// The sha256 of a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobDigest(String);

impl BlobDigest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(crate::registry::hex(&sha2::Sha256::digest(bytes)))
    }

    /// 64 hexadecimal digits, small ones.
    pub fn hex(&self) -> &str {
        &self.0
    }

    pub(super) fn file_name(&self) -> String {
        format!("sha256-{}", self.0)
    }
}

impl FromStr for BlobDigest {
    type Err = NameError;

    /// `sha256:HEX`, or `sha256-HEX` as files are called.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let hex = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-"));
        match hex {
            Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Ok(Self(hex.to_ascii_lowercase()))
            }
            _ => Err(NameError::Digest(crate::error::shortened(text).into_owned())),
        }
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_and_read_back() {
        for (text, host, shown) in [
            ("smollm2", DEFAULT_HOST, "smollm2:latest"),
            ("smollm2:135m", DEFAULT_HOST, "smollm2:135m"),
            ("me/mine:v1.0", DEFAULT_HOST, "me/mine:v1.0"),
            ("hf.co/Org/Repo-GGUF:Q4_K_M", "hf.co", "hf.co/Org/Repo-GGUF:Q4_K_M"),
            ("localhost:5000/a/b", "localhost:5000", "localhost:5000/a/b:latest"),
        ] {
            let name: StoreName = text.parse().unwrap();
            assert_eq!((name.host.as_str(), name.to_string().as_str()), (host, shown));
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn nothing_leaves_its_folder() {
        let long = "m".repeat(81);
        for text in [
            "",
            ":",
            "a:",
            ":a",
            "/",
            "a/",
            "/a",
            "..",
            "../x",
            "a/../b",
            "a..b",
            ".hidden",
            "-x",
            "a b",
            "a/b/c/d",
            "a\\b",
            "a\0b",
            "ä",
            "a:../x",
            "a:b/c",
            "a:b:c",
            "http://h/a/b",
            "h@evil/a/b",
            "h:0/a/b",
            "h:x/a/b",
            "h:99999/a/b",
            "[::1]/a/b",
            "h..x/a/b",
            "%2e%2e/a",
            "a?b",
            "a#b",
            "a.",
            &long,
        ] {
            assert!(text.parse::<StoreName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn digests_have_one_form() {
        let hex = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
        let digest: BlobDigest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(digest.hex(), hex.to_ascii_lowercase());
        assert_eq!(format!("sha256-{hex}").parse(), Ok(digest));
        for text in [
            hex.to_owned(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:../{}", &hex[3..]),
            format!("sha1:{hex}"),
            format!("sha256:{}g", &hex[1..]),
            format!("sha256/{hex}"),
            String::new(),
        ] {
            assert!(text.parse::<BlobDigest>().is_err(), "{text:?}");
        }
        assert_eq!(BlobDigest::of(b"").hex()[..8], *"e3b0c442");
    }
}
