//! The limits that validation applies.

use std::time::Duration;

/// The limits that validation applies. Each limit is the greatest allowed value. [`crate::config`] has the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a payload.
    pub max_payload_bytes: usize,
    /// Characters of an id.
    pub max_id_chars: usize,
    /// Characters of an event_type, event_name, user_id, session_id or anonymous_id.
    pub max_name_chars: usize,
    /// Characters of a metric's name.
    pub max_metric_name_chars: usize,
    /// Keys of any object in properties and context.
    pub max_keys: usize,
    /// Levels of properties and context. The object itself is level 1.
    pub max_depth_levels: usize,
    /// Elements of any array in properties and context.
    pub max_array_elements: usize,
    /// Bytes of any string in properties and context.
    pub max_string_bytes: usize,
    /// Number of tags.
    pub max_tags: usize,
    /// Characters of a tag's key.
    pub max_tag_key_chars: usize,
    /// Characters of a tag's value.
    pub max_tag_value_chars: usize,
    /// Bytes of the tags' canonical JSON.
    pub max_tags_bytes: usize,
    /// How far a timestamp may be after `recv`.
    pub max_future: Duration,
    /// How far a timestamp may be before `recv`. `None` means no limit.
    pub max_age: Option<Duration>,
}

impl Limits {
    /// No limits. For a replay of accepted messages: today's limits must not reject them.
    pub const NONE: Self = Self {
        max_payload_bytes: usize::MAX,
        max_id_chars: usize::MAX,
        max_name_chars: usize::MAX,
        max_metric_name_chars: usize::MAX,
        max_keys: usize::MAX,
        max_depth_levels: usize::MAX,
        max_array_elements: usize::MAX,
        max_string_bytes: usize::MAX,
        max_tags: usize::MAX,
        max_tag_key_chars: usize::MAX,
        max_tag_value_chars: usize::MAX,
        max_tags_bytes: usize::MAX,
        max_future: Duration::MAX,
        max_age: None,
    };
}
