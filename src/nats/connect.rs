//! The connection to NATS: its options from the configuration, and its state for other parts of the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, jetstream};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use super::backoff::Backoff;
use super::error::NatsError;
use crate::config;

/// The first version of nats-server that can reset a consumer.
const MIN_SERVER_VERSION: (u64, u64) = (2, 14);
/// How long a request to JetStream may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The client waits this long before its first try to reconnect, and this much longer before each next one.
const RECONNECT_DELAY_STEP: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);
/// How long to wait for a flush to fail. A dead client fails at once; a client that reconnects takes longer.
const DEAD_CLIENT_PATIENCE: Duration = Duration::from_millis(100);
/// How many messages may wait for their acks at once.
pub(super) const MAX_ACK_INFLIGHT: u32 = 16_384;
/// Refusals are logged at most once in this time: there may be one for every message.
const REFUSAL_LOG_EVERY: Duration = Duration::from_secs(5);

/// A connection to NATS that reconnects by itself.
#[derive(Debug, Clone)]
pub struct Connection {
    config: config::Nats,
    live: Arc<RwLock<LiveClient>>,
    state: Arc<ConnectionState>,
}

/// The current client. [`Connection::revive_if_dead`] replaces a dead one.
#[derive(Debug)]
struct LiveClient {
    client: Client,
    jetstream: jetstream::Context,
}

#[derive(Debug, Default)]
struct ConnectionState {
    is_connected: Arc<AtomicBool>,
    connects: watch::Sender<u64>,
    losses: watch::Sender<u64>,
    refusal: Mutex<Option<ServerRefusal>>,
}

/// The server's last refusal.
#[derive(Debug)]
struct ServerRefusal {
    what: String,
    at: Instant,
    logged_at: Instant,
}

impl Connection {
    pub(super) fn client(&self) -> Client {
        self.live.read().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    pub(super) fn jetstream(&self) -> jetstream::Context {
        self.live.read().unwrap_or_else(PoisonError::into_inner).jetstream.clone()
    }

    /// Makes a new client if the background task of the old one has ended. async-nats 0.51 panics in that task on a
    /// header that it cannot parse; from then on every request fails.
    ///
    /// # Errors
    /// If the new client cannot connect.
    pub(super) async fn revive_if_dead(&self) -> Result<(), NatsError> {
        let flushed = tokio::time::timeout(DEAD_CLIENT_PATIENCE, self.client().flush()).await;
        if !matches!(flushed, Ok(Err(_))) {
            return Ok(());
        }
        tracing::warn!("the NATS client has died; connecting again");
        self.state.is_connected.store(false, Ordering::Relaxed);
        let live = open(&self.config, &self.state).await?;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        Ok(())
    }

    /// Whether the client is connected now.
    pub fn is_connected(&self) -> bool {
        self.state.is_connected.load(Ordering::Relaxed)
    }

    /// Returns a flag that is true while the client is connected, for modules that do not know NATS.
    pub fn connected_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.state.is_connected)
    }

    /// Returns a counter of connects. It changes when the client connects again.
    pub(super) fn connects(&self) -> watch::Receiver<u64> {
        self.state.connects.subscribe()
    }

    /// Returns a counter of lost connections. Answers and messages that were in flight at a loss will never arrive.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.state.losses.subscribe()
    }

    /// Returns the server's last refusal if it is not older than `age`.
    pub(super) fn refusal_within(&self, age: Duration) -> Option<String> {
        let refusal = self.state.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().filter(|refused| refused.at.elapsed() <= age).map(|refused| refused.what.clone())
    }

    /// Returns the largest message that the server takes, in bytes, body and headers together.
    pub fn max_payload_bytes(&self) -> usize {
        self.client().server_info().max_payload
    }

    /// Sends the buffered messages. Gives up after `patience`.
    pub async fn flush(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.client().flush()).await;
    }
}

