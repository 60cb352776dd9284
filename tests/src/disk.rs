//! A small ext4 file system of its own, on a loop device, whose power can be cut.
//!
//! ```text
//! image file  <-- loop device <-- ext4, mounted at path()
//!  what the                       cut(): what is not on the device yet never gets there
//!  card has
//! ```
//!
//! It takes root, and e2fsprogs. A test that ends, however it ends, leaves neither a mount nor
//! a loop device behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)` in the kernel's fs/ext4/ext4.h.
const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal is written, as in a power cut.
const NO_LOG_FLUSH: u32 = 2;

/// See the module.
pub struct Disk {
    dir: tempfile::TempDir,
    options: String,
    mounted: bool,
}

impl Disk {
    /// An empty file system of so many MiB, mounted.
    ///
    /// # Errors
    /// Without root or e2fsprogs, and where the machine has no loop devices.
    pub fn new(size_mib: u32) -> anyhow::Result<Disk> {
        Disk::with_options(size_mib, "relatime")
    }

    /// The same with other mount options than ext4's own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_options(size_mib: u32, options: &str) -> anyhow::Result<Disk> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "this test mounts a file system of its own and needs root"
        );
        let options = format!("loop,{options}");
        let mut disk = Disk { dir: tempfile::tempdir()?, options, mounted: false };
        std::fs::create_dir(disk.path())?;
        let image = std::fs::File::create(disk.image())?;
        image.set_len(u64::from(size_mib) << 20)?;
        disk.make()?;
        disk.mount()?;
        Ok(disk)
    }

    fn make(&self) -> anyhow::Result<()> {
        // Blocks as on a card; nothing is initialised later, behind the test's back.
        let options = ["-q", "-F", "-b", "4096", "-m", "0"];
        let eager = ["-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(Command::new("mkfs.ext4").args(options).args(eager).arg(self.image()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Mounts what the device has: replays the journal, if the power was cut.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", &self.options]).arg(self.image()).arg(self.path()))?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it; nobody may have a file of it open.
    ///
    /// # Errors
    /// What `umount` says.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(self.path()))?;
        self.mounted = false;
        Ok(())
    }

    /// Cuts the power: from now on nothing reaches the device, not even what the kernel has
    /// taken already. Whoever writes gets EIO.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn cut(&self) -> anyhow::Result<()> {
        let root = std::fs::File::open(self.path())?;
        // SAFETY: this ioctl reads one u32 and writes nothing back.
        #[allow(unsafe_code, reason = "no crate wraps this ioctl")]
        unsafe {
            let shutdown = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
            rustix::ioctl::ioctl(&root, shutdown)
        }
        .context("shutting the file system down")
    }

    /// What ext4 does to a card that fails: `remount-ro`. Until it is mounted anew, everything
    /// can be read and nothing written, by those, too, who have files open.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn abort(&self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()))
    }

    /// Whoever writes waits from now on, until the value that this returns is dropped: a card that
    /// answers no more.
    ///
    /// # Errors
    /// What `fsfreeze` says.
    pub fn freeze(&self) -> anyhow::Result<Frozen> {
        run(Command::new("fsfreeze").arg("--freeze").arg(self.path()))?;
        Ok(Frozen(self.path()))
    }

    /// The next start of the machine, after a cut.
    ///
    /// # Errors
    /// As [`unmount`](Self::unmount) and [`mount`](Self::mount).
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// A new card: empty.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn replace(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.make()?;
        self.mount()
    }
}

/// A disk on which everybody waits who writes. Processes that do cannot even be killed: it has to be
/// dropped before they are.
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

/// Forbids writing to files that are open for writing already, or allows it again: what a
/// remount cannot do as long as somebody writes.
///
/// # Errors
/// What `chattr` says: it takes root, and a file system that knows the attribute.
pub fn set_immutable(files: &[&Path], immutable: bool) -> anyhow::Result<()> {
    run(Command::new("chattr").arg(if immutable { "+i" } else { "-i" }).args(files))
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a gateway that still runs must not keep it.
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {command:?}; Debian: e2fsprogs, mount"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}
