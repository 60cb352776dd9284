//! On real pseudo-terminals: what a board writes is what the gateway reads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::serial::{
    Aggregate, Averaging, Checksum, CountersNow, Format, Place, Rule, Rules, crc16,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A board on a pseudo-terminal below a name that stays; dropping it pulls the plug.
struct Board(File);

impl Board {
    fn plug(link: &Path) -> Board {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let mut modes = tcgetattr(&master).unwrap();
        modes.make_raw();
        // As serial drivers have it: the last close drops DTR.
        modes.control_modes.insert(ControlModes::HUPCL);
        tcsetattr(&master, OptionalActions::Now, &modes).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        // As udev does it: the new link takes the old one's place at once.
        let new = link.with_extension("new");
        symlink(name.to_str().unwrap(), &new).unwrap();
        std::fs::rename(&new, link).unwrap();
        Board(File::from(master))
    }

    /// Whether the next close drops DTR, so that the next opening resets an Uno.
    fn hangs_up_on_close(&self) -> bool {
        tcgetattr(&self.0).unwrap().control_modes.contains(ControlModes::HUPCL)
    }

    fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }
}

/// A port that is being read, and all that comes of it.
struct Bench {
    link: PathBuf,
    handle: PortHandle,
    readings: mpsc::Receiver<Measured>,
    events: mpsc::Receiver<PortEvent>,
    _folder: TempDir,
}

impl Bench {
    fn start(queue: usize, plug: bool, change: impl Fn(&mut PortConfig)) -> (Bench, Option<Board>) {
        let folder = TempDir::new().unwrap();
        let link = folder.path().join("board");
        let board = plug.then(|| Board::plug(&link));
        let mut config = PortConfig::new("fruiting", link.clone());
        change(&mut config);
        let (readings_in, readings) = mpsc::channel(queue);
        let (events_in, events) = mpsc::channel(4);
        let handle = spawn(config, tick, readings_in, events_in);
        (Bench { link, handle, readings, events, _folder: folder }, board)
    }

    async fn reading(&mut self) -> String {
        let measured = timeout(DEADLINE, self.readings.recv()).await.unwrap().unwrap();
        format!("{} {}", measured.source, measured.metrics.to_json().unwrap())
    }

    async fn event(&mut self) -> PortEvent {
        timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap()
    }

    async fn opened(&mut self) {
        assert_eq!(
            self.event().await,
            PortEvent::Opened { port: "fruiting".into(), hints: Vec::new() }
        );
    }

    async fn lost(&mut self) -> String {
        match self.event().await {
            PortEvent::Lost { reason, .. } => reason,
            other => panic!("expected Lost, got {other:?}"),
        }
    }

    async fn until_closed(&self) {
        let closed = async { while !self.handle.releaser.closed().await {} };
        timeout(DEADLINE, closed).await.expect("it closes");
    }

