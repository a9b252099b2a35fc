//! A page, as far as it says what it is.

use std::collections::BTreeMap;

use encoding_rs::Encoding;
use html5gum::{Token, Tokenizer};
use serde_json::{Map, Value, json};

/// A property is cut off behind this many characters.
const MOST_CHARACTERS: usize = 1_000;
/// Properties that are told.
const MOST_PROPERTIES: usize = 64;
/// Where a page names its encoding (HTML, "Determining the character encoding").
const ENCODING_WITHIN: usize = 1_024;

/// What stands in a page's head, and its first picture.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// `og:…`, and what says the same in other words.
    properties: BTreeMap<String, String>,
    title: String,
    description: String,
    first_picture: Option<String>,
}

impl Page {
    /// Reads a page, or its beginning.
    pub(crate) fn read(bytes: &[u8], content_type: &str) -> Self {
        let (text, _, _) = encoding(bytes, content_type).decode(bytes);
        let mut page = Self::default();
        let mut in_title = false;
        for token in Tokenizer::new(text.as_ref()) {
            let Ok(token) = token;
            match token {
                Token::StartTag(tag) => {
                    let attribute = |name: &[u8]| {
                        let found = tag.attributes.iter().find(|(key, _)| key.0 == name);
                        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                    };
                    match tag.name.as_slice() {
                        b"title" => in_title = page.title.is_empty(),
                        b"meta" => page.note_property(
                            attribute(b"property"),
                            attribute(b"name"),
                            attribute(b"content"),
                        ),
                        b"img" if page.first_picture.is_none() => {
                            page.first_picture =
                                attribute(b"src").filter(|source| !source.starts_with("data:"));
                        }
                        _ => {}
                    }
                }
                Token::EndTag(tag) if tag.name.as_slice() == b"title" => in_title = false,
                Token::String(text) if in_title && page.title.len() < MOST_CHARACTERS => {
                    page.title.push_str(&String::from_utf8_lossy(&text));
                }
                _ => {}
            }
        }
        page
    }

    fn note_property(&mut self, property: Option<String>, name: Option<String>, content: Option<String>) {
        let (Some(name), Some(content)) = (property.or(name), content) else { return };
        let name = name.trim().to_ascii_lowercase();
        if name == "description" && self.description.is_empty() {
            self.description.clone_from(&content);
        }
        let known = name.starts_with("og:") || name.starts_with("twitter:");
        if known && name.len() <= 64 && self.properties.len() < MOST_PROPERTIES {
            self.properties.entry(name).or_insert(content);
        }
    }

    /// What is told of the page.
    pub(crate) fn open_graph(&self) -> Map<String, Value> {
        let mut told: Map<String, Value> = self
            .properties
            .iter()
            .filter(|(name, content)| name.starts_with("og:") && !content.trim().is_empty())
            .map(|(name, content)| (name.clone(), json!(plain(content))))
            .collect();
        let twitter = |name: &str| self.properties.get(name).map(String::as_str).unwrap_or_default();
        for (name, others) in [
            ("og:title", [twitter("twitter:title"), self.title.as_str()]),
            ("og:description", [twitter("twitter:description"), self.description.as_str()]),
        ] {
            let other = others.into_iter().map(plain).find(|other| !other.is_empty());
            if let Some(other) = other {
                told.entry(name).or_insert_with(|| json!(other));
            }
        }
        told
    }

    /// The address of its picture, as it stands in the page.
    pub(crate) fn picture(&self) -> Option<String> {
        let named = ["og:image:secure_url", "og:image", "og:image:url", "twitter:image"];
        let named = named.into_iter().find_map(|name| self.properties.get(name));
        named.or(self.first_picture.as_ref()).map(|address| address.trim().to_owned())
    }
}

/// On one line, and not too long.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MOST_CHARACTERS).collect()
}

fn encoding(bytes: &[u8], content_type: &str) -> &'static Encoding {
    let beginning =
        String::from_utf8_lossy(bytes.get(..ENCODING_WITHIN).unwrap_or(bytes)).to_ascii_lowercase();
    let label = |text: &str| {
        let (_, rest) = text.split_once("charset=")?;
        let rest = rest.trim_start_matches(['"', '\'']);
        let end =
            rest.find(|character: char| !(character.is_ascii_alphanumeric() || "-_:".contains(character)));
        Encoding::for_label(rest.get(..end.unwrap_or(rest.len()))?.as_bytes())
    };
    label(&content_type.to_ascii_lowercase()).or_else(|| label(&beginning)).unwrap_or(encoding_rs::UTF_8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(html: &str) -> Map<String, Value> {
        Page::read(html.as_bytes(), "text/html").open_graph()
    }

    #[test]
    fn a_page_is_what_it_says() {
        let html = "<html><head><title>Other</title><META Property='og:title' content='A &amp; B'>\
                    <meta name=description content='Some\n  words'><meta property=og:image content=/a.png></head>\
                    <body><img src='/b.png'><title>late</title></body></html>";
        let page = Page::read(html.as_bytes(), "text/html");
        let told = page.open_graph();
        assert_eq!((&told["og:title"], &told["og:description"]), (&json!("A & B"), &json!("Some words")));
        assert_eq!(page.picture().as_deref(), Some("/a.png"));
    }

    #[test]
    fn a_page_without_words_for_it_is_looked_at() {
        let html = "<title> The\n title </title><p><img src=data:xyz><img src=b.png>";
        assert_eq!(told(html)["og:title"], "The title");
        assert_eq!(Page::read(html.as_bytes(), "").picture().as_deref(), Some("b.png"));
        assert_eq!(told(""), Map::new());
        assert_eq!(told("<title>").len(), 0);
        assert_eq!(told("\u{0}<<<title<meta property='og:title'").len(), 0);
        let long = told(&format!("<title>{}</title>", "é".repeat(5_000)));
        assert_eq!(long["og:title"].as_str().unwrap().chars().count(), MOST_CHARACTERS);
    }

    #[test]
    fn old_encodings_are_read() {
        let latin = b"<meta charset=iso-8859-1><title>\xe9t\xe9</title>";
        assert_eq!(Page::read(latin, "text/html").open_graph()["og:title"], "été");
        let said = b"<title>\xe9t\xe9</title>";
        assert_eq!(Page::read(said, "text/html; charset=\"ISO-8859-1\"").open_graph()["og:title"], "été");
    }
}
