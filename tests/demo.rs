use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{command, http_get, nats_server, wait_for};

fn demo(folder: &Path, arguments: &[&str]) -> Child {
    let mut demo = command(folder, "nats://127.0.0.1:1");
    demo.args(["demo", "--listen", "127.0.0.1:0"]).arg("--nats-server").arg(nats_server()).args(arguments);
    demo.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Returns whether a process runs.
fn runs(pid: &str) -> bool {
    Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status().unwrap().success()
}

/// The lines in which the demo tells how to go on.
struct Told {
    address: String,
    env: Vec<(String, String)>,
    /// The output of the demo stays open, because the demo keeps writing.
    _lines: BufReader<std::process::ChildStdout>,
}

fn told(demo: &mut Child) -> Told {
    let mut lines = BufReader::new(demo.stdout.take().unwrap());
    let (mut address, mut env) = (String::new(), Vec::new());
    let mut line = String::new();
    while !line.starts_with("echo") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the demo ended");
        if let Some(page) = line.strip_prefix("The page: http://") {
            address = page.trim().to_owned();
        }
        for pair in line.strip_prefix("export ").into_iter().flat_map(str::split_whitespace) {
            let (name, value) = pair.split_once('=').unwrap();
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    Told { address, env, _lines: lines }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_shows_moving_numbers_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    let mut demo = demo(folder.path(), &["--folder", files.to_str().unwrap()]);
    let told = told(&mut demo);
    let snapshot = async || -> Value {
        serde_json::from_str(&http_get(&told.address, "/api/snapshot", "").await.1).unwrap_or_default()
    };
    let events = |snapshot: &Value| {
        let traffic =
            snapshot["widgets"].as_array().and_then(|widgets| widgets.iter().find(|one| one["id"] == "traffic"));
        let events = traffic.and_then(|widget| widget["metrics"].as_array()?.iter().find(|one| one["key"] == "events"));
        events.and_then(|number| number["value"].as_f64()).unwrap_or_default()
    };
    let until = std::time::Instant::now() + crate::support::PATIENCE;
    // Waits until two days of data are loaded and the current hour has events.
    let is_loaded = |snapshot: &Value| {
        let count = |value: &Value| value.as_i64().unwrap_or_default();
        count(&snapshot["funnels"][0]["converted"]) > 1_000
            && count(&snapshot["dead_letters"]) > 0
            && count(&snapshot["open_sessions"]) > 0
    };
    let mut seen = snapshot().await;
    while !is_loaded(&seen) || events(&seen) == 0.0 {
        assert!(std::time::Instant::now() < until, "{seen}");
        seen = snapshot().await;
    }
    let first = events(&seen);
    while [0.0, first].contains(&events(&snapshot().await)) {
        assert!(std::time::Instant::now() < until);
    }

    // With the environment that the demo prints, the commands work on the demo.
    let run = |arguments: &[&str]| {
        let mut command = command(folder.path(), "");
        command.envs(told.env.iter().filter(|(name, _)| name != "PATH").map(|(name, value)| (name, value)));
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&["watch", "traffic", "--once"]);
    assert!(table.contains("traffic.events") && !table.contains("api."), "{table}");
    assert!(table.contains("LAST HOURS") && table.contains('█') && table.contains("ANALYTICS "), "{table}");
    let lines = run(&["watch", "*.median_ms", "--once", "--json"]);
    let number: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&number["widget_id"], &number["metric_key"]), (&"api".into(), &"median_ms".into()));
    assert!(run(&["funnel", "list"]).starts_with("missions: "));

    let ports = std::fs::read_dir(&files).unwrap().filter_map(|file| file.unwrap().file_name().into_string().ok());
    let ports = ports.filter_map(|name| Some(name.strip_prefix("nats-server_")?.strip_suffix(".ports")?.to_owned()));
    let server = ports.last().unwrap();
    assert!(runs(&server));
    assert!(Command::new("kill").args(["-TERM", &demo.id().to_string()]).status().unwrap().success());
    assert!(demo.wait().unwrap().success());
    wait_for("nats-server to end", || !runs(&server)).await;
    assert!(files.join("streamgauge.db").exists());
}

#[test]
fn a_demo_without_a_server_says_what_is_missing_and_ends_by_itself_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut without = command(folder.path(), "");
    let output = without.args(["demo", "--nats-server", "./no-such-server"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("cannot start ./no-such-server") && message.contains("NATS_SERVER"), "{message}");
    let output = demo(folder.path(), &["--for", "2s"]).wait_with_output().unwrap();
    assert!(output.status.success());
}
