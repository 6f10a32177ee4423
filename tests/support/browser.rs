use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{PATIENCE, POLL, wait_for};

/// Flags that keep Chromium from sending requests to any server but the page's.
const FLAGS: [&str; 9] = [
    "--headless=new",
    // The tests may run as root, in a container.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// A headless Chromium with one page, controlled over its debugging protocol.
pub struct Browser {
    process: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
    /// Errors that the page logged, and exceptions that it threw.
    pub errors: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts the program that `CHROMIUM` names, or `chromium`.
    pub async fn start() -> Self {
        let program = std::env::var_os("CHROMIUM").unwrap_or_else(|| "chromium".into());
        let profile = tempfile::tempdir().unwrap();
        let mut data = std::ffi::OsString::from("--user-data-dir=");
        data.push(profile.path());
        let process = Command::new(program)
            .args(FLAGS)
            .arg(data)
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium is missing (Debian: apt-get install chromium); deploy/test skips these tests without it");
        let url = debugging_url(profile.path()).await;
        let (socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
        let mut browser = Self { process, socket, calls: 0, errors: Vec::new(), _profile: profile };
        let targets = browser.call("Target.getTargets", json!({})).await;
        let page = targets["targetInfos"].as_array().unwrap().iter().find(|target| target["type"] == "page");
        let host = url.split("/devtools/").next().unwrap();
        let page = format!("{host}/devtools/page/{}", page.unwrap()["targetId"].as_str().unwrap());
        (browser.socket, _) = tokio_tungstenite::connect_async(page).await.unwrap();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method of the protocol.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect(method).unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            match answer["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.errors.push(answer["params"].to_string()),
                Some("Log.entryAdded") if answer["params"]["entry"]["level"] == "error" => {
                    self.errors.push(answer["params"]["entry"].to_string());
                }
                _ => {}
            }
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Returns the value of an expression. If the value is a promise, waits for it.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
    }

    /// Waits until an expression has this value.
    pub async fn wait_until(&mut self, expression: &str, expected: &Value) {
        let until = Instant::now() + PATIENCE;
        loop {
            let value = self.eval(expression).await;
            if value == *expected {
                return;
            }
            assert!(Instant::now() < until, "{expression} is {value}, not {expected}; {:?}", self.errors);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sets the window's size, and the preferred color scheme (`light` or `dark`).
    pub async fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme).await;
    }

    /// Writes what the window shows to a PNG file.
    pub async fn screenshot(&mut self, path: &Path) {
        use base64::Engine as _;
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png).unwrap();
    }
}

/// Returns the URL of the browser's debugging protocol, once the browser listens.
async fn debugging_url(profile: &Path) -> String {
    let url = || {
        let file = std::fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
        let (port, path) = file.split_once('\n')?;
        (!path.is_empty()).then(|| format!("ws://127.0.0.1:{port}{}", path.trim()))
    };
    wait_for("Chromium", || url().is_some()).await;
    url().unwrap()
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
