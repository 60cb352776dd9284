//! A simulated Arduino on a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use fieldpost_gateway::serial::crc16;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr};
use rustix::time::Timespec;

use crate::ledger::{Ledger, Sent};

/// How long a write may wait before the board looks whether it shall stop.
const WRITE_WAIT: Duration = Duration::from_millis(100);

/// How often the board looks whether somebody has opened its port.
const OPEN_LOOK: Duration = Duration::from_millis(5);

/// A board that sends until it is paused, does what it is told, and hangs up when it is dropped.
pub struct Board {
    sending: Arc<AtomicBool>,
    plugged: Arc<AtomicBool>,
    answering: Arc<AtomicBool>,
    slow: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    link: PathBuf,
}

impl Board {
    /// Begins to send `rate` lines a second on a new pseudo-terminal behind the symlink
    /// `link`, and enters each in the ledger.
    ///
    /// # Errors
    /// Where the machine gives no pseudo-terminal.
    pub fn start(link: &Path, rate: f64, ledger: Ledger) -> anyhow::Result<Board> {
        let (master, slave) = pseudo_terminal().context("opening a pseudo-terminal")?;
        let _ = std::fs::remove_file(link);
        std::os::unix::fs::symlink(&slave, link)
            .with_context(|| format!("linking {}", link.display()))?;
        let yes = || Arc::new(AtomicBool::new(true));
        let (sending, plugged, answering) = (yes(), yes(), yes());
        let slow = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("board".to_owned()).spawn({
            let (sending, plugged) = (sending.clone(), plugged.clone());
            let mut ear = Ear {
                held: Vec::new(),
                answering: answering.clone(),
                slow: slow.clone(),
                late: Vec::new(),
                ledger: ledger.clone(),
            };
            move || {
                let mut terminal = File::from(master);
                let result = send(&mut terminal, rate, &ledger, &sending, &slave, &mut ear);
                while plugged.load(Ordering::Relaxed) {
                    ear.hear(&mut terminal)?;
                    std::thread::park_timeout(WRITE_WAIT);
                }
                result
            }
        })?;
        let thread = Some(thread);
        Ok(Board { sending, plugged, answering, slow, thread, link: link.to_owned() })
    }

    /// Sends no more lines; the terminal stays open, so that what is on its way is read.
    pub fn pause(&self) {
        self.sending.store(false, Ordering::Relaxed);
    }

    /// Whether it answers the commands that it does from now on.
    pub fn answer(&self, answering: bool) {
        self.answering.store(answering, Ordering::Relaxed);
    }

    /// Whether it keeps its answers to itself, until it does no more.
    pub fn be_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// Whether it was not paused yet.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// Hangs up: what nobody has read is lost, as with a real cable.
    ///
    /// # Errors
    /// What the writing thread ran into.
    pub fn unplug(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.sending.store(false, Ordering::Relaxed);
        self.plugged.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the board panicked"))?
                .context("writing to the terminal")?;
            let _ = std::fs::remove_file(&self.link);
        }
        Ok(())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The master, non-blocking, and the slave's path. The slave is raw before anybody reads:
/// the line discipline would echo our own lines back to us.
///
/// # Errors
/// Where the machine gives no pseudo-terminal.
pub fn pseudo_terminal() -> std::io::Result<(OwnedFd, PathBuf)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?;
    let path = PathBuf::from(path.into_string().map_err(std::io::Error::other)?);
    let slave = open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut termios = tcgetattr(&slave)?;
    termios.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &termios)?;
    fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
    Ok((master, path))
}

