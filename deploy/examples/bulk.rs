//! Publishes many events, pipelined: the window stays full. Events that could not be sent are kept, so
//! that they can be sent later.
//!
//! `cargo run --release --example bulk [COUNT]`. `NATS_URL` names the server; the default is 127.0.0.1:4222.
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::collections::VecDeque;
use std::error::Error;
use std::time::Instant;

use streamgauge::model::{AnalyticsEvent, events};
use streamgauge::nats::{Publisher, PublisherOptions, Receipt, Unsent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |count| count.parse())?;
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".into());
    let options = PublisherOptions::default();
    let window = options.max_in_flight as usize;
    let publisher = Publisher::connect(&url, options).await?;

    let began = Instant::now();
    let mut receipts: VecDeque<Receipt<AnalyticsEvent>> = VecDeque::new();
    let mut unsent: Vec<Unsent<AnalyticsEvent>> = Vec::new();
    let mut handed_over = 0;
    for n in 0..count {
        handed_over += 1;
        let event = events::search_performed("gauges", 3).user_id(&format!("user-{}", n % 1_000)).build();
        match publisher.publish(event).await {
            Ok(receipt) => receipts.push_back(receipt),
            // The patience for this event is over. The next events would fail too.
            Err(error) => {
                unsent.push(error);
                break;
            }
        }
        // Settles the oldest receipt first, so that at most a window of receipts is kept.
        if receipts.len() >= window
            && let Some(oldest) = receipts.pop_front()
        {
            unsent.extend(oldest.await.err());
        }
    }
    for receipt in receipts {
        unsent.extend(receipt.await.err());
    }
    let seconds = began.elapsed().as_secs_f64();
    let sent = handed_over - unsent.len();
    println!("{sent} acknowledged in {seconds:.1} s ({:.0}/s)", sent as f64 / seconds);
    for Unsent { message, error } in &unsent {
        eprintln!("event {} was not sent: {error}", message.id);
    }
    if sent == count { Ok(()) } else { Err(format!("{} of {count} events were not sent", count - sent).into()) }
}