/// Connects. Tries again while the server cannot be reached.
///
/// # Errors
/// If another try cannot help: wrong credentials, TLS or address, or a server that is too old.
pub async fn connect(config: &config::Nats) -> Result<Connection, NatsError> {
    let mut backoff = Backoff::default();
    loop {
        match connect_once(config).await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.is_transient() => {
                let delay = backoff.next_delay();
                tracing::warn!(retry_in_ms = delay.as_millis(), "{error}");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tries once to connect.
///
/// # Errors
/// [`NatsError::Unreachable`] if the server cannot be reached; otherwise the errors of [`connect`].
pub async fn connect_once(config: &config::Nats) -> Result<Connection, NatsError> {
    let state = Arc::new(ConnectionState::default());
    let live = open(config, &state).await?;
    Ok(Connection { config: config.clone(), live: Arc::new(RwLock::new(live)), state })
}

async fn open(config: &config::Nats, state: &Arc<ConnectionState>) -> Result<LiveClient, NatsError> {
    let options = options(config, state).await?;
    let client = options.connect(urls(config).collect::<Vec<_>>()).await.map_err(|error| {
        let (url, reason) = (without_secrets(&config.url), error.to_string());
        match error.kind() {
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation
            | ConnectErrorKind::Tls => NatsError::NotAdmitted { url, reason },
            _ => NatsError::Unreachable { url, reason },
        }
    })?;
    state.is_connected.store(true, Ordering::Relaxed);
    check_version(&client.server_info().version)?;
    let jetstream = jetstream::ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .ack_timeout(REQUEST_TIMEOUT)
        .max_ack_inflight(MAX_ACK_INFLIGHT as usize)
        .build(client.clone());
    Ok(LiveClient { client, jetstream })
}

fn urls(config: &config::Nats) -> impl Iterator<Item = &str> {
    config.url.split(',').map(str::trim).filter(|url| !url.is_empty())
}

/// Returns user and password, or a token, from before the `@` of a URL. async-nats itself ignores them.
fn secrets_of(url: &str) -> Option<(String, Option<String>)> {
    let address: ServerAddr = url.parse().ok()?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decoded(address.username()?), address.password().map(decoded)))
}

fn reconnect_delay(attempt: usize) -> Duration {
    let steps = u32::try_from(attempt.max(1)).unwrap_or(u32::MAX);
    RECONNECT_DELAY_STEP.saturating_mul(steps).min(MAX_RECONNECT_DELAY)
}

async fn options(config: &config::Nats, state: &Arc<ConnectionState>) -> Result<ConnectOptions, NatsError> {
    let state = Arc::clone(state);
    let mut options = ConnectOptions::new()
        .name("streamgauge")
        .connection_timeout(CONNECT_TIMEOUT)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            on_event(&state, &event);
            std::future::ready(())
        });
    if let Some((user, password)) = &config.user {
        options = options.user_and_password(user.clone(), password.clone());
    } else if config.nkey.is_none() && config.credentials.is_none() {
        options = match urls(config).find_map(secrets_of) {
            Some((user, Some(password))) => options.user_and_password(user, password),
            Some((token, None)) => options.token(token),
            None => options,
        };
    }
    if let Some(nkey) = &config.nkey {
        options = options.nkey(read_seed(nkey)?);
    }
    if let Some(path) = &config.credentials {
        options = options
            .credentials_file(path)
            .await
            .map_err(|error| unusable("nats.credentials", &path.display(), &format!("cannot be read: {error}")))?;
    }
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((cert, key)) = &config.tls.client {
        options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

fn on_event(state: &ConnectionState, event: &Event) {
    match event {
        Event::Connected => {
            state.is_connected.store(true, Ordering::Relaxed);
            state.connects.send_modify(|count| *count += 1);
            if *state.connects.borrow() > 1 {
                tracing::info!("connected to NATS again");
            }
        }
        Event::Disconnected => {
            state.is_connected.store(false, Ordering::Relaxed);
            state.losses.send_modify(|count| *count += 1);
            tracing::warn!("connection to NATS lost; reconnecting");
        }
        Event::ServerError(error) => on_refusal(state, error.to_string()),
        other => tracing::debug!("NATS: {other}"),
    }
}

fn on_refusal(state: &ConnectionState, what: String) {
    let mut refusal = state.refusal.lock().unwrap_or_else(PoisonError::into_inner);
    let at = Instant::now();
    let was_logged = refusal.as_ref().map(|refused| refused.logged_at).filter(|at| at.elapsed() < REFUSAL_LOG_EVERY);
    if was_logged.is_none() {
        tracing::warn!("the NATS server refused something; a permission may be missing: {what}");
    }
    *refusal = Some(ServerRefusal { what, at, logged_at: was_logged.unwrap_or(at) });
}

/// Returns `nkey` if it is a seed, else the first seed in the file that it names.
fn read_seed(nkey: &str) -> Result<String, NatsError> {
    if nkey.starts_with("SU") {
        return Ok(nkey.to_owned());
    }
    let text = std::fs::read_to_string(nkey)
        .map_err(|error| unusable("nats.nkey", &nkey, &format!("cannot be read: {error}")))?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| unusable("nats.nkey", &nkey, "contains no user seed (SU...)"))
}

fn unusable(key: &'static str, path: &dyn std::fmt::Display, reason: &str) -> NatsError {
    NatsError::Credentials { key, path: path.to_string(), reason: reason.to_owned() }
}

fn check_version(version: &str) -> Result<(), NatsError> {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u64>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= MIN_SERVER_VERSION {
        return Ok(());
    }
    let (major, minor) = MIN_SERVER_VERSION;
    Err(NatsError::ServerTooOld { version: version.to_owned(), needed: format!("{major}.{minor}") })
}

/// Hides user, password and token in a list of URLs, for messages to people.
pub(crate) fn without_secrets(urls: &str) -> String {
    let hide = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        (None, Some(at)) => format!("***{}", &url[at..]),
        _ => url.to_owned(),
    };
    urls.split(',').map(|url| hide(url.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for (version, is_fine) in
            [("2.15.1", true), ("2.14.0", true), ("2.14.0-RC.1", true), ("3.0.0", true), ("2.13.9", false), ("", false)]
        {
            assert_eq!(check_version(version).is_ok(), is_fine, "{version}");
        }
    }

    #[test]
    fn secrets_stay_out_of_messages() {
        assert_eq!(without_secrets("nats://u:p@host:1, tls://host:2"), "nats://***@host:1,tls://host:2");
        assert_eq!(without_secrets("token@host"), "***@host");
    }

    #[test]
    fn urls_bring_secrets() {
        let secrets = |user: &str, password: Option<&str>| Some((user.to_owned(), password.map(str::to_owned)));
        assert_eq!(secrets_of("nats://w:p%40ss@host:1"), secrets("w", Some("p@ss")));
        assert_eq!(secrets_of("s3cret@host"), secrets("s3cret", None));
        assert_eq!(secrets_of("nats://host:1"), None);
    }
}
