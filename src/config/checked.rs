//! The checked configuration: types that the rest of the program can rely on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::check::{ensure, is_key};
use super::error::ConfigError;
use super::raw;
use crate::analytics::Rules;
use crate::judge::{BatchLimits, Criteria, Limits};

/// async-nats asks for up to 1.5 batches at once, and buffers 65,536 messages per subscription. It drops any more.
const MAX_BATCH_MESSAGES: usize = 40_000;
const SUBSCRIPTION_BUFFER_MESSAGES: usize = 65_536;
const _: () = assert!(MAX_BATCH_MESSAGES * 3 / 2 <= SUBSCRIPTION_BUFFER_MESSAGES);
const MIN_BATCH_BYTES: u64 = 64 << 10;
const MAX_BATCH_BYTES: u64 = 1 << 30;
/// With a longer delay, a graceful stop could not finish a batch within its 5 s.
pub(crate) const MAX_BATCH_DELAY: Duration = Duration::from_secs(2);

/// The configuration of a worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach NATS.
    pub nats: Nats,
    /// The stream and its consumer.
    pub stream: Stream,
    /// The SQLite file.
    pub database_path: PathBuf,
    /// The limits of a batch.
    pub batch: BatchLimits,
    /// Where the numbers of widgets are published.
    pub dashboard: Dashboard,
    /// The HTTP server: health, version, metrics and the page.
    pub http: Http,
    /// The limits that validation applies.
    pub limits: Limits,
    /// The rules of the derived tables.
    pub rules: Rules,
}

impl Config {
    /// Returns the prefix and the limits that messages are judged by.
    pub fn criteria(&self) -> Criteria {
        Criteria { prefix: self.stream.prefix.clone(), limits: self.limits.clone() }
    }
}

/// How to reach NATS.
#[derive(Debug, Clone)]
pub struct Nats {
    /// One URL, or several separated by commas.
    pub url: String,
    /// A file with a JWT and a seed.
    pub credentials: Option<PathBuf>,
    /// A seed (`SU...`), or a file that holds one.
    pub nkey: Option<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// TLS.
    pub tls: NatsTls,
}

impl Nats {
    /// Returns the settings for a server that asks for no credentials.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), credentials: None, nkey: None, user: None, tls: NatsTls::default() }
    }
}

/// Certificates, as PEM files.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// The authority that signed the server's certificate.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The stream and its consumer.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "named as in the configuration")]
pub struct Stream {
    pub name: String,
    pub prefix: String,
    pub consumer: String,
    pub dlq: String,
    pub create: bool,
    pub replicas: usize,
    pub max_age: Option<Duration>,
    pub max_bytes: Option<i64>,
    pub duplicate_window: Duration,
}

/// Where the numbers of widgets are published.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// The KV bucket.
    pub bucket: String,
    /// The prefix of the subjects that live changes are published on.
    pub prefix: String,
}

/// The HTTP server: health, version, metrics and the page.
#[derive(Debug, Clone)]
pub struct Http {
    /// The address to listen on. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// The token that `/metrics` and the page ask for.
    pub token: Option<String>,
}

impl raw::Config {
    /// Checks every value.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first key whose value is not allowed.
    pub fn check(self) -> Result<Config, ConfigError> {
        let rules = super::rules::check(&self)?;
        let dashboard = check_dashboard(self.dashboard, &self.stream)?;
        Ok(Config {
            rules,
            nats: check_nats(self.nats)?,
            stream: check_stream(self.stream)?,
            database_path: database_path(&self.database.url)?,
            batch: check_batch(&self.batch)?,
            dashboard,
            http: check_http(self.http)?,
            limits: check_limits(&self.limits)?,
        })
    }
}

fn check_nats(nats: raw::Nats) -> Result<Nats, ConfigError> {
    ensure("nats.url", !nats.url.trim().is_empty(), "needs a URL such as nats://127.0.0.1:4222")?;
    let pair = |key, first: Option<String>, second: Option<String>, error: &str| match (first, second) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        _ => Err(ConfigError::Value { key, error: error.into() }),
    };
    let user = pair("nats.user", nats.user, nats.password, "set both nats.user and nats.password, or neither")?;
    let client = pair("nats.cert", nats.cert, nats.key, "set both nats.cert and nats.key, or neither")?;
    let ways = [nats.credentials.is_some(), nats.nkey.is_some(), user.is_some()];
    ensure(
        "nats",
        ways.into_iter().filter(|given| *given).count() <= 1,
        "set at most one of credentials, nkey, or user with password",
    )?;
    Ok(Nats {
        url: nats.url,
        credentials: nats.credentials.map(PathBuf::from),
        nkey: nats.nkey,
        user,
        tls: NatsTls {
            ca: nats.ca.map(PathBuf::from),
            client: client.map(|(cert, key)| (PathBuf::from(cert), PathBuf::from(key))),
        },
    })
}

