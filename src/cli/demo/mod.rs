//! `streamgauge demo`: runs everything on this machine, with generated traffic.

mod server;
mod traffic;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::server::Server;
use self::traffic::{DemoMessage, Traffic};
use super::Failure;
use super::signals::stop_token;
use crate::config::{Config, ConfigError, HumanDuration, Nats, Sources};
use crate::model::{Kind, Timestamp};
use crate::nats::{Outgoing, Publisher, PublisherOptions};
use crate::store::Reader;
use crate::{app, config, nats};

const CONFIG: &str = include_str!("../../../deploy/demo.toml");
/// Port of the page, if the port is free.
const PORT: u16 = 7422;
/// Hours of generated traffic before the start of the demo.
const HISTORY_HOURS: i64 = 48;
const TICK: Duration = Duration::from_millis(100);
/// Mean time from one step of a visit to the next.
const PACE_SECONDS: f64 = 2.5;
const REPORT_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder for the files, which are kept; else a temporary folder, deleted at the end
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The nats-server to start; else the nats-server on PATH
    #[arg(long, value_name = "FILE", env = "NATS_SERVER")]
    nats_server: Option<OsString>,
    /// Address of the page; else 127.0.0.1:7422, or any free port if 7422 is in use
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Stop after this time, such as 30s; else at Ctrl-C
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<HumanDuration>,
}

pub(super) async fn execute(args: Args) -> Result<(), Failure> {
    let stop = stop_token(Some("stopping the demo"))?;
    // A closed terminal also stops the demo, so that no process or file is left.
    let (mut hangup, hung_up) = (signal(SignalKind::hangup())?, stop.clone());
    tokio::spawn(async move {
        hangup.recv().await;
        hung_up.cancel();
    });
    let temporary = std::env::temp_dir().join(format!("streamgauge-demo-{}", std::process::id()));
    let folder = args.folder.clone().unwrap_or_else(|| temporary.clone());
    let failed = |error| Failure::Failed(format!("{}: {error}", folder.display()));
    match &args.folder {
        Some(folder) => std::fs::create_dir_all(folder),
        // Fails if the folder exists: then it belongs to somebody else.
        None => std::fs::create_dir(&folder),
    }
    .map_err(failed)?;
    let folder = folder.canonicalize().map_err(failed)?;
    let result = run(&args, &folder, &stop).await;
    if args.folder.is_none() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    result
}

async fn run(args: &Args, folder: &Path, stop: &CancellationToken) -> Result<(), Failure> {
    let (file, database_path) = (folder.join("demo.toml"), folder.join("streamgauge.db"));
    let is_first = !database_path.exists();
    std::fs::write(&file, CONFIG)?;
    let config = configure(&file)?;
    let server = Server::start(args.nats_server.clone(), folder).await?;
    let config = Config {
        nats: Nats::at(&server.url),
        database_path,
        http: config::Http { listen: address(args.listen)?, token: None },
        ..config
    };
    if let Some(HumanDuration(length)) = args.length {
        let (stop, ends_at) = (stop.clone(), Instant::now() + length);
        tokio::spawn(async move {
            tokio::time::sleep_until(ends_at).await;
            stop.cancel();
        });
    }
    let (_rules, rules) = watch::channel(config.rules.clone());
    let mut worker = pin!(app::run(config.clone(), false, rules, stop.clone()));
    let published = tokio::select! {
        ended = &mut worker => return Ok(ended?),
        published = publish(&config, &file, is_first, stop) => published,
    };
    stop.cancel();
    worker.await?;
    published
}

/// Loads the demo's own configuration. Ignores the environment, which may configure another worker.
fn configure(file: &Path) -> Result<Config, ConfigError> {
    config::load(&Sources { file: Some(file.to_owned()), ..Sources::default() }).map(|(_, config)| config)
}

