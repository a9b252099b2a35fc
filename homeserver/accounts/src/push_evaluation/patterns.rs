//! Glob patterns with `*` and `?`, as the conditions of push rules have them (Appendices, "Glob-style matching"). Patterns and
//! texts are in lower case.

/// Where what a pattern matches begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// With the text.
    OfText,
    /// Not within a word of `[A-Za-z0-9_]`.
    OfWords,
}

/// Whether a pattern has no wildcards.
pub(super) fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

/// The longest part of a pattern that has no wildcards.
pub(super) fn longest_literal(pattern: &str) -> &str {
    pattern.split(['*', '?']).max_by_key(|part| part.len()).unwrap_or_default()
}

/// Whether the pattern matches something in the text that has such ends.
///
/// The parts between asterisks are found one after the other, each as early as it can be: if there is a match at all, then one
/// that has them there. So nothing is tried twice.
pub(super) fn finds(pattern: &str, text: &str, ends: Ends) -> bool {
    let mut parts = pattern.split('*').peekable();
    let (mut at, mut is_first) = (0, true);
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let fits = |start: usize, end: usize| {
            (!is_first || may_start(text, start, ends)) && (!is_last || may_end(text, end, ends))
        };
        let Some(end) = find_part(part, text, at, fits) else { return false };
        (at, is_first) = (end, false);
    }
    true
}

/// Whether words stand in the text as they are.
pub(super) fn contains_words(words: &str, text: &str) -> bool {
    starts_from(text, 0).any(|start| {
        let is_here = text.get(start..).is_some_and(|rest| rest.starts_with(words));
        is_here && is_boundary(text, start) && is_boundary(text, start + words.len())
    })
}

/// Where the first occurrence behind `at` ends that fits.
fn find_part(part: &str, text: &str, at: usize, fits: impl Fn(usize, usize) -> bool) -> Option<usize> {
    starts_from(text, at)
        .filter_map(|start| Some((start, end_of(part, text, start)?)))
        .find(|&(start, end)| fits(start, end))
        .map(|(_, end)| end)
}

/// The places between characters from `at` on.
fn starts_from(text: &str, at: usize) -> impl Iterator<Item = usize> {
    let rest = text.get(at..).unwrap_or_default();
    rest.char_indices().map(move |(offset, _)| at + offset).chain([text.len()])
}

/// Where a part without asterisks ends that stands at `start`.
fn end_of(part: &str, text: &str, start: usize) -> Option<usize> {
    let mut rest = text.get(start..)?.chars();
    for wanted in part.chars() {
        let found = rest.next()?;
        if wanted != '?' && wanted != found {
            return None;
        }
    }
    Some(text.len() - rest.as_str().len())
}

fn may_start(text: &str, at: usize, ends: Ends) -> bool {
    match ends {
        Ends::OfText => at == 0,
        Ends::OfWords => is_boundary(text, at),
    }
}

fn may_end(text: &str, at: usize, ends: Ends) -> bool {
    match ends {
        Ends::OfText => at == text.len(),
        Ends::OfWords => is_boundary(text, at),
    }
}

fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let Some((before, behind)) = text.split_at_checked(at) else { return false };
    !(before.chars().next_back().is_some_and(is_word) && behind.chars().next().is_some_and(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_words_end() {
        let cases = [
            ("cake", "the cake is a lie", true),
            ("cake", "pancake", false),
            ("cake", "cakes", false),
            ("cake", "pancake, cake", true),
            ("cake", "\u{fc}cake!", true),
            ("cake", "_cake", false),
            ("-a", "b-ab -a", true),
            ("cake*lie", "the cake is a lie", true),
            ("cake*lie", "the cake is a lier", false),
            ("cake*lie", "a cake, a lier, a lie", true),
            ("cake*lie", "pancake lie", false),
            ("*ake", "pancake", true),
            ("cak*", "cakes and more", true),
            ("c?ke", "a c\u{fc}ke", true),
            ("c?ke", "a cke", false),
            ("?", "", false),
            ("*", "", true),
            ("a**b?c", "a bxc", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(finds(pattern, text, Ends::OfWords), expected, "{pattern} in {text}");
        }
    }

    #[test]
    fn whole_values_are_matched_from_end_to_end() {
        let cases = [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "org.m.room.message", false),
            ("*.message", "m.room.message", true),
            ("*.message", "m.room.message.more", false),
            ("*a*b", "xaxbxb", true),
            ("a?b", "axb", true),
            ("a?b", "ab", false),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(finds(pattern, text, Ends::OfText), expected, "{pattern} is {text}");
        }
    }

    #[test]
    fn names_are_no_patterns() {
        assert!(contains_words("*", "look: *"));
        assert!(!contains_words("a*", "ab"));
        assert!(contains_words("al", "alice, al"));
    }
}
