//! `streamgauge watch`

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use console::{Alignment, Term, pad_str, truncate_str};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::Failure;
use super::signals::stop_token;
use crate::config::Config;
use crate::nats::{self, LiveNumber, Seen, Viewer};
use crate::store::Reader;

/// Shortest time between two drawings.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// How long NATS may take to answer with `--once`.
const ONCE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the hours for the sparklines are read.
const READ_HOURS_EVERY: Duration = Duration::from_secs(5);
/// Points of a sparkline.
const POINTS: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const NAME_COLUMNS: usize = 28;
const NUMBER_COLUMNS: usize = 12;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Widgets or numbers whose `widget.key` matches, such as `traffic`, `traffic.events` or `*_ms`
    filter: Option<String>,
    /// Print every message as a line of JSON
    #[arg(long)]
    json: bool,
    /// Print the current numbers and exit
    #[arg(long)]
    once: bool,
}

/// A number, and its latest values since the command started.
struct Row {
    number: LiveNumber,
    seen: VecDeque<f64>,
}

pub(super) async fn execute(args: Args, config: Config) -> Result<(), Failure> {
    let stop = stop_token(None)?;
    let open = async {
        let connection = nats::connect(&config.nats).await?;
        Viewer::open(&connection, &config.dashboard).await.map(|viewer| (connection, viewer))
    };
    let patience = if args.once { ONCE_PATIENCE } else { Duration::MAX };
    let (_connection, mut viewer) = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opened = tokio::time::timeout(patience, open) => opened
            .map_err(|_| Failure::Failed(format!("NATS at {} does not answer", nats::without_secrets(&config.nats.url))))??,
    };
    let mut screen = Screen::new(&args, config);
    let mut draw_at = Some(Instant::now() + MIN_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            seen = viewer.next() => match seen? {
                Some(_) if screen.is_closed => return Ok(()),
                Some(seen) => if screen.take(seen) {
                    draw_at = draw_at.or(Some(Instant::now() + MIN_INTERVAL));
                },
                None => return Err(Failure::Failed("the connection to NATS is closed".into())),
            },
            () = sleep_until(draw_at.unwrap_or_else(Instant::now)), if draw_at.is_some() => {
                draw_at = None;
                screen.draw().await;
                if args.once {
                    return screen.missed().map_or(Ok(()), |why| Err(Failure::Failed(why)));
                }
            }
        }
    }
}

/// Reads the last hours of each number, by `widget.key`. Returns an empty map if the database cannot be read, for
/// example because it is on another machine.
async fn hours(config: &Config) -> BTreeMap<String, VecDeque<f64>> {
    let read = match Reader::open(&config.database_path).await {
        Ok(reader) => reader.hourly_values(config.rules.clone().into()).await,
        Err(error) => Err(error),
    };
    let mut hours = BTreeMap::new();
    for (widget_id, numbers) in read.unwrap_or_default() {
        for (key, values) in numbers {
            let last = values.iter().rev().take(POINTS).rev().filter_map(|hour| hour.value);
            hours.insert(format!("{widget_id}.{key}"), last.collect());
        }
    }
    hours
}

struct Screen {
    term: Term,
    filter: Option<String>,
    as_json: bool,
    config: Config,
    hours: BTreeMap<String, VecDeque<f64>>,
    hours_read_at: Option<Instant>,
    rows: BTreeMap<String, Row>,
    /// Messages so far; `matched` counts those that pass the filter.
    seen: u64,
    matched: u64,
    /// Nobody reads the output any more.
    is_closed: bool,
    drawn_lines: usize,
}

impl Screen {
    fn new(args: &Args, config: Config) -> Self {
        let (filter, as_json) = (args.filter.clone(), args.json);
        let (hours, rows) = (BTreeMap::new(), BTreeMap::new());
        let term = Term::stdout();
        Self {
            term,
            filter,
            as_json,
            config,
            hours,
            hours_read_at: None,
            rows,
            seen: 0,
            matched: 0,
            is_closed: false,
            drawn_lines: 0,
        }
    }

    /// Takes in a message. Returns whether the screen must be drawn again.
    fn take(&mut self, seen: Seen) -> bool {
        match seen {
            Seen::Gone(widget_id, metric_key) => {
                let name = format!("{widget_id}.{metric_key}");
                if self.as_json && self.filter.as_ref().is_none_or(|filter| matches(filter, &name)) {
                    out!("{}", json!({"widget_id": widget_id, "metric_key": metric_key, "deleted": true}));
                }
                self.rows.remove(&name).is_some()
            }
            Seen::Number(number) => {
                self.seen += 1;
                let name = format!("{}.{}", number.widget_id, number.metric_key);
                if !self.filter.as_ref().is_none_or(|filter| matches(filter, &name)) {
                    return false;
                }
                self.matched += 1;
                if self.as_json {
                    let line = serde_json::to_string(&number).unwrap_or_default();
                    self.is_closed |= self.term.write_line(&line).is_err();
                    return false;
                }
                let mut seen = self.rows.remove(&name).map(|row| row.seen).unwrap_or_default();
                seen.extend(number.value);
                while seen.len() > POINTS {
                    seen.pop_front();
                }
                self.rows.insert(name, Row { number, seen });
                true
            }
        }
    }

