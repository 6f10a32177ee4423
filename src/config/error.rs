//! Errors in the configuration.

use std::path::PathBuf;

use ::config::ConfigError as LayerError;

/// Why the configuration is refused. The command exits with status 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A layer does not parse, or has an unknown key.
    #[error("configuration{}: {source}", .path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Layer {
        /// The configuration file, if there is one.
        path: Option<PathBuf>,
        /// What is wrong, with the key.
        source: Box<LayerError>,
    },
    /// A value is not allowed.
    #[error("configuration: {key}: {error}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, and what is allowed.
        error: String,
    },
}
