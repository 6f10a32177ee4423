use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Browser, NatsServer, Worker, http_get, publish_all};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/demo.toml");
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/data/axe/axe.min.js");
const SHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/page");
/// 2026-11-23T10:00:00Z
const START_MS: i64 = 1_795_428_000_000;

fn at(minute: i64) -> String {
    chrono::DateTime::from_timestamp_millis(START_MS + minute * 60_000).unwrap().to_rfc3339()
}

fn event(id: &str, minute: i64, name: &str, user: &str) -> (String, Vec<u8>) {
    let event = json!({"id": id, "event_type": "track", "event_name": name, "user_id": user, "timestamp": at(minute),
        "session_id": format!("visit of {user}"), "properties": {"duration_ms": 250, "success": true}});
    ("analytics.events".to_owned(), event.to_string().into_bytes())
}

/// Returns 40 hours of everything that the page shows. Some names look like markup, but are not.
fn seeded() -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    for hour in 0..40 {
        let minute = hour * 60 - 39 * 60;
        for number in 0..=(hour % 7) {
            let user = format!("user-{}", (hour + number) % 9);
            for name in ["search_performed", "mission_created", "spec_created", "<b>&amp;</b>"] {
                if number % 3 > 0 || name != "spec_created" {
                    messages.push(event(&format!("{hour}-{number}-{name}"), minute + number, name, &user));
                }
            }
            let metric = json!({"name": "api.request.duration", "metric_type": "timer", "value": 10 + number * 7,
                "timestamp": at(minute), "tags": {"endpoint": "/search", "status": "200"}});
            messages.push(("analytics.metrics".to_owned(), metric.to_string().into_bytes()));
        }
    }
    messages.push(("analytics.events".to_owned(), b"{}".to_vec()));
    messages
}

async fn seeded_worker(server: &NatsServer, folder: &Path) -> Worker {
    let mut worker = Worker::new(folder, &server.url()).env("STREAMGAUGE_CONFIG", DEMO);
    worker.start_reading().await;
    let last_seq = publish_all(&server.jetstream().await, seeded()).await;
    worker.applied(last_seq).await;
    worker
}

fn value_of(widget: &str, key: &str) -> String {
    format!("document.querySelector('[data-widget={widget}] [data-metric={key}] [data-value]')?.dataset.value")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browser_shows_the_numbers_follows_them_and_comes_back_after_a_restart() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = seeded_worker(&server, folder.path()).await;
    let address = worker.http_address().await;
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;
    browser.wait_until("document.body?.dataset.state", &json!("live")).await;
    let stored = worker.database().text(
        "SELECT cast(value AS INTEGER) || '' FROM dashboard_metrics WHERE widget_id = 'traffic' AND metric_key = 'events'",
        [],
    );
    browser.wait_until(&value_of("traffic", "events"), &json!(stored)).await;
    browser.wait_until("document.querySelector('[data-field=dead_letters]').dataset.value", &json!("1")).await;
    let step = "document.querySelector('[data-funnel=missions] [data-step=\"mission created\"]').dataset.value";
    let entered = worker.database().count("funnel_conversions");
    browser.wait_until(step, &json!(entered.to_string())).await;
    let exact = "document.querySelector('[data-widget=traffic] [data-part=exact]').textContent.includes('ANALYTICS')";
    assert_eq!(browser.eval(exact).await, true);
    browser
        .wait_until("[...document.querySelectorAll('th')].some(th => th.textContent === '<b>&amp;</b>')", &json!(true))
        .await;

    // An event changes the numbers, and the page was not loaded again.
    browser.eval("window.isTheSamePage = true").await;
    let more: i64 = stored.parse::<i64>().unwrap() + 1;
    publish_all(&server.jetstream().await, vec![event("one more", 1, "mission_completed", "user-1")]).await;
    browser.wait_until(&value_of("traffic", "events"), &json!(more.to_string())).await;
    assert_eq!(browser.eval("window.isTheSamePage").await, true);

    // The page says that it is stale, and comes back by itself.
    worker.kill();
    browser.wait_until("document.body.dataset.state", &json!("stale")).await;
    assert_eq!(browser.eval("document.getElementById('status').textContent.startsWith('Not live since')").await, true);
    let mut worker = worker.env("STREAMGAUGE_HTTP__LISTEN", &address);
    publish_all(&server.jetstream().await, vec![event("meanwhile", 2, "mission_created", "user-2")]).await;
    worker.start_reading().await;
    browser.wait_until("document.body.dataset.state", &json!("live")).await;
    browser.wait_until(&value_of("traffic", "events"), &json!((more + 1).to_string())).await;
    assert_eq!(browser.eval("window.isTheSamePage").await, true);
    let refused: Vec<_> = browser.errors.iter().filter(|error| error.contains("Content Security Policy")).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Returns the violations that axe-core finds.
async fn violations(browser: &mut Browser) -> Value {
    let axe = std::fs::read_to_string(AXE).expect("tests/fetch-data fetches axe-core");
    browser.eval(&format!("{axe};0")).await;
    let run = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}) \
               .then(found => found.violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)]))";
    browser.eval(run).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browser_finds_the_page_accessible_light_dark_and_narrow() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let worker = seeded_worker(&server, folder.path()).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{}/", worker.http_address().await)).await;
    browser.wait_until("document.body?.dataset.state", &json!("live")).await;
    // True if all charts in sight are drawn.
    let charts = "[...document.querySelectorAll('[data-widget=traffic], [data-widget=missions]')].every(widget => \
                  widget.getBoundingClientRect().top > innerHeight || widget.querySelector('.plot .line').hasAttribute('d'))";
    for (width, height, scheme) in
        [(1280, 2200, "light"), (1280, 2200, "dark"), (320, 4000, "light"), (320, 4000, "dark")]
    {
        browser.look(width, height, scheme).await;
        browser.wait_until(charts, &json!(true)).await;
        browser.screenshot(&Path::new(SHOTS).join(format!("{scheme}-{width}.png"))).await;
        assert_eq!(violations(&mut browser).await, json!([]), "{scheme}, {width} wide");
        let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.eval(overflow).await, 0, "{width} wide");
    }
    // Each chart has a table that the keyboard reaches.
    let tables = "[...document.querySelectorAll('[data-metric]')].every(metric => metric.querySelector('details table caption'))";
    assert_eq!(browser.eval(tables).await, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browser_asks_for_the_token_where_there_is_one() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url()).env("STREAMGAUGE_HTTP__TOKEN", "s e=c;ret");
    worker.start_reading().await;
    let address = worker.http_address().await;
    for path in ["/api/stream", "/api/history", "/api/snapshot"] {
        assert_eq!(http_get(&address, path, "").await.0, 401, "{path}");
        assert_eq!(http_get(&address, path, "Authorization: Bearer wrong\r\n").await.0, 401, "{path}");
    }
    let bearer = "Authorization: Bearer s e=c;ret\r\n";
    assert_eq!(http_get(&address, "/api/snapshot", bearer).await.0, 200);
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;
    let try_token = |token: &str| {
        format!("document.getElementById('token').value = {token:?}; document.querySelector('form').requestSubmit()")
    };
    browser.wait_until("!!document.getElementById('token')", &json!(true)).await;
    assert_eq!(violations(&mut browser).await, json!([]));
    browser.eval("window.isTheFirst = true").await;
    browser.eval(&try_token("wrong")).await;
    browser.wait_until("!!document.getElementById('token') && !window.isTheFirst", &json!(true)).await;
    browser.eval(&try_token("s e=c;ret")).await;
    browser.wait_until("document.body?.dataset.state", &json!("live")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_foreign_host_name_is_refused() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let address = worker.http_address().await;
    for path in ["/", "/api/stream", "/api/history", "/api/snapshot"] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
    }
}

