//! The results: printed as a table, written as JSON and as a chart.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{chart, machine};

/// The unit of a ratio to something else that the same round measured. Ratios are the result. All other units are
/// absolute figures of the machine.
pub const RATIO: &str = "";
pub const PER_SECOND: &str = "/s";
pub const MS: &str = "ms";
pub const SECONDS: &str = "s";
pub const MIB: &str = "MiB";
pub const PERCENT: &str = "%";
pub const COUNT: &str = "times";

/// All measures. The measures of a group stand together.
pub struct Report {
    is_short: bool,
    measures: Vec<Measure>,
    printed: usize,
}

/// One figure, measured in every round.
pub struct Measure {
    pub group: &'static str,
    pub what: String,
    pub unit: &'static str,
    values: Vec<f64>,
}

impl Measure {
    pub fn median(&self) -> f64 {
        percentile(&self.sorted(), 50.0)
    }

    /// Returns the least and the greatest value.
    pub fn spread(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted[0], sorted[sorted.len() - 1])
    }

    fn line(&self) -> String {
        let (least, greatest) = self.spread();
        let median = format!("{} {}", figure(self.median()), self.unit);
        let spread = match self.values.len() {
            1 => String::new(),
            _ => format!("  {} to {}", figure(least), figure(greatest)),
        };
        format!("{:<58}{:>14}{spread}", self.what, median.trim_end())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }
}

impl Report {
    pub fn new(is_short: bool) -> Self {
        Self { is_short, measures: Vec::new(), printed: 0 }
    }

    /// Adds the value of one more round.
    pub fn add(&mut self, group: &'static str, what: &str, unit: &'static str, value: f64) {
        let known = self.measures.iter_mut().find(|measure| measure.group == group && measure.what == what);
        match known {
            Some(measure) => measure.values.push(value),
            None => {
                let last = self.measures.iter().rposition(|measure| measure.group == group);
                let at = last.map_or(self.measures.len(), |last| last + 1);
                self.measures.insert(at, Measure { group, what: what.to_owned(), unit, values: vec![value] });
            }
        }
    }

    /// Prints the measures that were added since the last call.
    pub fn print(&mut self) {
        for group in self.measures[self.printed..].chunk_by(|one, other| one.group == other.group) {
            println!("\n{}", group[0].group);
            for measure in group {
                println!("  {}", measure.line());
            }
        }
        self.printed = self.measures.len();
    }

    /// Writes `ruler.json` and `ruler.svg`. Returns the folder.
    pub fn write(&self) -> PathBuf {
        let folder = output_folder();
        std::fs::create_dir_all(&folder).unwrap();
        let measures: Vec<_> = self
            .measures
            .iter()
            .map(|measure| {
                let (least, greatest) = measure.spread();
                let Measure { group, what, unit, values } = measure;
                json!({"group": group, "what": what, "unit": unit, "median": measure.median(), "least": least,
                    "greatest": greatest, "values": values})
            })
            .collect();
        let all = json!({"machine": machine::description(), "short": self.is_short, "measures": measures});
        std::fs::write(folder.join("ruler.json"), serde_json::to_string_pretty(&all).unwrap()).unwrap();
        std::fs::write(folder.join("ruler.svg"), chart::svg(&self.measures, &machine::sentence())).unwrap();
        folder
    }
}

/// Returns `target/bench`, which `deploy/bench` fills too.
pub fn output_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")
}

/// Returns a percentile of sorted values, by nearest rank.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Formats a value with about three significant digits.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
