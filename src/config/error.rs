//! What can be wrong with a configuration.

use std::path::PathBuf;

use ::config::ConfigError as LayerError;

/// What is wrong with the configuration. Exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A layer does not parse, or has a key that there is not.
    #[error("configuration{}: {source}", .path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Layer {
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// What is wrong, with the key.
        source: Box<LayerError>,
    },
    /// A value that does not make sense.
    #[error("configuration: {key}: {error}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        error: String,
    },
}
