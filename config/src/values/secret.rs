//! Passwords, keys and the like.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// More than any key or password; a larger file is surely the wrong one.
const MAXIMUM_FILE_BYTES: u64 = 64 * 1024;

/// A text that must not be shown. In the settings either the text itself or `{ file = "/path" }`, the file being read with the
/// settings; one newline at its end is not part of the secret. Empty secrets are refused.
///
/// Neither `Debug` nor serialising shows the text. Equality is for comparing settings; it does not take constant time, so a
/// secret that a stranger presents is to be compared otherwise.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Take care where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn from_file(path: &Path) -> Result<Self, String> {
        let text = read_bounded(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let text =
            text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(format!("the file {} is empty", path.display()));
        }
        Ok(Self::new(text))
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAXIMUM_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAXIMUM_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 64 KiB"));
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

/// Where the settings say that the secret is.
enum Source {
    Here(String),
    File(PathBuf),
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(SourceVisitor)? {
            Source::Here(text) if text.is_empty() => Err(de::Error::custom("the secret is empty")),
            Source::Here(text) => Ok(Self(text)),
            Source::File(path) => Self::from_file(&path).map_err(de::Error::custom),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFile {
    file: PathBuf,
}

struct SourceVisitor;

impl SourceVisitor {
    /// Unlike the errors that are made for a visitor, this one does not show what it found: it could be the secret.
    fn wrong_type<T, E: de::Error>() -> Result<T, E> {
        Err(E::custom("expected a string or { file = \"/path/to/file\" }"))
    }
}

impl<'de> de::Visitor<'de> for SourceVisitor {
    type Value = Source;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or { file = \"/path/to/file\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Source, E> {
        Ok(Source::Here(text.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
        SecretFile::deserialize(de::value::MapAccessDeserializer::new(map))
            .map(|source| Source::File(source.file))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Source, E> {
        Self::wrong_type()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Source, E> {
        Self::wrong_type()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Source, E> {
        Self::wrong_type()
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Source, A::Error> {
        Self::wrong_type()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_text() {
        let secret = Secret::new("swordfish");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(toml::Value::try_from(&secret).expect("it serialises").as_str(), Some("[redacted]"));
    }

    #[test]
    fn one_line_end_is_trimmed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for (content, secret) in [("a b", "a b"), ("a b\n", "a b"), ("a b\r\n", "a b"), (" a\n\n", " a\n")] {
            std::fs::write(&path, content).expect("the file is written");
            assert_eq!(Secret::from_file(&path), Ok(Secret::new(secret)));
        }
    }

    #[test]
    fn missing_empty_and_huge_files_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        assert!(Secret::from_file(&path).is_err_and(|message| message.starts_with("cannot read")));
        std::fs::write(&path, "\n").expect("the file is written");
        assert!(Secret::from_file(&path).is_err_and(|message| message.ends_with("is empty")));
        std::fs::write(&path, "a".repeat(65 * 1024)).expect("the file is written");
        assert!(Secret::from_file(&path).is_err_and(|message| message.ends_with("more than 64 KiB")));
    }
}
