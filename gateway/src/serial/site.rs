//! What the machine around a port tells: a console on it, a second adapter with the same id, who
//! has it open. Only looks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::settings::Place;

/// What will keep a port from working, each with what to do. `root` is `/`.
pub(crate) fn hints(root: &Path, place: &Place) -> Vec<String> {
    match place {
        Place::Device { path, .. } => {
            console(root, path).into_iter().chain(same_id(root, path)).collect()
        }
        Place::Socket(_) => Vec::new(),
    }
}

/// A Pi's own UART, with Linux's console on it: boot messages go to the board, and what the board
/// says goes to a login prompt.
fn console(root: &Path, path: &Path) -> Option<String> {
    let tty = tty(path)?;
    let consoles = fs::read_to_string(root.join("proc/consoles")).ok()?;
    let is_console = consoles.lines().any(|line| line.split_whitespace().next() == Some(&tty));
    is_console.then(|| {
        format!(
            "{} is the console of this machine: its messages go to the board, and lines of the board to its login. \
             Remove console=serial0,115200 (or console={tty},...) from /boot/firmware/cmdline.txt, \
             `systemctl disable --now serial-getty@{tty}`, and restart (raspi-config: Interface Options, Serial Port)",
            path.display()
        )
    })
}

/// Adapters without a serial number, such as many with a CH340, have one id for all of them:
/// /dev/serial/by-id shows the one that was plugged in last.
fn same_id(root: &Path, path: &Path) -> Option<String> {
    if !path.starts_with(root.join("dev/serial/by-id")) {
        return None;
    }
    let tty = tty(path)?;
    let ours = usb_id(root, &tty)?;
    let others = fs::read_dir(root.join("sys/class/tty")).ok()?;
    let others = others.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let same: BTreeSet<String> =
        others.filter(|other| usb_id(root, other).as_ref() == Some(&ours)).collect();
    if same.len() < 2 {
        return None;
    }
    let places: Vec<String> = same
        .iter()
        .map(|tty| by_path(root, tty).unwrap_or_else(|| PathBuf::from("/dev").join(tty)))
        .map(|path| path.display().to_string())
        .collect();
    Some(format!(
        "{} adapters have the id {}, so this name may be any of them after the next start. \
         Name the socket that each is plugged into instead: path = {}",
        same.len(),
        path.display(),
        places.join(" or ")
    ))
}

/// Vendor, product, serial number and interface: what by-id makes a name of.
fn usb_id(root: &Path, tty: &str) -> Option<[String; 4]> {
    let device = fs::canonicalize(root.join("sys/class/tty").join(tty).join("device")).ok()?;
    let read = |folder: &Path, name: &str| {
        fs::read_to_string(folder.join(name)).map(|text| text.trim().to_owned()).ok()
    };
    let usb = device.ancestors().find(|folder| folder.join("idVendor").is_file())?;
    let interface = device.ancestors().find_map(|folder| read(folder, "bInterfaceNumber"));
    Some([
        read(usb, "idVendor")?,
        read(usb, "idProduct")?,
        read(usb, "serial").unwrap_or_default(),
        interface.unwrap_or_default(),
    ])
}

/// The name that stays with the USB socket.
fn by_path(root: &Path, tty: &str) -> Option<PathBuf> {
    let links = fs::read_dir(root.join("dev/serial/by-path")).ok()?;
    let mut links = links.flatten().map(|entry| entry.path());
    links.find(|link| self::tty(link).as_deref() == Some(tty))
}

