//! Errors that teach: each names the key, the value, what is allowed and the next step.

use std::fmt;
use std::path::{Path, PathBuf};

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file itself cannot be read.
    #[error("the configuration {} cannot be read: {why}. {next}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
        /// What to do.
        next: String,
    },
    /// Not TOML.
    #[error(
        "line {line}, column {column} is not valid TOML: {why}. Keys are written key = value, and texts stand in \"quotes\""
    )]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser said.
        why: String,
    },
    /// A key or section that nobody knows.
    #[error("{key}: there is no such key{}. {next}", in_variable(variable.as_deref()))]
    Unknown {
        /// The dotted path.
        key: String,
        /// The environment variable, if it came from there.
        variable: Option<String>,
        /// What may have been meant, or what exists.
        next: String,
    },
    /// A key that has to be there.
    #[error("{key} is missing: {next}")]
    Missing {
        /// The dotted path.
        key: String,
        /// What to write.
        next: String,
    },
    /// A value that is not allowed.
    #[error("{key} = {value}{}: {why}", in_variable(variable.as_deref()))]
    Value {
        /// The dotted path.
        key: String,
        /// As it was written; secrets are hidden.
        value: String,
        /// The environment variable, if it came from there.
        variable: Option<String>,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// Keys that do not go together.
    #[error("{keys}: {why}")]
    Conflict {
        /// The dotted paths.
        keys: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A file that a key names cannot be read.
    #[error("{key} = {:?}: the file cannot be read: {why}. {next}", path.display())]
    File {
        /// The dotted path of the key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
        /// What to do.
        next: String,
    },
}

fn in_variable(variable: Option<&str>) -> String {
    variable.map(|variable| format!(" (from {variable})")).unwrap_or_default()
}

/// All that is wrong with a configuration; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: Option<PathBuf>,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "no errors are no ConfigErrors");
        ConfigErrors { file: None, errors }
    }

    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
        self
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }

    /// One by one, in the order of the file's sections.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ConfigError> {
        self.errors.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.file {
            Some(path) => path.display().to_string(),
            None => "the configuration".to_owned(),
        };
        match &self.errors[..] {
            [one] => write!(f, "{what}: {one}"),
            several => {
                write!(f, "{what} has {} mistakes:", several.len())?;
                several.iter().try_for_each(|error| write!(f, "\n  {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        ConfigErrors::new(vec![error])
    }
}
