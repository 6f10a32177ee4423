//! Configurations for the whole way: with everything that a configuration can add, and with each part left out in
//! turn.

use std::fmt::Write as _;

/// The parts that are configured.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub has_funnels: bool,
    pub has_numbers: bool,
    pub has_features: bool,
}

/// 3 funnels, 20 numbers, features.
pub const ALL: Parts = Parts { has_funnels: true, has_numbers: true, has_features: true };

pub const WITHOUT: [(&str, Parts); 4] = [
    ("without funnels", Parts { has_funnels: false, ..ALL }),
    ("without numbers", Parts { has_numbers: false, ..ALL }),
    ("without features", Parts { has_features: false, ..ALL }),
    ("what is there without a configuration", Parts { has_funnels: false, has_numbers: false, ..ALL }),
];

impl Parts {
    /// Returns the configuration as TOML. One funnel is by sessions, and each has a condition on properties. One
    /// event in five is a step. The numbers are of each kind that exists. Without funnels, the numbers of funnels
    /// count other events instead.
    pub fn toml(self) -> String {
        let mut toml = format!("features_defaults = {}\n", self.has_features);
        if self.has_funnels {
            for (name, first, more) in
                [("one", 0, ""), ("two", 2, "scope = \"session\"\n"), ("three", 4, "window = \"1h\"\n")]
            {
                let _ = write!(toml, "[[funnels]]\nname = \"{name}\"\n{more}");
                for step in 0..2 {
                    let _ = write!(
                        toml,
                        "[[funnels.steps]]\nname = \"step {step}\"\nevent_name = \"event_{}\"\n",
                        first + step
                    );
                }
                toml.push_str("[[funnels.steps]]\nname = \"bought\"\nevent_name = \"event_6\"\n");
                toml.push_str("where = [{ path = \"properties.price\", op = \"gt\", value = 500 }]\n");
            }
        }
        if self.has_numbers {
            toml.push_str("[[widgets]]\nid = \"numbers\"\nperiod = \"1h\"\n[widgets.metrics]\n");
            for (name, expression) in self.numbers() {
                let _ = writeln!(toml, "{name} = \"{expression}\"");
            }
        }
        toml
    }

    /// Returns twenty numbers: names and expressions.
    fn numbers(self) -> Vec<(String, String)> {
        let mut numbers = vec!["events.count".to_owned(), "events.per_minute".into(), "users.active".into()];
        numbers.extend(["sessions.count", "sessions.avg_duration"].map(str::to_owned));
        numbers.extend((0..5).map(|event| format!("events.count{{event_name=event_{event}}}")));
        numbers.extend(["count", "sum", "p50", "p99"].map(|measure| format!("metric.service.metric.0.{measure}")));
        numbers.extend(["p99", "max"].map(|of| format!("metric.service.metric.4{{endpoint=/api/v1/resource/1}}.{of}")));
        let of_funnels = ["funnel.one.converted", "funnel.one.rate"].map(str::to_owned);
        let of_features = ["feature.feature-1.usage", "feature.feature-1.users"].map(str::to_owned);
        let instead = |first: u32| [first, first + 1].map(|event| format!("events.count{{event_name=event_{event}}}"));
        numbers.extend(if self.has_funnels { of_funnels } else { instead(10) });
        numbers.extend(if self.has_features { of_features } else { instead(12) });
        numbers.into_iter().enumerate().map(|(at, expression)| (format!("number_{at}"), expression)).collect()
    }
}
