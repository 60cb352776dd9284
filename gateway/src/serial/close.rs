//! Closing a device, which may take long: a driver holds up close(2) until what was written is sent,
//! 30 s by default (`closing_wait` in setserial(8)), and a board that has stopped takes nothing.
//!
//! So the rest is discarded, and the device closes in a thread of its own. Whoever needs it closed
//! waits for that, but only a moment.

use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// An ordinary close takes less than a millisecond. Who waits for another goes on after this.
const CLOSE_MAX: Duration = Duration::from_millis(200);

/// The devices of one port: one that is open, and those whose close hangs.
#[derive(Debug, Clone, Default)]
pub(super) struct Openings(watch::Sender<usize>);

impl Openings {
    /// Keeps a device open until what is returned is dropped. `discard` makes its close a short one.
    pub(super) fn hold<T: Send + 'static>(&self, device: T, discard: fn(&T)) -> Held<T> {
        self.0.send_modify(|open| *open += 1);
        let opening = Opening { device, _counted: Counted(self.0.clone()) };
        Held { opening: Some(opening), discard }
    }

    /// Waits until none is open, but not for a close that hangs. Whether none is.
    pub(super) async fn closed(&self) -> bool {
        self.closed_within(CLOSE_MAX).await
    }

    async fn closed_within(&self, within: Duration) -> bool {
        let mut open = self.0.subscribe();
        timeout(within, open.wait_for(|open| *open == 0)).await.is_ok()
    }
}

/// A device that is open as long as this lives.
#[derive(Debug)]
pub(super) struct Held<T: Send + 'static> {
    opening: Option<Opening<T>>,
    discard: fn(&T),
}

impl<T: Send> Held<T> {
    pub(super) fn device(&mut self) -> &mut T {
        &mut self.opening.as_mut().expect("only dropping takes it").device
    }
}

impl<T: Send> Drop for Held<T> {
    fn drop(&mut self) {
        let Some(opening) = self.opening.take() else { return };
        let discard = self.discard;
        let close = move || {
            discard(&opening.device);
            drop(opening);
        };
        // Where there is no thread to be had, it closes here.
        let _ = thread::Builder::new().name("close-port".to_owned()).spawn(close);
    }
}

/// Closed first, and then counted: in the order of the fields.
#[derive(Debug)]
struct Opening<T> {
    device: T,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const TEST_MAX: Duration = Duration::from_secs(60);

    /// Closes when it is told to, or the test ends; says so.
    struct Slow {
        close: Receiver<()>,
        closed: Sender<()>,
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.close.recv_timeout(TEST_MAX);
            let _ = self.closed.send(());
        }
    }

    #[tokio::test]
    async fn a_close_that_hangs_holds_up_nobody() {
        let openings = Openings::default();
        let (close, closing) = channel();
        let (closed, has_closed) = channel();
        let mut held = openings.hold(Slow { close: closing, closed }, |_| {});
        held.device();
        assert!(!openings.closed().await, "it is open");
        drop(held);
        assert!(!openings.closed().await, "it hangs");
        assert!(has_closed.try_recv().is_err(), "it was waited for");
        // The port may open again meanwhile.
        let again = openings.hold((), |()| {});
        close.send(()).unwrap();
        has_closed.recv_timeout(TEST_MAX).unwrap();
        drop(again);
        assert!(openings.closed_within(TEST_MAX).await);
    }

    #[tokio::test]
    async fn what_is_waited_for_is_closed() {
        for _ in 0..100 {
            let openings = Openings::default();
            let (close, closing) = channel();
            let (closed, has_closed) = channel();
            close.send(()).unwrap();
            drop(openings.hold(Slow { close: closing, closed }, |_| {}));
            assert!(openings.closed_within(TEST_MAX).await);
            has_closed.try_recv().expect("it has closed before");
        }
    }
}
