//! Configuration, in four layers: defaults, the file, the environment, flags. Each layer overrides the previous ones.
//!
//! [`raw`] has every key that may be written, and its default; `rules` and `widgets` have the defaults within a funnel
//! and a widget. [`Config`] has the checked values.

mod check;
mod checked;
mod error;
mod quantity;
pub mod raw;
mod rules;
mod widgets;

use std::path::{Path, PathBuf};

use ::config::{ConfigError as LayerError, File, FileFormat};

pub(crate) use checked::MAX_BATCH_DELAY;
pub use checked::{Config, Dashboard, Http, Nats, NatsTls, Stream};
pub use error::ConfigError;
pub use quantity::{HumanDuration, HumanSize};

/// The file that is read if no other file is named.
pub const DEFAULT_FILE: &str = "streamgauge.toml";
const ENV_PREFIX: &str = "STREAMGAUGE_";
const ENV_FILE: &str = "STREAMGAUGE_CONFIG";
const ENV_SEPARATOR: &str = "__";

/// The usual environment variables of NATS and SQL tools, and the keys that they set.
const USUAL_ENV: [(&str, &str); 9] = [
    ("NATS_URL", "nats.url"),
    ("NATS_CREDS", "nats.credentials"),
    ("NATS_NKEY", "nats.nkey"),
    ("NATS_USER", "nats.user"),
    ("NATS_PASSWORD", "nats.password"),
    ("NATS_CA", "nats.ca"),
    ("NATS_CERT", "nats.cert"),
    ("NATS_KEY", "nats.key"),
    ("DATABASE_URL", "database.url"),
];

/// Where the configuration comes from. [`load`] reads the file.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The environment variables, as names and values.
    pub env: Vec<(String, String)>,
    /// Keys that flags set, such as `nats.url`.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    /// Names the file that [`load`] would read now, if there is one. If that file is gone later, [`load`] fails
    /// instead of reading no file.
    pub fn pinned(self) -> Self {
        Self { file: find_file(&self), ..self }
    }
}

/// Reads the layers, and checks the result. Returns the configuration as written, and as checked.
///
/// # Errors
/// [`ConfigError`] names the key or the file.
pub fn load(sources: &Sources) -> Result<(raw::Config, Config), ConfigError> {
    let file = find_file(sources);
    let mut builder = ::config::Config::builder();
    if let Some(path) = &file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.clone(), source })?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let layer_error = |source: LayerError| ConfigError::Layer { path: file.clone(), source: Box::new(source) };
    for (key, value) in overrides(sources) {
        builder = builder.set_override(key, value).map_err(layer_error)?;
    }
    let raw: raw::Config = builder.build().and_then(::config::Config::try_deserialize).map_err(layer_error)?;
    let checked = raw.clone().check()?;
    Ok((raw, checked))
}

fn find_file(sources: &Sources) -> Option<PathBuf> {
    let from_env = || sources.env.iter().find(|(name, _)| name == ENV_FILE).map(|(_, path)| PathBuf::from(path));
    let default = || Path::new(DEFAULT_FILE).is_file().then(|| PathBuf::from(DEFAULT_FILE));
    sources.file.clone().or_else(from_env).or_else(default)
}

/// Returns the keys that the environment and the flags set. Later keys override earlier keys.
fn overrides(sources: &Sources) -> Vec<(String, String)> {
    let of_env = |wanted: &str| sources.env.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let usual = USUAL_ENV
        .iter()
        .filter_map(|(name, key)| Some(((*key).to_owned(), of_env(name).filter(|value| !value.is_empty())?)));
    let own = sources.env.iter().filter_map(|(name, value)| {
        let key = name.strip_prefix(ENV_PREFIX).filter(|key| key.contains(ENV_SEPARATOR))?;
        Some((key.to_ascii_lowercase().replace(ENV_SEPARATOR, "."), value.clone()))
    });
    let flags = sources.flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    usual.chain(own).chain(flags).collect()
}

#[cfg(test)]
mod tests;
