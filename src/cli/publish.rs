//! `streamgauge publish`

use std::path::PathBuf;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::Failure;
use crate::config::Config;
use crate::model::Kind;
use crate::nats::{self, LinePublisher, Published};

const READ_BUFFER_BYTES: usize = 1 << 20;
/// Lines between two looks at the clock for the progress line.
const PROGRESS_LINES: u64 = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the lines are
    #[arg(long, value_enum, default_value_t = KindArg::Events)]
    kind: KindArg,
    /// File with a JSON object a line; `-` or nothing reads standard input
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KindArg {
    Events,
    Metrics,
    Sessions,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Events => Kind::Event,
            KindArg::Metrics => Kind::Metric,
            KindArg::Sessions => Kind::Session,
        }
    }
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let input: Box<dyn AsyncRead + Unpin + Send> = match args.file.filter(|file| file.as_os_str() != "-") {
        None => Box::new(tokio::io::stdin()),
        Some(path) => Box::new(
            tokio::fs::File::open(&path)
                .await
                .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))?,
        ),
    };
    let connection = nats::connect_once(&config.nats).await.map_err(Failure::failed)?;
    let publisher = LinePublisher::new(connection, &config.stream.prefix, args.kind.into());
    publisher.check_stream(&config.stream.name).await.map_err(Failure::failed)?;
    let began = Instant::now();
    let published = publish_lines(publisher, input).await.map_err(Failure::failed)?;
    report(&published, began)
}

async fn publish_lines(
    mut publisher: LinePublisher,
    input: Box<dyn AsyncRead + Unpin + Send>,
) -> std::io::Result<Published> {
    let mut lines = BufReader::with_capacity(READ_BUFFER_BYTES, input).split(b'\n');
    let mut line = 0;
    while let Some(bytes) = lines.next_segment().await? {
        line += 1;
        if !bytes.trim_ascii().is_empty() && !publisher.publish(line, &bytes).await {
            tracing::error!("giving up; lines after {line} were not sent");
            break;
        }
        if line % PROGRESS_LINES == 0 {
            tracing::info!(lines = line, acknowledged = publisher.settled(), "publishing");
        }
    }
    Ok(publisher.finish().await)
}

fn report(published: &Published, began: Instant) -> Result<(), Failure> {
    let Published { stored, duplicates, failed, failed_lines } = published;
    let seconds = began.elapsed().as_secs_f64().max(f64::EPSILON);
    let rate = (stored + duplicates) as f64 / seconds;
    eprintln!("published {stored}, known already {duplicates}, failed {failed}, in {seconds:.1} s ({rate:.0}/s)");
    for failure in failed_lines {
        eprintln!("line {}: {}", failure.line, failure.error);
    }
    if *failed > 0 { Err(Failure::Reported) } else { Ok(()) }
}
