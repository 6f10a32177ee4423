use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A TCP proxy that cuts each connection after a fixed number of bytes from the server.
pub struct CuttingProxy {
    port: u16,
    cuts: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl CuttingProxy {
    pub async fn start(server_port: u16, cut_after_bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await {
                        carry(client, server, cut_after_bytes, &count).await;
                    }
                });
            }
        });
        Self { port, cuts, task }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, cut_after_bytes: usize, cuts: &AtomicUsize) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let upward = tokio::io::copy(&mut from_client, &mut to_server);
    let downward = async {
        let mut left = cut_after_bytes;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 || to_client.write_all(&buffer[..read.min(left)]).await.is_err() {
                return std::io::Result::Ok(());
            }
            left = left.saturating_sub(read);
            if left == 0 {
                cuts.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
    };
    tokio::select! {
        _ = upward => {}
        _ = downward => {}
    }
}
