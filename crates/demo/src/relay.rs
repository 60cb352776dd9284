//! A TCP relay between gateway and broker that counts the bytes on the wire, TLS and all.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs until it is dropped.
pub struct Relay {
    address: SocketAddr,
    counted: Arc<Counted>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Counted {
    up: AtomicU64,
    down: AtomicU64,
}

impl Relay {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `broker`.
    ///
    /// # Errors
    /// Where the port or the runtime cannot be had.
    pub fn start(broker: SocketAddr) -> anyhow::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").context("binding the relay")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counted = Arc::new(Counted::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("relay")
            .enable_all()
            .build()
            .context("starting the relay")?;
        let counters = counted.clone();
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((client, _)) = listener.accept().await {
                let counters = counters.clone();
                tokio::spawn(async move {
                    let _ = pass(client, broker, &counters).await;
                });
            }
        });
        Ok(Relay { address, counted, runtime: Some(runtime) })
    }

    /// Where the gateway connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes from the gateway to the broker, and back, without TCP and IP headers.
    pub fn bytes(&self) -> (u64, u64) {
        (self.counted.up.load(Ordering::Relaxed), self.counted.down.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn pass(client: TcpStream, broker: SocketAddr, counted: &Counted) -> std::io::Result<()> {
    let server = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    // One direction that ends takes the other along: half-open connections are nobody's use here.
    tokio::select! {
        up = copy(client_read, server_write, &counted.up) => up,
        down = copy(server_read, client_write, &counted.down) => down,
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counted: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        counted.fetch_add(read as u64, Ordering::Relaxed);
    }
}