fn check_stream(stream: raw::Stream) -> Result<Stream, ConfigError> {
    let name_rule = "must be 1 to 255 printable characters without . * > / \\ or spaces";
    for (key, name) in
        [("stream.name", &stream.name), ("stream.consumer", &stream.consumer), ("stream.dlq", &stream.dlq)]
    {
        ensure(key, is_name(name), name_rule)?;
    }
    ensure("stream.dlq", stream.dlq != stream.name, "must differ from stream.name")?;
    let tokens_are_fine = stream.prefix.split('.').all(is_name) && stream.prefix.len() <= 128;
    ensure("stream.prefix", tokens_are_fine, "must be subject tokens separated by dots, without * or >")?;
    let first = stream.prefix.split('.').next().unwrap_or_default();
    let reserved = first == "dlq" || first.starts_with(['$', '_']);
    ensure("stream.prefix", !reserved, "must not begin with dlq, $ or _: these subjects are reserved")?;
    ensure("stream.replicas", (1..=5).contains(&stream.replicas), "must be 1 to 5")?;
    let max_bytes = stream
        .max_bytes
        .map(|size| i64::try_from(size.0))
        .transpose()
        .map_err(|_| ConfigError::Value { key: "stream.max_bytes", error: "is too large".into() })?;
    Ok(Stream {
        name: stream.name,
        prefix: stream.prefix,
        consumer: stream.consumer,
        dlq: stream.dlq,
        create: stream.create,
        replicas: stream.replicas,
        max_age: stream.max_age.map(|age| age.0),
        max_bytes,
        duplicate_window: stream.duplicate_window.0,
    })
}

fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '.' | '*' | '>' | '/' | '\\'))
}

/// Returns the path in `sqlite://path`, in `sqlite:path`, or in a bare path.
fn database_path(url: &str) -> Result<PathBuf, ConfigError> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
    let is_file = !path.is_empty() && path != ":memory:" && !path.contains("://") && !path.contains('?');
    ensure("database.url", is_file, "must be sqlite://PATH, where PATH is a file; parameters are not allowed")?;
    Ok(PathBuf::from(path))
}

fn check_batch(batch: &raw::Batch) -> Result<BatchLimits, ConfigError> {
    ensure("batch.max_messages", (1..=MAX_BATCH_MESSAGES).contains(&batch.max_messages), "must be 1 to 40000")?;
    let bytes = batch.max_bytes.0;
    ensure("batch.max_bytes", (MIN_BATCH_BYTES..=MAX_BATCH_BYTES).contains(&bytes), "must be 64KiB to 1024MiB")?;
    ensure("batch.max_delay", batch.max_delay.0 <= MAX_BATCH_DELAY, "must be at most 2s")?;
    Ok(BatchLimits { max_messages: batch.max_messages, max_bytes: to_usize(bytes), max_delay: batch.max_delay.0 })
}

fn check_dashboard(dashboard: raw::Dashboard, stream: &raw::Stream) -> Result<Dashboard, ConfigError> {
    ensure("dashboard.bucket", is_key(&dashboard.bucket), "must be 1 to 128 letters, digits, _ or -")?;
    let tokens_are_fine = dashboard.prefix.split('.').all(is_name) && dashboard.prefix.len() <= 128;
    ensure("dashboard.prefix", tokens_are_fine, "must be subject tokens separated by dots, without * or >")?;
    let token = |prefix: &str| prefix.split('.').next().map(str::to_owned);
    let first = token(&dashboard.prefix).unwrap_or_default();
    let is_free = first != "dlq" && !first.starts_with(['$', '_']) && Some(&first) != token(&stream.prefix).as_ref();
    ensure("dashboard.prefix", is_free, "must not begin with dlq, $ or _, nor with the first token of stream.prefix")?;
    Ok(Dashboard { bucket: dashboard.bucket, prefix: dashboard.prefix })
}

fn check_http(http: raw::Http) -> Result<Http, ConfigError> {
    let listen: SocketAddr = http.listen.parse().map_err(|_| ConfigError::Value {
        key: "http.listen",
        error: format!("{:?} is not an address and port, such as 127.0.0.1:7422", http.listen),
    })?;
    let token = http.token.filter(|token| !token.is_empty());
    let is_guarded = listen.ip().is_loopback() || token.is_some();
    ensure("http.listen", is_guarded, "an address that is not loopback needs http.token")?;
    Ok(Http { listen, token })
}

fn check_limits(limits: &raw::Limits) -> Result<Limits, ConfigError> {
    ensure("limits.max_payload", (1..=64 << 20).contains(&limits.max_payload.0), "must be 1B to 64MiB")?;
    for (key, limit) in [
        ("limits.max_id_chars", limits.max_id_chars),
        ("limits.max_name_chars", limits.max_name_chars),
        ("limits.max_metric_name_chars", limits.max_metric_name_chars),
    ] {
        ensure(key, limit >= 1, "must be at least 1")?;
    }
    Ok(Limits {
        max_payload_bytes: to_usize(limits.max_payload.0),
        max_id_chars: limits.max_id_chars,
        max_name_chars: limits.max_name_chars,
        max_metric_name_chars: limits.max_metric_name_chars,
        max_keys: limits.max_keys,
        max_depth_levels: limits.max_depth,
        max_array_elements: limits.max_array,
        max_string_bytes: to_usize(limits.max_string.0),
        max_tags: limits.max_tags,
        max_tag_key_chars: limits.max_tag_key_chars,
        max_tag_value_chars: limits.max_tag_value_chars,
        max_tags_bytes: to_usize(limits.max_tags_size.0),
        max_future: limits.max_future.0,
        max_age: limits.max_age.map(|age| age.0),
    })
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
impl Default for Config {
    fn default() -> Self {
        raw::Config::default().check().expect("the defaults are valid")
    }
}
