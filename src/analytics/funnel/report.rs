//! The report on a funnel: totals over its rows.

use serde::Serialize;

/// The numbers of a funnel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// All episodes: each took the first step.
    pub entered: u64,
    /// The episodes that took the last step.
    pub completed: u64,
    /// The numbers of each step, in order.
    pub steps: Vec<StepReport>,
}

/// The numbers of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// The name of the step.
    pub name: String,
    /// The episodes that took the step before. For the first step: all episodes.
    pub entered: u64,
    /// The episodes among `entered` that took this step.
    pub reached: u64,
    /// The episodes among `reached` that took all steps.
    pub converted: u64,
    /// `reached / entered`. `None` if `entered` is 0.
    pub rate: Option<f64>,
    /// `reached` divided by all episodes. `None` if there are no episodes.
    pub rate_of_all: Option<f64>,
    /// The median time from the step before to this step, by nearest rank, in milliseconds. `None` for the first
    /// step, and if no episode reached this step.
    pub median_ms: Option<i64>,
    /// The 90th percentile of that time.
    pub p90_ms: Option<i64>,
}

impl Report {
    /// Computes the report. Each episode is given as the times at which it took its steps, in milliseconds.
    pub fn of(step_names: Vec<String>, episodes: impl IntoIterator<Item = Vec<i64>>) -> Self {
        let count = step_names.len();
        let mut took_ms: Vec<Vec<i64>> = vec![Vec::new(); count];
        let mut reached = vec![0_u64; count];
        for steps_at_ms in episodes {
            for (at, ms) in steps_at_ms.iter().enumerate().take(count) {
                reached[at] += 1;
                if at > 0 {
                    took_ms[at].push(ms - steps_at_ms[at - 1]);
                }
            }
        }
        let completed = reached.last().copied().unwrap_or(0);
        let all = reached.first().copied().unwrap_or(0);
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let step = |(at, name): (usize, String)| {
            let entered = if at == 0 { all } else { reached[at - 1] };
            took_ms[at].sort_unstable();
            StepReport {
                name,
                entered,
                reached: reached[at],
                converted: completed,
                rate: share(reached[at], entered),
                rate_of_all: share(reached[at], all),
                median_ms: nearest_rank(&took_ms[at], 50),
                p90_ms: nearest_rank(&took_ms[at], 90),
            }
        };
        Self { entered: all, completed, steps: step_names.into_iter().enumerate().map(step).collect() }
    }
}

/// Returns the value at rank `ceil(p n)`, where `p` is `percent / 100`. `None` if there are no values.
fn nearest_rank(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_from_step_to_step() {
        let names = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let episodes = [vec![0], vec![0, 10], vec![5, 25, 26], vec![0, 30], vec![0, 40, 45]];
        let report = Report::of(names(), episodes);
        assert_eq!((report.entered, report.completed), (5, 2));
        let step = |at: usize| {
            let StepReport { entered, reached, converted, median_ms, p90_ms, .. } = report.steps[at];
            (entered, reached, converted, median_ms, p90_ms)
        };
        assert_eq!(step(0), (5, 5, 2, None, None));
        assert_eq!(step(1), (5, 4, 2, Some(20), Some(40)));
        assert_eq!(step(2), (4, 2, 2, Some(1), Some(5)));
        assert_eq!((report.steps[2].rate, report.steps[2].rate_of_all), (Some(0.5), Some(0.4)));
        let empty = Report::of(names(), []);
        assert_eq!((empty.entered, empty.steps[1].rate, empty.steps[1].median_ms), (0, None, None));
    }
}