    /// Returns why there is no number to show, if there is none.
    fn missed(&self) -> Option<String> {
        match &self.filter {
            _ if self.matched > 0 => None,
            Some(filter) if self.seen > 0 => Some(format!("no number matches {filter:?}; {} messages seen", self.seen)),
            _ => Some("no number yet; check that a worker runs, with [[widgets]] in its configuration".into()),
        }
    }

    async fn draw(&mut self) {
        if self.as_json {
            return;
        }
        if self.hours_read_at.is_none_or(|at| at.elapsed() >= READ_HOURS_EVERY) {
            self.hours = hours(&self.config).await;
            self.hours_read_at = Some(Instant::now());
        }
        let lately = if self.hours.is_empty() { "LATELY" } else { "LAST HOURS" };
        let mut lines = vec![line("NUMBER", "VALUE", "BEFORE", "CHANGE", lately, "EXACT UP TO")];
        lines.extend(self.rows.iter().map(|(name, row)| row.line(name, self.hours.get(name))));
        if let Some(why) = self.missed().filter(|_| self.rows.is_empty()) {
            lines = vec![why];
        }
        let width = self.term.size_checked().map_or(usize::MAX, |(_, columns)| columns.into());
        let height = self.term.size_checked().map_or(usize::MAX, |(rows, _)| usize::from(rows).saturating_sub(1));
        if lines.len() > height {
            let hidden = lines.len() - height + 1;
            lines.truncate(height.saturating_sub(1));
            lines.push(format!("and {hidden} more; give a filter, or use a higher window"));
        }
        // A closed terminal is not an error: nobody looks any more.
        let _ = self.term.clear_last_lines(if self.term.is_term() { self.drawn_lines } else { 0 });
        for line in &lines {
            self.is_closed |= self.term.write_line(&truncate_str(line, width, "…")).is_err();
        }
        self.drawn_lines = lines.len();
    }
}

impl Row {
    fn line(&self, name: &str, hours: Option<&VecDeque<f64>>) -> String {
        let LiveNumber { value, previous_value, change_percent, as_of, .. } = &self.number;
        let change = change_percent.map_or_else(|| "-".into(), |change| format!("{change:+.1} %"));
        // Anybody who may publish may have written these names, so control characters are dropped.
        let plain = |name: &str| name.chars().filter(|c| !c.is_control()).collect::<String>();
        let as_of = as_of.iter().map(|(stream, sequence)| format!("{} {sequence}", plain(stream)));
        let as_of = as_of.collect::<Vec<_>>().join(" ");
        line(name, &short(*value), &short(*previous_value), &change, &sparkline(hours.unwrap_or(&self.seen)), &as_of)
    }
}

fn line(name: &str, value: &str, previous: &str, change: &str, sparkline: &str, as_of: &str) -> String {
    let left = |text: &str, columns| pad_str(text, columns, Alignment::Left, None).into_owned();
    let right = |text: &str| pad_str(text, NUMBER_COLUMNS, Alignment::Right, None).into_owned();
    let numbers = [value, previous, change].map(right).concat();
    format!("{}{numbers}  {}  {as_of}", left(name, NAME_COLUMNS), left(sparkline, POINTS))
}

/// Formats a number in few characters.
fn short(number: Option<f64>) -> String {
    match number {
        None => "-".into(),
        Some(number) if number.abs() >= 1e12 => format!("{number:.3e}"),
        Some(number) if number.fract() == 0.0 => format!("{number}"),
        Some(number) if number.abs() >= 100.0 => format!("{number:.1}"),
        Some(number) => format!("{number:.3}"),
    }
}

/// Draws bars on a scale from the least value to the greatest. The scale always includes 0.
fn sparkline(points: &VecDeque<f64>) -> String {
    let least = points.iter().copied().fold(0.0, f64::min);
    let greatest = points.iter().copied().fold(0.0, f64::max);
    // Halves the values, so that their difference fits into f64.
    let range = greatest / 2.0 - least / 2.0;
    let bar = |value: &f64| {
        let share = if range > 0.0 { (value / 2.0 - least / 2.0) / range } else { 0.0 };
        BARS[((share * 7.0).round() as usize).min(7)]
    };
    points.iter().map(bar).collect()
}

/// Whether a filter matches a `widget.key`: the filter is the widget, the whole name, or a pattern where `*` stands
/// for any characters.
fn matches(filter: &str, name: &str) -> bool {
    let is_of_widget = name.strip_prefix(filter).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let Some((first, rest)) = filter.split_once('*') else { return is_of_widget };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_widgets_or_match_anything() {
        for (filter, name, expected) in [
            ("traffic", "traffic.events", true),
            ("traffic", "traffic2.events", false),
            ("traffic.events", "traffic.events", true),
            ("*.p99", "api.p99", true),
            ("*.p99", "api.p999", false),
            ("a*.p*9", "api.p99", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*", "x.y", true),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn sparklines_stand_on_zero() {
        let of = |points: &[f64]| sparkline(&points.iter().copied().collect());
        assert_eq!(of(&[0.0, 1.0, 7.0]), "▁▂█");
        assert_eq!(of(&[5.0, 5.0]), "██");
        assert_eq!(of(&[-1.0, 0.0, 1.0]), "▁▅█");
        assert_eq!(of(&[f64::MIN, f64::MAX]), "▁█");
        assert_eq!(of(&[0.0, 0.0]), "▁▁");
    }
}
