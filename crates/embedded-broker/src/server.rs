//! One run of the broker: a router, and a listener on a runtime of its own.
//!
//! The library can neither be stopped nor say where it listens. So the router is started by
//! itself, and the listener runs on a thread with its own tokio runtime: dropping that runtime
//! closes the listener and every connection. The port is looked for before.
//!
//! The library panics over a client that it has turned away before, and over one that died while
//! it connected; a lock of its own then keeps every later client out. So a panic on this thread
//! starts router and listener anew: clients see a broker that was restarted.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Once};
use std::task::Poll;
use std::thread::JoinHandle;

use rumqttd::protocol::v4::V4;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, ServerSettings, TlsConfig};
use tokio::sync::{Notify, oneshot};

use crate::{Error, bounds};

#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(listen: SocketAddr, tls: Option<TlsConfig>) -> Result<Self, Error> {
        let address =
            free_address(listen).map_err(|error| Error::Listen { address: listen, error })?;
        let (stop, stopped) = oneshot::channel();
        let (started, start) = sync_channel(1);
        let settings = settings(address, tls);
        let thread = std::thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || run(settings, &started, stopped))
            .map_err(Error::Thread)?;
        // From here on dropping it stops the thread.
        let server = Server { address, stop: Some(stop), thread: Some(thread) };
        wait(&start, address)?;
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error: the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // An error: the library panicked; its connections are closed all the same.
            let _ = thread.join();
        }
    }
}

/// Binds for a moment: a clear error where that is not possible, a free port for 0.
fn free_address(listen: SocketAddr) -> io::Result<SocketAddr> {
    TcpListener::bind(listen)?.local_addr()
}

/// Until the listener listens, and somebody takes a connection.
fn wait(start: &Receiver<io::Result<()>>, address: SocketAddr) -> Result<(), Error> {
    let no_answer = || Error::NoAnswer { address, waited: bounds::ANSWER };
    match start.recv_timeout(bounds::ANSWER) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Error::Listen { address, error }),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(no_answer()),
    }
    TcpStream::connect_timeout(&reachable(address), bounds::ANSWER).map_err(|_| no_answer())?;
    Ok(())
}

/// 0.0.0.0 and :: are listened on, but connected to as loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            address.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
        }
        _ => {}
    }
    address
}

thread_local! {
    /// On a broker's thread: who waits for the panic of one of its tasks.
    static PANICKED: RefCell<Option<Arc<Notify>>> = const { RefCell::new(None) };
}

/// Wakes when a task panics on this thread from now on. The hook is the process's, but minds no
/// other thread, and calls the one before it.
fn panics_of_this_thread() -> Arc<Notify> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let _ = PANICKED.try_with(|panicked| {
                if let Some(panicked) =
                    panicked.try_borrow().ok().as_deref().and_then(Option::as_ref)
                {
                    panicked.notify_one();
                }
            });
        }));
    });
    let panicked = Arc::new(Notify::new());
    PANICKED.set(Some(panicked.clone()));
    panicked
}

/// The thread: listens until it is told to stop. `started` gets the outcome of the first bind.
fn run(
    settings: ServerSettings,
    started: &SyncSender<io::Result<()>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let panicked = panics_of_this_thread();
    while run_once(settings.clone(), started, &mut stopped, &panicked) {}
}

/// Until it is told to stop, or has to begin anew: then true.
fn run_once(
    settings: ServerSettings,
    started: &SyncSender<io::Result<()>>,
    stopped: &mut oneshot::Receiver<()>,
    panicked: &Arc<Notify>,
) -> bool {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return false;
        }
    };
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let router = Router::new(RUNS.fetch_add(1, Ordering::Relaxed), router_config()).spawn();
    let mut server = rumqttd::Server::new(settings, router, V4);
    runtime.spawn({
        let (started, again) = (started.clone(), panicked.clone());
        async move {
            let mut listening = pin!(server.start(LinkType::Remote));
            // It binds when it is polled first, and goes on for ever unless that fails.
            let first = poll_fn(|context| Poll::Ready(listening.as_mut().poll(context))).await;
            match first {
                Poll::Pending => {
                    let _ = started.send(Ok(()));
                    let _ = listening.await;
                }
                Poll::Ready(ended) => {
                    if started.send(Err(bind_error(ended))).is_err() {
                        // Not at the start: somebody has taken the port between two runs.
                        tokio::time::sleep(bounds::ANSWER).await; // poll
                        again.notify_one();
                    }
                }
            }
        }
    });
    runtime.block_on(async {
        tokio::select! {
            // An error: the handle is gone without a word, which means the same.
            _ = stopped => false,
            () = panicked.notified() => true,
        }
    })
}

fn bind_error(ended: Result<(), impl std::error::Error + 'static>) -> io::Error {
    let Err(error) = ended else { return io::Error::other("it ended at once") };
    let io =
        std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(io) => io::Error::new(io.kind(), io.to_string()),
        None => io::Error::other(error.to_string()),
    }
}

fn settings(listen: SocketAddr, tls: Option<TlsConfig>) -> ServerSettings {
    let connect_ms = u16::try_from(bounds::CONNECT.as_millis()).expect("10 s are 10,000 ms");
    ServerSettings {
        name: "embedded".to_owned(),
        listen,
        tls,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: connect_ms,
            max_payload_size: bounds::PACKET_BYTES_MAX,
            max_inflight_count: bounds::READ_PACKETS_MAX,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        },
    }
}

fn router_config() -> RouterConfig {
    RouterConfig {
        max_connections: bounds::CONNECTIONS_MAX,
        max_outgoing_packet_count: bounds::OUTGOING_PACKETS_MAX,
        max_segment_size: bounds::SEGMENT_BYTES_MAX,
        max_segment_count: bounds::SEGMENTS_MAX,
        ..RouterConfig::default()
    }
}
