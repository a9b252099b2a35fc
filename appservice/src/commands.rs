//! Commands that people type: `!remind 10m tea`.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt as _};
use matrix_sdk::ruma::events::room::message::{MessageType, Relation, RoomMessageEventContent};

use crate::{Context, Event, HandlerResult};

/// The longest text that is looked at, in bytes.
const MOST_BYTES: usize = 8 * 1024;
/// The most words of a command.
const MOST_WORDS: usize = 100;

/// A command as somebody typed it.
#[derive(Clone, Debug)]
pub struct Command {
    /// The words behind the command's name. Quoted words are one.
    pub words: Vec<String>,
    /// Everything behind the command's name, as it was typed.
    pub text: String,
    /// The message.
    pub event: Event<RoomMessageEventContent>,
}

type Handler = Arc<dyn Fn(Command, Context) -> BoxFuture<'static, HandlerResult> + Send + Sync>;

struct Entry {
    usage: String,
    summary: String,
    handler: Handler,
}

/// The commands of a bot. `help` is there by itself.
pub struct Commands {
    prefix: String,
    entries: BTreeMap<String, Entry>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Commands").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Commands {
    /// Commands that begin with `prefix`, for instance `!meet`: `!meet help`. With a prefix that ends in no letter, for instance `!`,
    /// there is no space between: `!help`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), entries: BTreeMap::new() }
    }

    /// Adds a command. `usage` shows its words, `summary` says in a few words what it does.
    #[must_use]
    pub fn command<F, Fut>(mut self, name: &str, usage: &str, summary: &str, handler: F) -> Self
    where
        F: Fn(Command, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |command, context| handler(command, context).boxed());
        let entry = Entry { usage: usage.to_owned(), summary: summary.to_owned(), handler };
        self.entries.insert(name.to_owned(), entry);
        self
    }

    /// What `help` answers.
    pub fn help(&self) -> String {
        let mut lines = Vec::new();
        for (name, entry) in &self.entries {
            let begin = self.with_prefix(name);
            let usage = if entry.usage.is_empty() { String::new() } else { format!(" {}", entry.usage) };
            lines.push(format!("{begin}{usage}: {}", entry.summary));
        }
        lines.push(format!("{}: shows this", self.with_prefix("help")));
        lines.join("\n")
    }

    fn is_word(&self) -> bool {
        self.prefix.ends_with(char::is_alphanumeric)
    }

    fn with_prefix(&self, name: &str) -> String {
        if self.is_word() { format!("{} {name}", self.prefix) } else { format!("{}{name}", self.prefix) }
    }

    pub(crate) async fn answer(
        &self,
        event: Event<RoomMessageEventContent>,
        context: Context,
    ) -> HandlerResult {
        // Notices are what bots say, and an edit repeats what was said before.
        let MessageType::Text(text) = &event.content.msgtype else { return Ok(()) };
        if matches!(event.content.relates_to, Some(Relation::Replacement(_))) {
            return Ok(());
        }
        let Some((name, rest)) = self.recognise(&text.body) else { return Ok(()) };
        let (name, rest) = (name.to_owned(), rest.to_owned());
        let Some(entry) = self.entries.get(&name) else {
            // Behind a mere sign there may be other bots' commands.
            if name == "help" || self.is_word() {
                context.room().notice(self.help()).await?;
            }
            return Ok(());
        };
        let Some(words) = words(&rest) else {
            context.room().notice("A quote is not closed, or there are too many words.").await?;
            return Ok(());
        };
        (entry.handler)(Command { words, text: rest, event }, context).await
    }

    /// The name of the command and what is behind it.
    fn recognise<'a>(&self, body: &'a str) -> Option<(&'a str, &'a str)> {
        if body.len() > MOST_BYTES {
            return None;
        }
        let rest = body.trim().strip_prefix(self.prefix.as_str())?;
        if self.is_word() && !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
            return None;
        }
        let rest = rest.trim_start();
        let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if name.is_empty() && !self.is_word() {
            return None;
        }
        Some((if name.is_empty() { "help" } else { name }, rest.trim()))
    }
}

/// The words of a text; what stands in double quotes is one. `None` if a quote is not closed or there are too many.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted, mut is_word) = (String::new(), false, false);
    for character in text.chars() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                is_word = true;
            }
            _ if character.is_whitespace() && !is_quoted => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            _ => {
                word.push(character);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    (!is_quoted && words.len() <= MOST_WORDS).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_is_a_word_stands_alone() {
        let commands = Commands::new("!meet");
        assert_eq!(commands.recognise("!meet start  now "), Some(("start", "now")));
        assert_eq!(commands.recognise("!meet"), Some(("help", "")));
        assert_eq!(commands.recognise("!meeting start"), None);
        assert_eq!(commands.recognise("say !meet"), None);
    }

    #[test]
    fn a_prefix_that_is_a_sign_is_followed_at_once() {
        let commands = Commands::new("!");
        assert_eq!(commands.recognise("!echo a b"), Some(("echo", "a b")));
        assert_eq!(commands.recognise("!"), None);
        assert_eq!(commands.recognise(&format!("!{}", "x".repeat(MOST_BYTES))), None);
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words(r#"10m "buy tea" """#).unwrap(), ["10m", "buy tea", ""]);
        assert_eq!(words(r#"a "b"#), None);
        assert_eq!(words(&"a ".repeat(MOST_WORDS + 1)), None);
    }

    #[test]
    fn help_names_every_command() {
        let commands =
            Commands::new("!meet").command("start", "[topic]", "begins a call", |_, _| async { Ok(()) });
        assert_eq!(commands.help(), "!meet start [topic]: begins a call\n!meet help: shows this");
    }
}
