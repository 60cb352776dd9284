//! System calls of a running program that fail on purpose, by strace.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{SOON, wait_until};

/// Attached to a program; its calls fail until this is dropped.
pub struct Strace {
    child: Child,
    dir: tempfile::TempDir,
}

impl Strace {
    /// Attaches to a program. Each of `faults` is an expression of strace's `inject`, such as
    /// `pwrite64:error=ENOSPC:when=3+5`; the failed call is not executed.
    ///
    /// # Errors
    /// Without strace, or where it may not attach.
    pub fn attach(pid: u32, faults: &[&str]) -> anyhow::Result<Strace> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-o"]).arg(dir.path().join("trace"));
        let calls = faults.iter().filter_map(|fault| fault.split(':').next());
        command.args(["-e", &format!("trace={}", calls.collect::<Vec<_>>().join(","))]);
        for fault in faults {
            command.args(["-e", &format!("inject={fault}")]);
        }
        let said = dir.path().join("said");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said)?);
        let child = command.spawn().context("running strace; it is in Debian's package strace")?;
        let mut strace = Strace { child, dir };
        wait_until("attaching strace", SOON, || {
            let text = std::fs::read_to_string(&said)?;
            ensure!(
                strace.child.try_wait()?.is_none(),
                "strace has ended; root may attach: {text}"
            );
            Ok(text.contains("attached"))
        })?;
        Ok(strace)
    }

    /// How many calls have failed on purpose so far.
    ///
    /// # Errors
    /// A trace that cannot be read.
    pub fn injected(&self) -> anyhow::Result<usize> {
        let text = std::fs::read_to_string(self.dir.path().join("trace")).unwrap_or_default();
        Ok(text.lines().filter(|line| line.contains("(INJECTED)")).count())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // So that it lets go of the program before it ends.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
