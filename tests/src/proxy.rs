//! A TCP proxy that is a bad network: slow, stalled, half-open, cut in the middle.
//!
//! ```text
//! client --> read --> queue (latency) --> write --> server      Way::Up
//! client <-- write <-- queue <-- read <-- server                Way::Down
//! ```
//!
//! What [`Conditions`] say holds at once, for connections that are open too. It knows nothing of
//! MQTT or TLS: a byte is a byte.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Connections that wait to be taken.
const BACKLOG: u32 = 128;
/// The largest piece that is passed on.
const PIECE: usize = 16 * 1024;
/// Pieces under way in one direction: 4 MiB, more than any latency here fills.
const PIECES_MAX: usize = 256;
/// Pieces in a second where the rate is limited.
const PIECES_A_SECOND: u64 = 10;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connects to the server.
    Up,
    /// Back.
    Down,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both ends get a reset.
    Rst,
    /// Both ends get an orderly end, in the middle of whatever they were saying.
    Fin,
}

/// What the network is like; both fields of a pair are for [`Way::Up`] and [`Way::Down`].
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// Each byte arrives so much later.
    pub latency: [Duration; 2],
    /// Bytes a second.
    pub rate: [Option<u64>; 2],
    /// Nothing moves; nobody is told.
    pub stalled: [bool; 2],
    /// Nobody listens.
    pub refusing: bool,
    /// Rises with each cut of everything.
    cuts: u64,
    cut: Option<End>,
}

/// See the module. Runs in a thread of its own until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    end: watch::Sender<bool>,
}

#[derive(Default)]
struct Shared {
    bytes: [AtomicU64; 2],
    connections: AtomicU64,
    open: AtomicU64,
    cut: AtomicU64,
    /// Connections up to this number are dead in this direction.
    dead_to: [AtomicU64; 2],
    cuts: Mutex<Cuts>,
}

/// Where connections are cut.
#[derive(Default)]
struct Cuts {
    /// Each after so many bytes upwards, counted from the cut before.
    next: VecDeque<(u64, End)>,
    bytes: u64,
}

