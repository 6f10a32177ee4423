//! Helpers that all checks of the configuration share.

use std::time::Duration;

use super::error::ConfigError;

const MAX_KEY_CHARS: usize = 128;

pub(super) fn ensure(key: &'static str, holds: bool, error: &str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Value { key, error: error.into() }) }
}

/// Returns whether a text may be a token of a key in a bucket, or the bucket's name.
pub(super) fn is_key(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (1..=MAX_KEY_CHARS).contains(&text.len()) && text.chars().all(is_allowed)
}

pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
