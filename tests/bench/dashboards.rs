//! Measures how much of the writer's rate the widgets cost.

use std::fmt::Write as _;

use streamgauge::config::{self, Config, Sources};

/// Which widgets and numbers are configured.
#[derive(Debug, Clone, Copy)]
pub enum Numbers {
    /// A thousand numbers, ten of which change.
    FewOfMany,
    /// The numbers of `deploy/demo.toml`, which also has features and a funnel.
    OfDemo,
}

impl Numbers {
    fn toml(self) -> String {
        if let Self::OfDemo = self {
            return include_str!("../../deploy/demo.toml").to_owned();
        }
        let mut toml = String::new();
        for widget in 0..100 {
            let _ = writeln!(toml, "[[widgets]]\nid = \"w{widget}\"\n[widgets.metrics]");
            for number in 0..10 {
                let name = if widget == 0 { format!("event_{number}") } else { format!("never_{widget}_{number}") };
                let _ = writeln!(toml, "m{number} = \"events.count{{event_name={name}}}\"");
            }
        }
        toml
    }

    /// Returns the default configuration with these widgets added.
    pub fn config(self) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("numbers.toml");
        std::fs::write(&file, self.toml()).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap().1
    }
}