/// `ttyUSB0`, behind whatever link.
fn tty(path: &Path) -> Option<String> {
    Some(fs::canonicalize(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// Who has a device open, as far as this user may see: `arduino-cli (process 4711)`. As a service of
/// systemd it sees its own processes alone.
pub(super) fn holder(path: &Path) -> Option<String> {
    let device = fs::canonicalize(path).ok()?;
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let mut others = processes.filter(|process| !process.ends_with(&own));
    let process = others.find(|process| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        open.map(|fd| fs::read_link(fd.path())).any(|target| target.is_ok_and(|to| to == device))
    })?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("{} (process {})", name.trim(), process.file_name()?.to_str()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine in a folder: adapters as USB serial drivers show them.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().unwrap());
            for folder in ["proc", "dev/serial/by-id", "dev/serial/by-path", "sys/class/tty"] {
                fs::create_dir_all(machine.root().join(folder)).unwrap();
            }
            machine
        }

        fn root(&self) -> &Path {
            self.0.path()
        }

        fn plug(&self, tty: &str, socket: &str, serial: Option<&str>) {
            let root = self.root();
            fs::write(root.join("dev").join(tty), "").unwrap();
            let usb = root.join("sys/devices/usb1").join(socket);
            let device = usb.join(format!("{socket}:1.0")).join(tty);
            fs::create_dir_all(&device).unwrap();
            fs::write(usb.join("idVendor"), "1a86\n").unwrap();
            fs::write(usb.join("idProduct"), "7523\n").unwrap();
            if let Some(serial) = serial {
                fs::write(usb.join("serial"), format!("{serial}\n")).unwrap();
            }
            fs::create_dir_all(root.join("sys/class/tty").join(tty)).unwrap();
            symlink(&device, root.join("sys/class/tty").join(tty).join("device")).unwrap();
            let to = Path::new("../..").join(tty);
            let by_path = format!("dev/serial/by-path/platform-usb-0:{socket}:1.0-port0");
            symlink(&to, root.join(by_path)).unwrap();
            let serial = serial.map(|serial| format!("_{serial}")).unwrap_or_default();
            let by_id = self.id(&serial);
            let _ = fs::remove_file(&by_id);
            symlink(&to, by_id).unwrap();
        }

        fn id(&self, serial: &str) -> PathBuf {
            let name = format!("dev/serial/by-id/usb-1a86_USB_Serial{serial}-if00-port0");
            self.root().join(name)
        }

        fn hints(&self, path: &Path) -> Vec<String> {
            let (path, baud, reset_on_open) = (path.to_owned(), 9_600, true);
            hints(self.root(), &Place::Device { path, baud, reset_on_open })
        }
    }

    #[test]
    fn two_adapters_with_one_id_are_told_apart_by_their_sockets() {
        let machine = Machine::new();
        machine.plug("ttyUSB0", "1-1.2", None);
        assert!(machine.hints(&machine.id("")).is_empty());
        machine.plug("ttyUSB1", "1-1.3", None);
        let [hint] = &machine.hints(&machine.id(""))[..] else { panic!("one hint") };
        for part in ["2 adapters", "by-path/platform-usb-0:1-1.2:1.0", "0:1-1.3:1.0-port0"] {
            assert!(hint.contains(part), "{part} is not in: {hint}");
        }
        let by_path = machine.root().join("dev/serial/by-path/platform-usb-0:1-1.3:1.0-port0");
        assert!(machine.hints(&by_path).is_empty(), "that one is told apart");
    }

    #[test]
    fn adapters_with_serial_numbers_may_be_many() {
        let machine = Machine::new();
        machine.plug("ttyUSB0", "1-1.2", Some("A1"));
        machine.plug("ttyUSB1", "1-1.3", Some("A2"));
        assert!(machine.hints(&machine.id("_A1")).is_empty());
    }

    #[test]
    fn the_console_on_the_uart_of_the_header_is_named_also_behind_a_link() {
        let machine = Machine::new();
        fs::write(machine.root().join("dev/ttyS0"), "").unwrap();
        symlink("ttyS0", machine.root().join("dev/serial0")).unwrap();
        let serial0 = machine.root().join("dev/serial0");
        let consoles = |text: &str| {
            fs::write(machine.root().join("proc/consoles"), text).unwrap();
            machine.hints(&serial0)
        };
        assert!(consoles("tty1                 -WU (EC  p  )    4:1\n").is_empty());
        let both = "tty1                 -WU (EC  p  )    4:1\nttyS0                -W- (E    p a)    4:64\n";
        let [hint] = &consoles(both)[..] else { panic!("one hint") };
        for part in ["is the console", "cmdline.txt", "serial-getty@ttyS0", "raspi-config"] {
            assert!(hint.contains(part), "{part} is not in: {hint}");
        }
    }

    #[test]
    fn who_has_a_device_open_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tty");
        fs::write(&path, "").unwrap();
        assert_eq!(holder(&path), None);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exec 7<\"$0\"; echo open; read line", path.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 4];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(holder(&path), Some(format!("sh (process {})", child.id())));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
