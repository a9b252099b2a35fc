//! The commented example file.

/// The text of `entente.example.toml`: every setting with its default, commented out.
///
/// Prose begins with `# `; a setting with `#` and no space, so that taking away that one character sets it.
pub const EXAMPLE: &str = include_str!("../entente.example.toml");

/// The example with every setting in it set.
pub(crate) fn uncommented() -> String {
    let is_setting = |rest: &str| {
        rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '[' || first == ']')
    };
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if is_setting(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    EXAMPLE.lines().map(uncomment).collect()
}
