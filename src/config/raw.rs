//! The configuration as it may be written: every key, and every default except the defaults within a funnel or a
//! widget, which are in `rules` and `widgets`. No IO, no checks.
#![allow(missing_docs, reason = "the keys are described in deploy/streamgauge.toml")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::quantity::{HumanDuration, HumanSize};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const fn millis(ms: u64) -> HumanDuration {
    HumanDuration(Duration::from_millis(ms))
}

const fn minutes(minutes: u64) -> HumanDuration {
    HumanDuration(Duration::from_secs(minutes * 60))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub features_defaults: bool,
    pub nats: Nats,
    pub stream: Stream,
    pub database: Database,
    pub batch: Batch,
    pub dashboard: Dashboard,
    pub http: Http,
    pub limits: Limits,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub funnels: Vec<Funnel>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub widgets: Vec<Widget>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            features_defaults: true,
            nats: Nats::default(),
            stream: Stream::default(),
            database: Database::default(),
            batch: Batch::default(),
            dashboard: Dashboard::default(),
            http: Http::default(),
            limits: Limits::default(),
            features: Vec::new(),
            funnels: Vec::new(),
            widgets: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            credentials: None,
            nkey: None,
            user: None,
            password: None,
            ca: None,
            cert: None,
            key: None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    pub name: String,
    pub prefix: String,
    pub consumer: String,
    pub dlq: String,
    pub create: bool,
    pub replicas: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<HumanSize>,
    pub duplicate_window: HumanDuration,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            name: "ANALYTICS".into(),
            prefix: "analytics".into(),
            consumer: "streamgauge".into(),
            dlq: "ANALYTICS_DLQ".into(),
            create: true,
            replicas: 1,
            max_age: None,
            max_bytes: None,
            duplicate_window: millis(30_000),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    pub url: String,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: "sqlite://streamgauge.db".into() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    pub max_messages: usize,
    pub max_bytes: HumanSize,
    pub max_delay: HumanDuration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_messages: 10_000, max_bytes: HumanSize(8 * MIB), max_delay: millis(50) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    pub listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7422".into(), token: None }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub max_payload: HumanSize,
    pub max_id_chars: usize,
    pub max_name_chars: usize,
    pub max_metric_name_chars: usize,
    pub max_keys: usize,
    pub max_depth: usize,
    pub max_array: usize,
    pub max_string: HumanSize,
    pub max_tags: usize,
    pub max_tag_key_chars: usize,
    pub max_tag_value_chars: usize,
    pub max_tags_size: HumanSize,
    pub max_future: HumanDuration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<HumanDuration>,
    pub session_timeout: HumanDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload: HumanSize(64 * KIB),
            max_id_chars: 128,
            max_name_chars: 128,
            max_metric_name_chars: 255,
            max_keys: 255,
            max_depth: 5,
            max_array: 255,
            max_string: HumanSize(8 * KIB),
            max_tags: 16,
            max_tag_key_chars: 64,
            max_tag_value_chars: 256,
            max_tags_size: HumanSize(2_000),
            max_future: minutes(10),
            max_age: None,
            session_timeout: minutes(30),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dashboard {
    pub bucket: String,
    pub prefix: String,
    pub history: HumanDuration,
}

impl Default for Dashboard {
    fn default() -> Self {
        Self { bucket: "DASHBOARD".into(), prefix: "dashboard".into(), history: minutes(90 * 24 * 60) }
    }
}

/// A text or a list of texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    pub feature: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_name: Option<OneOrMany>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Funnel {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reentry: Option<bool>,
    pub steps: Vec<FunnelStep>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunnelStep {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_name: Option<OneOrMany>,
    #[serde(rename = "where", default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub path: String,
    pub op: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Widget {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<HumanDuration>,
    pub metrics: BTreeMap<String, String>,
}
