//! `streamgauge dlq`

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Failure;
use super::ask::ask;
use crate::config::Config;
use crate::judge::Reason;
use crate::model::Timestamp;
use crate::store::{self, DeadLetterId, DeadLetterKey, Letter, Outcome, Request, Selection, StoreError};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// List dead letters, in the order of the stream
    List {
        #[command(flatten)]
        filter: Filter,
        /// Those in this state: open, applied, duplicate, dropped, or any
        #[arg(long, default_value = "open", value_parser = ["open", "applied", "duplicate", "dropped", "any"])]
        state: String,
        /// So many at most
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one, with its bytes
    Show {
        /// Its id, as `list` shows it
        id: DeadLetterId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the original messages judged again, with the subject, sequence and time of then
    Retry(Chosen),
    /// Let go of dead letters: they stay in the ledger, and are not open any more
    Drop(Chosen),
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Filter {
    /// Of this reason, such as too_deep
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// On this subject; `analytics.events.>` takes all that begin so
    #[arg(long)]
    subject: Option<String>,
    /// Received at or after this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Received before this time
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
    /// Ids, as `list` shows them
    #[arg(conflicts_with_all = ["all", "reason", "subject", "since", "until"])]
    ids: Vec<DeadLetterId>,
    /// All that are open
    #[arg(long)]
    all: bool,
    /// Of this reason, such as too_deep
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// On this subject; `analytics.events.>` takes all that begin so
    #[arg(long)]
    subject: Option<String>,
    /// Received at or after this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Received before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

fn reason(text: &str) -> Result<String, String> {
    let known = Reason::ALL.map(Reason::as_str);
    known.contains(&text).then(|| text.to_owned()).ok_or_else(|| format!("reasons are {}", known.join(", ")))
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
            let list = move || list(&config.database_path, &filter.into(), &state, limit, json);
            store::blocking(list).await.map_err(Failure::failed)
        }
        Action::Show { id, json } => show(&config.database_path, id, json),
        Action::Retry(chosen) => change(config, chosen, "dlq retry", Request::Retry).await,
        Action::Drop(chosen) => change(config, chosen, "dlq drop", Request::Drop).await,
    }
}

fn list(database: &Path, which: &Selection, state: &str, limit: Option<usize>, json: bool) -> Result<(), StoreError> {
    let state = Some(state).filter(|state| *state != "any");
    let (mut count, mut by_reason) = (0, BTreeMap::<String, u64>::new());
    if json {
        out!("[");
    }
    store::letters(database, which, state, |letter| {
        if limit.is_some_and(|limit| count >= limit) {
            return false;
        }
        if json {
            let comma = if count > 0 { "," } else { "" };
            out!("{comma}{}", serde_json::to_string(&letter).unwrap_or_default());
        } else {
            print_line(&letter);
        }
        count += 1;
        *by_reason.entry(letter.reason).or_default() += 1;
        true
    })?;
    if json {
        out!("]");
    } else {
        let by_reason: Vec<_> = by_reason.into_iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        err!("{count} dead letters{}{}", if count > 0 { ": " } else { "" }, by_reason.join(", "));
    }
    Ok(())
}

fn print_line(letter: &Letter) {
    let Letter { id, received_at, subject, reason, error, state, .. } = letter;
    let field = letter.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let state = if state == "open" { String::new() } else { format!(" ({state})") };
    out!("{id}  {received_at}  {}  {reason}{state}  {}", plain(subject), plain(&format!("{field}{error}")));
}

/// What others wrote, as one line that does nothing to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn find(database: &Path, id: DeadLetterId) -> Result<(Letter, Vec<u8>), Failure> {
    let found = store::letter_with_payload(database, id).map_err(Failure::failed)?;
    found.ok_or_else(|| Failure::Failed(format!("there is no dead letter {id}; `streamgauge dlq list` lists them")))
}

fn show(database: &Path, id: DeadLetterId, json: bool) -> Result<(), Failure> {
    let (letter, payload) = find(database, id)?;
    if json {
        let mut shown = serde_json::to_value(&letter).map_err(Failure::failed)?;
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
        for id in ids {
            let (letter, _) = find(&config.database_path, id)?;
            if letter.state != "open" {
                err!("{} is {} already", letter.id, letter.state);
            }
            keys.extend(
                i64::try_from(letter.stream_seq).map(|stream_seq| DeadLetterKey { epoch: letter.epoch, stream_seq }),
            );
        }
        which.keys = Some(keys);
    }
    let Outcome { applied, duplicate, rejected, dropped, .. } = ask(&config, command, request(which), || ()).await?;
    if json {
        out!("{}", json!({"applied": applied, "duplicate": duplicate, "rejected": rejected, "dropped": dropped}));
    } else if command == "dlq drop" {
        out!("{dropped} dropped");
    } else {
        out!("{applied} applied, {duplicate} duplicates, {rejected} rejected again");
    }
    Ok(())
}
