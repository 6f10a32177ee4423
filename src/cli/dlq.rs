//! `streamgauge dlq`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Failure;
use super::signals::stop_token;
use crate::config::Config;
use crate::judge::Reason;
use crate::model::Timestamp;
use crate::store::{Asker, DeadLetter, DeadLetterId, DeadLetterKey, Reader, Request, RequestOutcome, Selection};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// List dead letters, in stream order
    List {
        #[command(flatten)]
        filter: Filter,
        /// State of the dead letters: open, applied, duplicate, dropped or any
        #[arg(long, default_value = "open", value_parser = ["open", "applied", "duplicate", "dropped", "any"])]
        state: String,
        /// List at most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a dead letter, with its payload
    Show {
        /// Id of the dead letter, as `list` shows it
        id: DeadLetterId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Judge the original messages again, with their original subject, sequence and time
    Retry(Chosen),
    /// Drop dead letters: they stay in the ledger, but are no longer open
    Drop(Chosen),
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Filter {
    /// Only dead letters with this reason, such as too_deep
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// Only messages on this subject; `analytics.events.>` matches all subjects with this prefix
    #[arg(long)]
    subject: Option<String>,
    /// Only messages received at or after this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only messages received before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Chosen {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Which {
    /// Ids of dead letters, as `list` shows them
    #[arg(conflicts_with_all = ["all", "reason", "subject", "since", "until"])]
    ids: Vec<DeadLetterId>,
    /// All open dead letters
    #[arg(long)]
    all: bool,
    /// Only dead letters with this reason, such as too_deep
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// Only messages on this subject; `analytics.events.>` matches all subjects with this prefix
    #[arg(long)]
    subject: Option<String>,
    /// Only messages received at or after this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only messages received before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

fn reason(text: &str) -> Result<String, String> {
    let known = Reason::ALL.map(Reason::as_str);
    known.contains(&text).then(|| text.to_owned()).ok_or_else(|| format!("the reasons are {}", known.join(", ")))
}

impl From<Filter> for Selection {
    fn from(filter: Filter) -> Self {
        let Filter { reason, subject, since, until } = filter;
        let ms = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
        Self { keys: None, reason, subject, since_ms: ms(since), until_ms: ms(until) }
    }
}

pub(super) async fn execute(action: Action, config: Config) -> Result<(), Failure> {
    match action {
        Action::List { filter, state, limit, json } => {
            let reader = Reader::open(&config.database_path).await?;
            list(&reader, filter.into(), state, limit, json).await
        }
        Action::Show { id, json } => {
            let reader = Reader::open(&config.database_path).await?;
            show(&reader, id, json).await
        }
        Action::Retry(chosen) => change(config, chosen, "dlq retry", Request::Retry).await,
        Action::Drop(chosen) => change(config, chosen, "dlq drop", Request::Drop).await,
    }
}

/// A list in progress: its options, and the counts so far.
struct Listing {
    limit: Option<usize>,
    json: bool,
    count: usize,
    by_reason: BTreeMap<String, u64>,
}

impl Listing {
    /// Prints a dead letter. Returns whether more may come.
    fn print(&mut self, letter: DeadLetter) -> bool {
        if self.limit.is_some_and(|limit| self.count >= limit) {
            return false;
        }
        if self.json {
            let comma = if self.count > 0 { "," } else { "" };
            out!("{comma}{}", serde_json::to_string(&letter).unwrap_or_default());
        } else {
            print_line(&letter);
        }
        self.count += 1;
        *self.by_reason.entry(letter.reason).or_default() += 1;
        true
    }
}

async fn list(
    reader: &Reader,
    which: Selection,
    state: String,
    limit: Option<usize>,
    json: bool,
) -> Result<(), Failure> {
    let state = Some(state).filter(|state| *state != "any");
    if json {
        out!("[");
    }
    let listing = Arc::new(Mutex::new(Listing { limit, json, count: 0, by_reason: BTreeMap::new() }));
    let printing = Arc::clone(&listing);
    let print = move |letter| printing.lock().unwrap_or_else(PoisonError::into_inner).print(letter);
    reader.for_each_dead_letter(which, state, print).await?;
    if json {
        out!("]");
        return Ok(());
    }
    let listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
    let by_reason = listing.by_reason.iter().map(|(reason, count)| format!("{reason} {count}"));
    let by_reason = by_reason.collect::<Vec<_>>().join(", ");
    err!("{} dead letters{}{by_reason}", listing.count, if listing.count > 0 { ": " } else { "" });
    Ok(())
}

fn print_line(letter: &DeadLetter) {
    let DeadLetter { id, received_at, subject, reason, error, state, .. } = letter;
    let field = letter.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let state = if state == "open" { String::new() } else { format!(" ({state})") };
    out!("{id}  {received_at}  {}  {reason}{state}  {}", plain(subject), plain(&format!("{field}{error}")));
}

/// Replaces control characters in a foreign text, so that it stays one line and cannot control the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

async fn find(reader: &Reader, id: DeadLetterId) -> Result<(DeadLetter, Vec<u8>), Failure> {
    let found = reader.dead_letter(id).await?;
    found.ok_or_else(|| Failure::Failed(format!("there is no dead letter {id}; see `streamgauge dlq list`")))
}

async fn show(reader: &Reader, id: DeadLetterId, json: bool) -> Result<(), Failure> {
    let (letter, payload) = find(reader, id).await?;
    if json {
        let mut shown = serde_json::to_value(&letter)?;
        match std::str::from_utf8(&payload) {
            Ok(text) => shown["payload"] = json!(text),
            Err(_) => shown["payload_base64"] = json!(STANDARD.encode(&payload)),
        }
        out!("{shown}");
        return Ok(());
    }
    let published = if letter.published { "published" } else { "not published yet" };
    out!("id        {} of stream {}", letter.id, plain(&letter.stream));
    out!("state     {}, {published}", letter.state);
    out!("subject   {}", plain(&letter.subject));
    out!("received  {}", letter.received_at);
    out!("reason    {}", letter.reason);
    if let Some(field) = &letter.field {
        out!("field     {}", plain(field));
    }
    out!("error     {}", plain(&letter.error));
    out!("payload   {} bytes", letter.size_bytes);
    match std::str::from_utf8(&payload) {
        Ok(text) => out!("{}", plain(text)),
        Err(_) => out!("in base64: {}", STANDARD.encode(&payload)),
    }
    Ok(())
}

async fn change(
    config: Config,
    chosen: Chosen,
    command: &str,
    request: impl FnOnce(Selection) -> Request,
) -> Result<(), Failure> {
    let Chosen { which: Which { ids, all: _, reason, subject, since, until }, json } = chosen;
    let mut which = Selection::from(Filter { reason, subject, since, until });
    if !ids.is_empty() {
        let mut keys = Vec::new();
        let reader = Reader::open(&config.database_path).await?;
        for id in ids {
            let (letter, _) = find(&reader, id).await?;
            if letter.state != "open" {
                err!("{} is {} already", letter.id, letter.state);
            }
            keys.extend(
                i64::try_from(letter.stream_seq).map(|stream_seq| DeadLetterKey { epoch: letter.epoch, stream_seq }),
            );
        }
        reader.close();
        which.keys = Some(keys);
    }
    let stop = stop_token(None)?;
    let (database, criteria) = (&config.database_path, config.criteria());
    let asker = Asker { database, command, rules: &config.rules, criteria: &criteria };
    let outcome = asker.ask(&request(which), &stop, async || ()).await?;
    let RequestOutcome { applied, duplicate, rejected, dropped, .. } = outcome;
    if json {
        out!("{}", json!({"applied": applied, "duplicate": duplicate, "rejected": rejected, "dropped": dropped}));
    } else if command == "dlq drop" {
        out!("{dropped} dropped");
    } else {
        out!("{applied} applied, {duplicate} duplicates, {rejected} rejected again");
    }
    Ok(())
}
