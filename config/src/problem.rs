//! What is wrong with the settings, and where.

use std::{fmt, sync::Arc};

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File {
        /// The file's name, as it was given.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line, column } => write!(formatter, "{name}:{line}:{column}"),
            Self::Variable(name) => formatter.write_str(name),
        }
    }
}

/// One thing that is wrong with the settings. Displayed as one line: `place: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    place: Option<Place>,
    setting: Option<String>,
    message: String,
}

impl Problem {
    /// A problem with something other than a setting: the file, its syntax.
    pub(crate) fn new(place: Option<Place>, message: impl Into<String>) -> Self {
        Self { place, setting: None, message: message.into() }
    }

    /// A problem with the setting of this dotted name.
    pub(crate) fn with_setting(place: Option<Place>, setting: String, message: impl Into<String>) -> Self {
        Self { place, setting: Some(setting), message: message.into() }
    }

    /// Where it stands; nowhere when the file can't be read, or when the setting at fault was not given.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The dotted name of the setting that it is about, such as `registration.open`; elements of lists are numbered from 0,
    /// as in `listeners.0.address`.
    pub fn setting(&self) -> Option<&str> {
        self.setting.as_deref()
    }

    /// What is wrong, and often what to do. Names the setting. Shows no secret.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(formatter, "{place}: ")?;
        }
        // A value from outside may hold line ends (a file's name, say); a problem stays one line.
        formatter.write_str(&self.message.replace('\n', " "))
    }
}

/// Everything that is wrong with the settings; at least one thing. Displayed as one line each, in the order of the file, then
/// of the variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// Puts the problems in order. `problems` must not be empty.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        Self { problems }
    }

    /// The problems, in the order in which they are displayed.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