fn send(
    terminal: &mut File,
    rate: f64,
    ledger: &Ledger,
    sending: &AtomicBool,
    slave: &Path,
    ear: &mut Ear,
) -> std::io::Result<()> {
    let pace = Duration::from_secs_f64(1.0 / rate);
    let mut due = Instant::now();
    // A board that is plugged in again goes on where the last one was.
    let mut n = ledger.len();
    let mut was_open = false;
    write_line(terminal, "!boot fw=demo", sending)?;
    while sending.load(Ordering::Relaxed) {
        if !is_open(terminal)? {
            // Nobody has the port open: what a board says then reaches nobody, nor does what
            // it has said before and nobody has read.
            if std::mem::take(&mut was_open) {
                forget_unread(slave)?;
            }
            std::thread::park_timeout(OPEN_LOOK);
            due = Instant::now();
            continue;
        }
        was_open = true;
        ear.hear(terminal)?;
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            // A board's pace, not a wait for something; bounded so that a pause is seen soon.
            std::thread::park_timeout(wait.min(WRITE_WAIT));
            continue;
        }
        n += 1;
        due += pace;
        let line = measure(n);
        ledger.enter(line);
        write_line(terminal, &line.text(n), sending)?;
    }
    Ok(())
}

/// What the board does when it is told to: `led` answers what it was told, `fail` that it cannot.
struct Ear {
    held: Vec<u8>,
    answering: Arc<AtomicBool>,
    slow: Arc<AtomicBool>,
    /// Answers that are to come.
    late: Vec<String>,
    ledger: Ledger,
}

impl Ear {
    /// Does what has come by now.
    fn hear(&mut self, terminal: &mut File) -> std::io::Result<()> {
        let mut bytes = [0; 256];
        loop {
            match terminal.read(&mut bytes) {
                Ok(read) if read > 0 => self.held.extend_from_slice(&bytes[..read]),
                // Nothing there; EIO: nobody has the port open.
                _ => break,
            }
        }
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            if let Some(answer) = self.obey(&line)
                && self.answering.load(Ordering::Relaxed)
            {
                self.late.push(answer);
            }
        }
        if !self.slow.load(Ordering::Relaxed) {
            for answer in self.late.drain(..) {
                write_line(terminal, &answer, &AtomicBool::new(false))?;
            }
        }
        Ok(())
    }

    fn obey(&self, line: &str) -> Option<String> {
        let (text, sum) = line.rsplit_once('*')?;
        let whole = sum == format!("{:04X}", crc16(text.as_bytes()));
        let (no, command) = text.strip_prefix('>').filter(|_| whole)?.split_once(' ')?;
        let (name, args) = command.split_once(' ').unwrap_or((command, ""));
        match name {
            "led" => {
                self.ledger.ran(command);
                Some(format!("@{no} ok {args}"))
            }
            "fail" => {
                self.ledger.ran(command);
                Some(format!("@{no} err no such pin"))
            }
            _ => Some(format!("@{no} err not known")),
        }
    }
}

/// A closed port of a machine keeps nothing; a terminal would hand it to the next reader, who
/// takes it for new.
fn forget_unread(slave: &Path) -> std::io::Result<()> {
    let slave = open(slave, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(tcflush(&slave, QueueSelector::IFlush)?)
}

/// Whether somebody has the slave open: else the master polls as hung up.
///
/// # Errors
/// What the system says.
pub fn is_open(terminal: &File) -> std::io::Result<bool> {
    let mut fds = [PollFd::new(terminal, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!fds[0].revents().contains(PollFlags::HUP))
}

/// Values that a column likes no better than a real sensor's: small steps and some noise.
fn measure(n: u64) -> Sent {
    let noise = |salt: u64| {
        let mut z = (n + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((z >> 40) % 3) as i64 - 1
    };
    let wave = |period: f64, size: f64| ((n as f64 / period).sin() * size).round() as i64;
    Sent {
        time_ms: unix_ms(),
        temp_tenths: 180 + wave(600.0, 20.0) + noise(1),
        humidity_tenths: 850 + wave(300.0, 40.0) + noise(2),
        co2: 800 + wave(900.0, 150.0) + noise(3),
    }
}

fn write_line(terminal: &mut File, text: &str, sending: &AtomicBool) -> std::io::Result<()> {
    let line = format!("{text}*{:04X}\n", crc16(text.as_bytes()));
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match terminal.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let wait = Timespec { tv_sec: 0, tv_nsec: WRITE_WAIT.as_nanos() as i64 };
                poll(&mut [PollFd::new(terminal, PollFlags::OUT)], Some(&wait))?;
                // Nobody reads, and nobody waits for the rest of the line any more.
                if !sending.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Unix milliseconds now.
pub fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
