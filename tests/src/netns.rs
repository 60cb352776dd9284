//! Two network namespaces with a cable between them, and a firewall that cuts it.
//!
//! ```text
//! namespace "near": 192.0.2.2 ---- veth ---- namespace "far": 192.0.2.1
//!   the gateway runs here                      a listener that we hold stands here
//! ```
//!
//! Nothing of it is seen in the machine's own namespace: no address, no interface, no rule.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The address of the far end (of those that are kept for documentation).
pub const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// See the module. Dropping it removes both.
pub struct Cable {
    near: String,
    far: String,
}

impl Cable {
    /// Makes both namespaces and the cable.
    ///
    /// # Errors
    /// Without root, or where `ip` (Debian's package iproute2) is not installed.
    pub fn lay() -> anyhow::Result<Cable> {
        ensure!(
            geteuid().is_root(),
            "a partition needs network namespaces, and those need root: run the tests as root"
        );
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("fieldpost-{}-{number}-{end}", std::process::id());
        let cable = Cable { near: name("near"), far: name("far") };
        for namespace in [&cable.near, &cable.far] {
            ip(&["netns", "add", namespace])?;
        }
        let (near, far) = (&*cable.near, &*cable.far);
        ip(&["-n", near, "link", "add", "v0", "type", "veth", "peer", "v0", "netns", far])?;
        for (namespace, address) in [(near, NEAR), (far, FAR)] {
            ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", "v0"])?;
            ip(&["-n", namespace, "link", "set", "v0", "up"])?;
        }
        Ok(cable)
    }

    /// What stands before a command line that is to run at the near end.
    pub fn wrapper(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.near].map(str::to_owned).to_vec()
    }

    /// A listener on a free port of [`FAR`].
    ///
    /// # Errors
    /// Where the namespace cannot be entered.
    pub fn listen(&self) -> anyhow::Result<TcpListener> {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.far))?;
        // A socket stays in the namespace where it was made; the thread that enters it ends.
        let thread = std::thread::spawn(move || -> anyhow::Result<TcpListener> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering a network namespace")?;
            Ok(TcpListener::bind((FAR, 0))?)
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    }

    /// Drops every packet, both ways.
    ///
    /// # Errors
    /// Where `nft` (Debian's package nftables) is not installed.
    pub fn cut(&self) -> anyhow::Result<()> {
        let rules = "add table inet cut
             add chain inet cut out { type filter hook output priority 0; policy drop; }
             add chain inet cut in { type filter hook input priority 0; policy drop; }";
        let nft = ["netns", "exec", &self.near, "nft", rules];
        ip(&nft).context("nft is in Debian's package nftables")
    }

    /// Lets packets through again.
    ///
    /// # Errors
    /// When it is not cut.
    pub fn mend(&self) -> anyhow::Result<()> {
        ip(&["netns", "exec", &self.near, "nft", "delete table inet cut"])
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        // Where a user's own PATH lacks them.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .context("running ip; it is in Debian's package iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {} ended with {}: {said}",
        arguments.join(" "),
        output.status
    );
    Ok(())
}