/// Connections beyond the limit wait, and get their turn. The worker goes on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_wait_their_turn() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::new(folder.path(), &server.url());
    worker.start_reading().await;
    let address = worker.http_address().await;
    let mut silent = Vec::new();
    for _ in 0..512 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let asked = address.clone();
    let mut waiting = tokio::spawn(async move { http_get(&asked, "/livez", "").await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    let last_seq = publish_all(&server.jetstream().await, vec![event("meanwhile", 0, "n", "u")]).await;
    worker.applied(last_seq).await;
    silent.truncate(500);
    assert_eq!(waiting.await.unwrap().0, 200);
}

/// Returns how often the database was read for pages.
async fn page_reads(address: &str) -> u64 {
    let metrics = http_get(address, "/metrics", "").await.1;
    let line = metrics.lines().find_map(|line| line.strip_prefix("streamgauge_page_reads_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pages_cost_one_read_for_each_change() {
    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let worker = seeded_worker(&server, folder.path()).await;
    let address = worker.http_address().await;
    assert_eq!(page_reads(&address).await, 0, "nobody looks");
    let mut pages = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        pages.push(tokio::spawn(async move {
            let (mut read, mut seen) = (vec![0; 1 << 16], String::new());
            while !seen.contains("\"last to come\"") {
                let bytes = stream.read(&mut read).await.unwrap();
                assert!(bytes > 0, "the stream ended");
                seen.push_str(&String::from_utf8_lossy(&read[..bytes]));
            }
        }));
    }
    let jetstream = server.jetstream().await;
    let began = std::time::Instant::now();
    for number in 0..20 {
        publish_all(&jetstream, vec![event(&format!("change {number}"), 3, "changed", "user-1")]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // This name has more events than any other name, so that the page lists it.
    let many = (0..400).map(|number| event(&format!("last {number}"), 3, "last to come", "user-1")).collect();
    publish_all(&jetstream, many).await;
    for page in pages {
        tokio::time::timeout(crate::support::PATIENCE, page).await.expect("the last change").unwrap();
    }
    let (reads, took) = (page_reads(&address).await, began.elapsed());
    assert!(reads >= 1 && reads <= 3 + took.as_millis() as u64 / 250, "{reads} reads in {took:?}");
}