/// Returns the address of the page, always with a real port: finds a free port for port 0.
fn address(wanted: Option<SocketAddr>) -> Result<SocketAddr, Failure> {
    let of_port = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bound = match wanted {
        Some(wanted) => TcpListener::bind(wanted),
        None => TcpListener::bind(of_port(PORT)).or_else(|_| TcpListener::bind(of_port(0))),
    };
    bound.and_then(|listener| listener.local_addr()).map_err(|error| Failure::Failed(format!("cannot listen: {error}")))
}

/// Prints the address of the page, and commands to try in another terminal.
fn introduce(config: &Config, file: &Path) {
    let (url, database) = (&config.nats.url, config.database_path.display());
    out!("The page: http://{}", config.http.listen);
    out!("");
    out!("In another terminal:");
    if let Some(bin) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        out!("export PATH={}:$PATH", bin.display());
    }
    out!("export NATS_URL={url} DATABASE_URL=sqlite://{database} STREAMGAUGE_CONFIG={}", file.display());
    out!("streamgauge status");
    out!("streamgauge watch");
    out!("streamgauge funnel show missions");
    out!("sqlite3 {database} .tables");
    out!(r#"echo '{{"event_type":"track","event_name":"hello","user_id":"you"}}' | streamgauge publish"#);
    out!("");
}

/// Publishes traffic until the stop. If the folder is new, publishes two days of traffic first.
async fn publish(config: &Config, file: &Path, is_first: bool, stop: &CancellationToken) -> Result<(), Failure> {
    let connection = nats::connect(&config.nats).await?;
    nats::wait_for_stream(&connection, &config.stream.name).await?;
    // The worker creates the stream, so the worker runs now.
    introduce(config, file);
    let publisher = Publisher::new(connection, PublisherOptions::default());
    let mut traffic = Traffic::new(1);
    if is_first {
        traffic.plan_history(HISTORY_HOURS, Timestamp::now());
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_visit_ms = Timestamp::now().as_millis();
    let mut report_at = Instant::now() + REPORT_EVERY;
    loop {
        let now = Timestamp::now();
        while next_visit_ms <= now.as_millis() {
            traffic.plan_visit(next_visit_ms, PACE_SECONDS);
            next_visit_ms += traffic.next_visit_ms();
        }
        for message in traffic.until(now) {
            send(&publisher, message).await;
        }
        if Instant::now() >= report_at {
            report_at += REPORT_EVERY;
            report(config).await;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
    }
}

/// Publishes a message, and does not wait for its ack.
async fn send(publisher: &Publisher, message: DemoMessage) {
    let sent = match message {
        DemoMessage::Event(event) => publisher.publish(event).await.map(drop).map_err(|unsent| unsent.error),
        DemoMessage::Metric(metric) => publisher.publish(metric).await.map(drop).map_err(|unsent| unsent.error),
        DemoMessage::Session(session) => publisher.publish(session).await.map(drop).map_err(|unsent| unsent.error),
        DemoMessage::Bad(json) => {
            let outgoing = Outgoing::of_line(Kind::Event, json.as_bytes());
            publisher.publish(outgoing).await.map(drop).map_err(|unsent| unsent.error)
        }
    };
    if let Err(error) = sent {
        tracing::warn!("a message of the demo was not sent: {error}");
    }
}

/// Prints one line of totals.
async fn report(config: &Config) {
    let read = match Reader::open(&config.database_path).await {
        Ok(reader) => reader.overview(config.rules.clone().into()).await,
        Err(error) => Err(error),
    };
    match read {
        Ok(overview) => {
            let messages: u64 = overview.as_of.values().sum();
            let events: i64 = overview.top_events.iter().map(|event| event.count).sum();
            let funnels = overview.funnels.iter().map(|funnel| {
                let entered = funnel.steps.first().map_or(0, |step| step.reached);
                format!("{}: {entered} entered, {} completed", funnel.name, funnel.converted)
            });
            let funnels = funnels.collect::<Vec<_>>().join("; ");
            out!("{messages} messages, {events} events today, {} open sessions, {funnels}", overview.open_sessions);
        }
        Err(error) => tracing::warn!("{error}"),
    }
}