impl Cuts {
    /// How many of the next `bytes` get through before the end, where a cut is due within them.
    fn due(&mut self, bytes: usize) -> Option<(usize, End)> {
        let (at, end) = *self.next.front()?;
        let rest = at - self.bytes;
        if (bytes as u64) < rest {
            self.bytes += bytes as u64;
            return None;
        }
        self.next.pop_front();
        self.bytes = 0;
        Some((rest as usize, end))
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `server`.
    ///
    /// # Errors
    /// Where port, runtime or thread cannot be had.
    pub fn start(server: SocketAddr) -> anyhow::Result<Proxy> {
        // Never listening: it keeps the port while nobody is to get through.
        let port = bind((Ipv4Addr::LOCALHOST, 0).into()).context("a port for the proxy")?;
        let address = port.local_addr()?;
        Proxy::run(Some(port), || bind(address)?.listen(BACKLOG), server)
    }

    /// The same with a listener of another network namespace; it cannot refuse.
    ///
    /// # Errors
    /// Where runtime or thread cannot be had.
    pub fn behind(listener: std::net::TcpListener, server: SocketAddr) -> anyhow::Result<Proxy> {
        listener.set_nonblocking(true)?;
        Proxy::run(None, || TcpListener::from_std(listener), server)
    }

    fn run(
        port: Option<TcpSocket>,
        listen: impl FnOnce() -> io::Result<TcpListener>,
        server: SocketAddr,
    ) -> anyhow::Result<Proxy> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let first = {
            let _inside = runtime.enter();
            listen().context("listening")?
        };
        let address = first.local_addr()?;
        let (conditions, seen) = watch::channel(Conditions::default());
        let (end, mut ended) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        let work = move || {
            let _port = port;
            runtime.block_on(async {
                tokio::select! {
                    _ = ended.wait_for(|end| *end) => {}
                    result = serve(first, server, seen, serving) => {
                        if let Err(error) = result {
                            eprintln!("the proxy on {address} has ended: {error}");
                        }
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(work)?;
        Ok(Proxy { address, conditions, shared, thread: Some(thread), end })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the network, from now on.
    pub fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.conditions.send_modify(change);
    }

    /// A good network again. A connection with a dead way stays dead.
    pub fn heal(&self) {
        *self.shared.lock_cuts() = Cuts::default();
        self.conditions.send_modify(|conditions| {
            let (cuts, cut) = (conditions.cuts, conditions.cut);
            *conditions = Conditions { cuts, cut, ..Conditions::default() };
        });
    }

    /// What the open connections say in this direction is lost from now on, their end too, and
    /// nobody is told: as behind a router that has forgotten them. New connections are good.
    pub fn kill_way(&self, way: Way) {
        let connections = self.shared.connections.load(Ordering::SeqCst);
        self.shared.dead_to[way as usize].store(connections, Ordering::SeqCst);
    }

    /// Cuts everything that is open.
    pub fn cut_now(&self, end: End) {
        self.conditions.send_modify(|conditions| {
            conditions.cuts += 1;
            conditions.cut = Some(end);
        });
    }

    /// Cuts the connection that brings what goes upwards from now on to exactly `bytes` bytes, all
    /// connections together; several cuts take turns, each counts from the one before. So the
    /// next one comes as long as anybody sends: one that belonged to a certain connection would
    /// never come where that one falls silent, or ends for another reason.
    pub fn cut_after(&self, bytes: u64, end: End) {
        self.shared.lock_cuts().next.push_back((bytes, end));
    }

    /// Connections that were cut at their byte so far.
    pub fn cut(&self) -> u64 {
        self.shared.cut.load(Ordering::SeqCst)
    }

    /// Bytes passed on so far.
    pub fn bytes(&self, way: Way) -> u64 {
        self.shared.bytes[way as usize].load(Ordering::SeqCst)
    }

    /// Connections taken so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that somebody still holds.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock_cuts(&self) -> std::sync::MutexGuard<'_, Cuts> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(
    mut listener: TcpListener,
    server: SocketAddr,
    mut conditions: watch::Receiver<Conditions>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    loop {
        let mut refusing = conditions.clone();
        tokio::select! {
            _ = refusing.wait_for(|now| now.refusing) => {}
            result = accept(&listener, server, &conditions, &shared) => return result,
        }
        drop(listener);
        if conditions.wait_for(|now| !now.refusing).await.is_err() {
            return Ok(());
        }
        listener = bind(address)?.listen(BACKLOG)?;
    }
}

async fn accept(
    listener: &TcpListener,
    server: SocketAddr,
    conditions: &watch::Receiver<Conditions>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let line = Line { number, conditions: conditions.clone(), shared: shared.clone() };
        tokio::spawn(async move {
            line.shared.open.fetch_add(1, Ordering::SeqCst);
            let _ = line.connect(client, server).await;
            line.shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// One connection.
struct Line {
    number: u64,
    conditions: watch::Receiver<Conditions>,
    shared: Arc<Shared>,
}

/// Some bytes, and when they came; none: the end.
type Piece = (Instant, Vec<u8>);

impl Line {
    async fn connect(&self, mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
        let mut server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let end = self.pass(&mut client, &mut server).await;
        if end == Err(End::Rst) {
            client.set_zero_linger()?;
            server.set_zero_linger()?;
        }
        Ok(())
    }

    /// Until both directions have ended in order, or something cuts them.
    async fn pass(&self, client: &mut TcpStream, server: &mut TcpStream) -> Result<(), End> {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let (up, up_rest) = mpsc::channel(PIECES_MAX);
        let (down, down_rest) = mpsc::channel(PIECES_MAX);
        let mut conditions = self.conditions.clone();
        let before = conditions.borrow_and_update().cuts;
        let work = async {
            tokio::try_join!(
                self.read(Way::Up, client_read, up),
                self.write(Way::Up, server_write, up_rest),
                self.read(Way::Down, server_read, down),
                self.write(Way::Down, client_write, down_rest),
            )
        };
        tokio::select! {
            result = work => result.map(|_| ()),
            cut = conditions.wait_for(|now| now.cuts != before) => {
                Err(cut.ok().and_then(|now| now.cut).unwrap_or(End::Rst))
            }
        }
    }

    async fn read(
        &self,
        way: Way,
        mut from: ReadHalf<'_>,
        to: mpsc::Sender<Piece>,
    ) -> Result<(), End> {
        let at = way as usize;
        loop {
            self.wait_while(|now| now.stalled[at]).await;
            let rate = self.conditions.borrow().rate[at];
            let size = rate.map_or(PIECE, |rate| (rate / PIECES_A_SECOND).max(1) as usize);
            let mut piece = vec![0; size.min(PIECE)];
            let read = match from.read(&mut piece).await {
                Ok(read) => read,
                // That it was reset would go this way too.
                Err(_) if self.is_dead(way) => return Ok(()),
                Err(_) => return Err(End::Rst),
            };
            piece.truncate(read);
            if let Some(rate) = rate {
                sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
            }
            if to.send((Instant::now(), piece)).await.is_err() || read == 0 {
                return Ok(());
            }
        }
    }

    async fn write(
        &self,
        way: Way,
        mut to: WriteHalf<'_>,
        mut from: mpsc::Receiver<Piece>,
    ) -> Result<(), End> {
        let at = way as usize;
        let back = if way == Way::Up { Way::Down } else { Way::Up };
        while let Some((came, mut piece)) = from.recv().await {
            let latency = self.conditions.borrow().latency[at];
            sleep_until(came + latency).await;
            self.wait_while(|now| now.stalled[at]).await;
            if self.is_dead(way) {
                continue;
            }
            if piece.is_empty() {
                let _ = to.shutdown().await;
                continue;
            }
            let cut = (way == Way::Up).then(|| self.shared.lock_cuts().due(piece.len())).flatten();
            if let Some((bytes, _)) = cut {
                piece.truncate(bytes);
            }
            let written = to.write_all(&piece).await;
            self.shared.bytes[at].fetch_add(piece.len() as u64, Ordering::SeqCst);
            if let Some((_, end)) = cut {
                self.shared.cut.fetch_add(1, Ordering::SeqCst);
                return Err(end);
            }
            // Who has gone would say so by a reset, the other way.
            if written.is_err() && !self.is_dead(back) {
                return Err(End::Rst);
            }
        }
        Ok(())
    }

    fn is_dead(&self, way: Way) -> bool {
        self.number <= self.shared.dead_to[way as usize].load(Ordering::SeqCst)
    }

    async fn wait_while(&self, holds: impl Fn(&Conditions) -> bool) {
        let _ = self.conditions.clone().wait_for(|now| !holds(now)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected(proxy: &Proxy, server: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(proxy.address()).unwrap();
        let (server, _) = server.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        }
        (client, server)
    }

    #[test]
    fn it_delays_stalls_swallows_and_cuts_at_the_byte() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).unwrap();
        proxy.cut_after(5, End::Rst);
        proxy.cut_after(3, End::Fin);
        let mut all = Vec::new();

        let (mut client, mut other) = connected(&proxy, &server);
        client.write_all(b"0123456789").unwrap();
        let error = other.read_to_end(&mut all).unwrap_err();
        assert_eq!((&*all, error.kind()), (&b"01234"[..], io::ErrorKind::ConnectionReset));
        let (mut client, mut other) = connected(&proxy, &server);
        client.write_all(b"0123456789").unwrap();
        all.clear();
        other.read_to_end(&mut all).unwrap();
        assert_eq!((&*all, proxy.cut()), (&b"012"[..], 2));

        let (mut client, mut other) = connected(&proxy, &server);
        proxy.change(|network| network.latency[0] = Duration::from_millis(100));
        let begun = std::time::Instant::now();
        let mut two = [0; 2];
        client.write_all(b"ab").unwrap();
        other.read_exact(&mut two).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(100));
        proxy.change(|network| network.stalled = [true; 2]);
        client.write_all(b"cd").unwrap();
        assert!(other.read_exact(&mut two).is_err());
        proxy.heal();
        other.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"cd");

        proxy.kill_way(Way::Up);
        client.write_all(b"ef").unwrap();
        drop(client);
        let error = other.read_exact(&mut two).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "nobody is told of the end");
        proxy.change(|network| network.refusing = true);
        let refused = || TcpStream::connect(proxy.address()).is_err();
        crate::rig::wait_until("refusing", crate::rig::SOON, || Ok(refused())).unwrap();
        proxy.heal();
        crate::rig::wait_until("accepting", crate::rig::SOON, || Ok(!refused())).unwrap();
    }
}
