//! A board with real firmware: an Arduino sketch, compiled for an Uno against Debian's Arduino core
//! and run in libsimavr behind a pseudo-terminal (`avr/board.c`), with a ledger of what it has sent.

mod toolchain;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, ensure};

use crate::rig::{SOON, wait_until};
pub use toolchain::{Size, Target, Toolchain};

/// The Arduino library of this repository, and the sketches that show it.
pub fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../arduino/Fieldpost")
}

/// What the board tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The last byte of this line is in the port, and nobody pulls the cable before it is read.
    Sent(String),
    /// A byte of it went nowhere.
    Lost(String),
    /// The cable is in.
    Plugged,
    /// It is out.
    Unplugged,
    /// The board begins again.
    Reset,
    /// It has no current any more; its port is open.
    Stopped,
    /// Opening its port resets it.
    Wired,
}

/// A board that runs. It ends with this.
pub struct AvrBoard {
    process: Child,
    orders: Option<ChildStdin>,
    told: Arc<Mutex<Vec<Told>>>,
    listener: Option<JoinHandle<()>>,
}

impl AvrBoard {
    /// Runs a firmware behind a port at `link`.
    ///
    /// # Errors
    /// When the simulator cannot run it.
    pub fn start(tools: &Toolchain, firmware: &Path, link: &Path) -> anyhow::Result<AvrBoard> {
        let mut process = Command::new(tools.board())
            .args([firmware, link])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the simulated board")?;
        let orders = process.stdin.take();
        let out = process.stdout.take().context("its output is piped")?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let listening = told.clone();
        let listener = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                listening.lock().unwrap_or_else(PoisonError::into_inner).extend(parse(&line));
            }
        });
        let board = AvrBoard { process, orders, told, listener: Some(listener) };
        board.wait_told("that it is plugged in", |told| told.contains(&Told::Plugged))?;
        Ok(board)
    }

    /// All that it has told.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has told something.
    ///
    /// # Errors
    /// After [`SOON`].
    pub fn wait_told(&self, what: &str, is: impl Fn(&[Told]) -> bool) -> anyhow::Result<()> {
        wait_until(&format!("the board tells {what}"), SOON, || Ok(is(&self.told())))
    }

    /// Pulls the cable in the middle of a line, with nothing unread in it.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn unplug(&mut self) -> anyhow::Result<()> {
        self.order("unplug", Told::Unplugged)
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// Likewise.
    pub fn plug(&mut self) -> anyhow::Result<()> {
        self.order("plug", Told::Plugged)
    }

    /// Presses its button in the middle of a line.
    ///
    /// # Errors
    /// Likewise.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.order("reset", Told::Reset)
    }

    /// Presses its button now, whatever it does.
    ///
    /// # Errors
    /// Likewise.
    pub fn press(&mut self) -> anyhow::Result<()> {
        self.order("press", Told::Reset)
    }

    /// Cuts its current between two lines; what is in its port can still be read.
    ///
    /// # Errors
    /// Likewise.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.order("stop", Told::Stopped)
    }

    /// From now on each opening of its port resets it, as an Uno's DTR does.
    ///
    /// # Errors
    /// Likewise.
    pub fn reset_on_open(&mut self) -> anyhow::Result<()> {
        self.order("wire", Told::Wired)
    }

    fn order(&mut self, order: &str, then: Told) -> anyhow::Result<()> {
        let count = |told: &[Told]| told.iter().filter(|one| **one == then).count();
        let before = count(&self.told());
        let orders = self.orders.as_mut().context("it runs")?;
        writeln!(orders, "{order}").context("the simulated board has ended")?;
        self.wait_told(&format!("{then:?}"), |told| count(told) > before)
    }
}

impl Drop for AvrBoard {
    fn drop(&mut self) {
        // The end of its orders ends it.
        self.orders = None;
        let _ = self.process.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn parse(line: &str) -> Option<Told> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("sent", text) => Some(Told::Sent(text.to_owned())),
        ("lost", text) => Some(Told::Lost(text.to_owned())),
        ("plugged", _) => Some(Told::Plugged),
        ("unplugged", _) => Some(Told::Unplugged),
        ("reset", _) => Some(Told::Reset),
        ("stopped", _) => Some(Told::Stopped),
        ("wired", _) => Some(Told::Wired),
        _ => None,
    }
}

/// All that a firmware prints until it sleeps for ever.
///
/// # Errors
/// When the simulator cannot run it.
pub fn printed(tools: &Toolchain, firmware: &Path) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(tools.board()).arg(firmware).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "the simulated board ended with {}", output.status);
    Ok(output.stdout)
}
