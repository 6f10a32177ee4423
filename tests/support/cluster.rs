use std::net::TcpListener;

use async_nats::jetstream;

use super::nats::NatsServer;
use super::{Random, seed};

/// Three nats-servers that form a cluster.
pub struct Cluster {
    nodes: Vec<NatsServer>,
}

impl Cluster {
    pub async fn start() -> Self {
        let ports = free_ports();
        let routes: Vec<_> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            let config = format!(
                "server_name: n{at}\ncluster {{ name: C, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
                routes.join(", ")
            );
            nodes.push(NatsServer::start_with(&config).await);
        }
        Self { nodes }
    }

    /// Returns the URLs of all servers, separated by commas.
    pub fn url(&self) -> String {
        self.nodes.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// Kills the node that leads a stream. Returns the name of that node.
    pub async fn kill_leader(&mut self, stream: &str) -> String {
        let client = async_nats::connect(self.nodes.iter().map(NatsServer::url).collect::<Vec<_>>()).await.unwrap();
        let stream = jetstream::new(client).get_stream(stream).await.unwrap();
        let leader = stream.cached_info().cluster.as_ref().unwrap().leader.clone().unwrap();
        let at: usize = leader.trim_start_matches('n').parse().unwrap();
        self.nodes[at].kill();
        leader
    }
}

/// Returns free ports for the routes. Every node must know all of them before any node listens. They lie below the
/// range from which the system assigns ports.
fn free_ports() -> [u16; 3] {
    let mut random = Random(seed());
    let mut free = || loop {
        let port = 20_000 + u16::try_from(random.below(10_000)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    };
    [free(), free(), free()]
}
