//! A real nats-server on a free port, a real worker, a proxy that cuts connections, and access to the database.
//! Everything lives in a temporary folder and ends when its value is dropped.

mod browser;
mod cluster;
mod http;
mod messages;
mod nats;
mod plain_sum;
mod proxy;
mod source;
mod worker;

use std::time::{Duration, Instant};

pub use browser::Browser;
pub use cluster::Cluster;
pub use http::http_get;
pub use messages::{Traffic, event, publish_all};
pub use nats::{NatsServer, nats_server};
pub use plain_sum::plain_sum;
pub use proxy::CuttingProxy;
pub use source::{files_under, root};
pub use worker::{Database, Worker, command, exit_of};

/// Longer than any wait takes on a slow machine, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Waits until a condition holds. Panics after [`PATIENCE`].
pub async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Returns a seed for a test's random choices. Prints it, so that a failure can be repeated with `SEED=...`.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ Instant::now().elapsed().subsec_nanos() as u64);
    println!("SEED={seed}");
    seed
}

/// A small generator of random numbers (splitmix64). It gives the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