    async fn until(&self, condition: impl Fn(&CountersNow) -> bool) -> CountersNow {
        let wait = async {
            loop {
                let now = self.handle.counters.snapshot();
                if condition(&now) {
                    return now;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = timeout(DEADLINE, wait).await;
        waited.unwrap_or_else(|_| panic!("still {:?}", self.handle.counters.snapshot()))
    }
}

/// A clock that moves on by one each time it is read.
fn tick() -> i64 {
    static NOW: AtomicI64 = AtomicI64::new(0);
    NOW.fetch_add(1, Ordering::Relaxed)
}

fn signed(text: &str) -> String {
    format!("{text}*{:04X}\n", crc16(text.as_bytes()))
}

#[tokio::test]
async fn what_a_board_writes_is_read_with_the_time_of_its_line_end() {
    let (mut bench, board) = Bench::start(10, true, |_| {});
    let mut board = board.unwrap();
    bench.opened().await;
    let line = signed("fruiting temp=24.5 #1");
    let (front, end) = line.split_at(10);
    board.write(front);
    bench.until(|now| now.bytes == 10).await;
    let before = tick();
    board.write(end);
    let measured = timeout(DEADLINE, bench.readings.recv()).await.unwrap().unwrap();
    assert_eq!(measured.metrics.to_json().unwrap(), r#"{"temp":24.5}"#);
    assert!(measured.boot_ms > before, "{} is the time of the line's front", measured.boot_ms);
    board.write(&signed("!boot fw=1.2.0"));
    let boot = PortEvent::Boot { port: "fruiting".into(), text: "fw=1.2.0".into() };
    assert_eq!(bench.event().await, boot);
    let now = bench.handle.counters.snapshot();
    assert_eq!((now.frames, now.accepted_by_queue, now.refused()), (2, 1, 0));
    bench.handle.stop().await;
}

/// 500 lines, and in the middle of each the configuration is replaced.
#[tokio::test]
async fn another_format_in_the_middle_of_a_line_loses_none_and_closes_nothing() {
    let (mut bench, board) = Bench::start(4_000, true, |_| {});
    let mut board = board.unwrap();
    bench.opened().await;
    let mut written = 0;
    for number in 1..=500 {
        let line = signed(&format!("t={number} #{number}"));
        let (front, end) = line.split_at(number % (line.len() - 1) + 1);
        board.write(front);
        written += front.len() as u64;
        bench.until(|now| now.bytes == written).await;
        let mut port = PortConfig::new("fruiting", bench.link.clone());
        let scale = if number % 2 == 0 { 10.0 } else { 100.0 };
        let rule = Rule { name: Some("temp".into()), scale: Some(scale), ..Rule::default() };
        port.rules = Rules([("t".to_owned(), rule)].into());
        port.checksum = if number % 3 == 0 { Checksum::Optional } else { Checksum::Required };
        bench.handle.retune(port);
        board.write(end);
        written += end.len() as u64;
        let expected = format!(r#"fruiting {{"temp":{}.0}}"#, number as f64 * scale);
        assert_eq!(bench.reading().await, expected);
    }
    let now = bench.handle.counters.snapshot();
    assert_eq!((now.accepted_by_queue, now.lines_lost, now.refused(), now.partial), (500, 0, 0, 0));
    assert!(bench.events.try_recv().is_err(), "the port was opened once");
    bench.handle.stop().await;
}

#[tokio::test]
async fn packets_instead_of_lines_drop_the_line_that_has_begun_and_a_window_ends_with_its_rules() {
    let (mut bench, board) = Bench::start(10, true, |port| {
        port.averaging = Some(Averaging { window_ms: 86_400_000, keep: vec![Aggregate::Mean] });
    });
    let mut board = board.unwrap();
    bench.opened().await;
    let line = signed("t=4 #1");
    board.write(&line);
    board.write("t=5");
    bench.until(|now| now.bytes as usize == line.len() + 3).await;
    let mut port = PortConfig::new("fruiting", bench.link.clone());
    port.format = Format::Cobs(vec!["t:u8".parse().unwrap()]);
    port.checksum = Checksum::None;
    bench.handle.retune(port);
    board.write("\0\x02\x07\0");
    assert_eq!(bench.reading().await, r#"fruiting {"t":4.0}"#);
    assert_eq!(bench.reading().await, r#"fruiting {"t":7}"#);
    assert_eq!(bench.handle.counters.snapshot().partial, 1);
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_board_that_is_unplugged_in_the_middle_of_a_line_is_found_again() {
    let (mut bench, board) = Bench::start(10, true, |_| {});
    let mut board = board.unwrap();
    bench.opened().await;
    let first = signed("temp=1 #1");
    board.write(&first);
    assert_eq!(bench.reading().await, r#"fruiting {"temp":1}"#);
    let second = signed("temp=2 #2");
    let (front, end) = second.split_at(5);
    board.write(front);
    bench.until(|now| now.bytes as usize == first.len() + front.len()).await;
    drop(board);
    assert!(bench.lost().await.contains("unplugged"));

    let mut board = Board::plug(&bench.link);
    bench.opened().await;
    board.write(end);
    board.write(&signed("temp=3 #3"));
    assert_eq!(bench.reading().await, r#"fruiting {"temp":3}"#);
    let now = bench.handle.counters.snapshot();
    assert_eq!((now.reopened, now.partial, now.lines_lost, now.refused()), (1, 2, 1, 0));
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_board_that_is_plugged_in_later_is_missed_once_and_then_read() {
    let (mut bench, _) = Bench::start(10, false, |_| {});
    let reason = bench.lost().await;
    assert!(reason.contains("is it plugged in?"), "{reason}");
    let mut board = Board::plug(&bench.link);
    bench.opened().await;
    board.write(&signed("temp=1 #1"));
    assert_eq!(bench.reading().await, r#"fruiting {"temp":1}"#);
    assert_eq!(bench.handle.counters.snapshot().reopened, 0);
    bench.handle.stop().await;
}

#[tokio::test]
async fn dtr_stays_up_where_the_board_is_not_to_be_reset() {
    for reset_on_open in [true, false] {
        let (mut bench, board) = Bench::start(10, true, |port| {
            let path = port.place.path().to_owned();
            port.place = Place::Device { path, baud: 115_200, reset_on_open };
        });
        bench.opened().await;
        assert_eq!(board.unwrap().hangs_up_on_close(), reset_on_open);
        bench.handle.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_is_no_port_is_named() {
    let (mut bench, _) = Bench::start(10, false, |port| {
        *port = PortConfig::new("fruiting", "/dev/null");
    });
    let reason = bench.lost().await;
    assert!(reason.contains("/dev/null") && reason.contains("is it a serial port?"), "{reason}");
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_flood_that_nobody_takes_is_counted_and_never_waits() {
    const LINES: u64 = 20_000;
    let (mut bench, board) = Bench::start(16, true, |_| {});
    let mut board = board.unwrap();
    bench.opened().await;
    let writer = thread::spawn(move || {
        for n in 1..=LINES {
            board.write(&signed(&format!("temp={n} #{n}")));
        }
        board
    });
    let now = bench.until(|now| now.frames == LINES).await;
    assert_eq!((now.accepted_by_queue, now.refused_queue_full), (16, LINES - 16));
    assert_eq!((now.lines_lost, now.refused_checksum), (0, 0));
    assert_eq!(bench.reading().await, r#"fruiting {"temp":1}"#);
    drop(writer.join().unwrap());
    bench.handle.stop().await;
}

#[tokio::test]
async fn events_that_nobody_takes_are_dropped_and_counted() {
    let (bench, board) = Bench::start(10, true, |_| {});
    let mut board = board.unwrap();
    for _ in 0..10 {
        board.write(&signed("!boot"));
    }
    // Opened and three boots fill the queue of four.
    bench.until(|now| now.events_dropped == 7).await;
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_port_that_was_asked_for_is_closed_for_a_while_and_opened_again() {
    let (mut bench, board) = Bench::start(10, true, |_| {});
    let mut board = board.unwrap();
    bench.opened().await;
    bench.handle.releaser.release(Duration::from_secs(3_600));
    let released = bench.event().await;
    assert!(matches!(released, PortEvent::Released { .. }), "{released:?}");
    bench.until_closed().await;
    // The last close of the other side reads as EIO on a master.
    let mut byte = [0];
    assert_eq!(rustix::io::read(&board.0, &mut byte), Err(rustix::io::Errno::IO));
    bench.handle.releaser.release(Duration::ZERO);
    bench.opened().await;
    board.write(&signed("temp=1 #1"));
    assert_eq!(bench.reading().await, r#"fruiting {"temp":1}"#);
    bench.handle.releaser.release(Duration::from_millis(1));
    assert!(matches!(bench.event().await, PortEvent::Released { .. }));
    bench.opened().await;
    board.write(&signed("temp=2 #4"));
    assert_eq!(bench.reading().await, r#"fruiting {"temp":2}"#);
    assert_eq!(bench.handle.counters.snapshot().lines_lost, 2, "what went to somebody else");
    bench.handle.stop().await;
}

#[tokio::test]
async fn what_a_board_has_not_taken_is_discarded_when_its_port_closes() {
    // A terminal's reading side holds so much (N_TTY_BUF_SIZE of Linux); the rest waits to be sent.
    const TAKEN_BYTES_MAX: usize = 4_096;
    let (mut bench, board) = Bench::start(10, true, |_| {});
    let mut board = board.unwrap();
    bench.opened().await;
    let to_board = bench.handle.board.clone();
    let line = "x".repeat(16 * TAKEN_BYTES_MAX);
    let asked = tokio::spawn(async move { to_board.ask(1, &line, DEADLINE, DEADLINE).await });
    let full = async {
        while rustix::io::ioctl_fionread(&board.0).unwrap() + 1 < TAKEN_BYTES_MAX as u64 {
            // It has started, and says so; it does not read.
            board.write(&signed("temp=1"));
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, full).await.expect("the line is written");
    bench.handle.releaser.release(Duration::from_secs(3_600));
    assert!(matches!(asked.await.unwrap(), Reply::Gone(_)));
    bench.until_closed().await;
    let mut taken = Vec::new();
    // As above: EIO is the end.
    board.0.read_to_end(&mut taken).unwrap_err();
    assert!(taken.len() <= TAKEN_BYTES_MAX, "{} bytes", taken.len());
    bench.handle.stop().await;
}

#[tokio::test]
async fn readings_of_a_window_are_one_and_a_stop_gives_out_the_open_one() {
    let averaging = Averaging { window_ms: 1_000_000, keep: vec![Aggregate::Max] };
    let (mut bench, board) =
        Bench::start(10, true, |port| port.averaging = Some(averaging.clone()));
    let mut board = board.unwrap();
    bench.opened().await;
    for n in 1..=3 {
        board.write(&signed(&format!("temp={n} #{n}")));
    }
    let now = bench.until(|now| now.frames == 3).await;
    assert_eq!(now.accepted_by_queue, 0);
    let Bench { handle, mut readings, .. } = bench;
    handle.stop().await;
    let measured = readings.recv().await.unwrap();
    assert_eq!(measured.metrics.to_json().unwrap(), r#"{"temp":3}"#);
    assert_eq!(readings.recv().await, None);
}

#[tokio::test]
async fn who_holds_a_busy_port_is_named_and_how_to_ask_for_it() {
    let folder = TempDir::new().unwrap();
    let link = folder.path().join("board");
    let _board = Board::plug(&link);
    let holder = tokio_serial::new(link.to_str().unwrap(), 9_600);
    let _held = tokio_serial::SerialStream::open(&holder).unwrap();
    let (mut bench, _) = Bench::start(10, false, |port| {
        *port = PortConfig::new("fruiting", link.clone());
    });
    let reason = bench.lost().await;
    for part in ["cannot be opened", "has it open", "fieldpost-gateway release"] {
        assert!(reason.contains(part), "{part} is not in: {reason}");
    }
    bench.handle.stop().await;
}

#[tokio::test]
async fn a_port_that_was_stopped_is_closed() {
    let (mut bench, board) = Bench::start(10, true, |_| {});
    bench.opened().await;
    bench.handle.stop().await;
    // The last close of the other side reads as EIO on a master.
    let mut byte = [0];
    let read = rustix::io::read(&board.unwrap().0, &mut byte);
    assert_eq!(read, Err(rustix::io::Errno::IO));
    assert_eq!(bench.readings.recv().await, None);
}

#[test]
fn the_wait_before_opening_again_is_bounded() {
    for failures in [0, 1, 6, 7, 1_000_000] {
        let bound = if failures == 0 { 100 } else { 5_000 };
        assert!(reopen_after(failures) <= Duration::from_millis(bound));
    }
}
