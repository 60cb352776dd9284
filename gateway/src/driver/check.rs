//! `check --now`: a person wants to know whether readings get through, and not to wait for it.
//!
//! ```text
//! offline:    no more backoff -> connected --------------------------+-> storage answers -> done
//! connected:  hello, or the open one once more -> the broker's puback +
//! ```

use std::time::Duration;

use fieldpost_mqtt::DisconnectReason;
use tokio::sync::mpsc;

use super::Driver;
use crate::clock;

/// At once; a further one is refused.
const CHECKS_MAX: usize = 4;
/// For a connection: a session gives up sooner, and says why.
const CONNECT_MAX: Duration = Duration::from_secs(35);
/// For storage's answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What is told of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// It goes on.
    Step(String),
    /// It ended well.
    Done(String),
    /// It did not: why, and what to do.
    Failed(String),
}

/// Those under way.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Check>);

#[derive(Debug)]
struct Check {
    /// It holds all that a check ever says.
    told: mpsc::Sender<Said>,
    began: Duration,
    /// Pubacks of what was sent before come first.
    pubacks_before: usize,
    /// The broker has answered, too.
    broker_answered: bool,
    connected: bool,
    deadline: Duration,
}

impl Check {
    /// Nobody may listen any more.
    fn tell(&self, said: Said) {
        let _ = self.told.try_send(said);
    }

    fn step(&self, now: Duration, what: &str) {
        let ms = now.saturating_sub(self.began).as_millis();
        self.tell(Said::Step(format!("{what} after {ms} ms")));
    }
}

impl Driver {
    pub(super) fn begin_check(&mut self, told: mpsc::Sender<Said>) {
        let now = clock::boottime();
        let connected = self.connection.is_some();
        let deadline = now + if connected { ANSWER_MAX } else { CONNECT_MAX };
        let pubacks_before = self.session.as_ref().map_or(0, |session| session.inflight());
        let (began, broker_answered) = (now, false);
        let check = Check { told, began, pubacks_before, broker_answered, connected, deadline };
        let Some(session) = &self.session else {
            let why = "this gateway has no broker: it records locally. Add a [broker] section to change that";
            return check.tell(Said::Failed(why.to_owned()));
        };
        if self.checks.0.len() >= CHECKS_MAX {
            let why = format!("{CHECKS_MAX} checks are under way; wait for one of them");
            return check.tell(Said::Failed(why));
        }
        let address = &self.broker.address;
        check.tell(Said::Step(if connected {
            format!("{address}: connected; the storage is asked")
        } else {
            let retry_ms = self.history.next_retry_ms().unwrap_or_default();
            let wait_ms = retry_ms - now.as_millis() as i64;
            match &self.broker.last_error {
                Some(error) if wait_ms > 0 => {
                    let wait_s = wait_ms as f64 / 1_000.0;
                    format!("not connected to {error}; it is tried now, and not in {wait_s:.1} s")
                }
                Some(error) => format!("not connected to {error}; a try is under way"),
                None => format!("{address}: a try to connect is under way"),
            }
        }));
        if connected {
            self.engine.ask_now(now);
        } else {
            session.try_now();
        }
        self.checks.0.push(check);
    }

    pub(super) fn tell_checks_connected(&mut self, now: Duration) {
        for check in self.checks.0.iter_mut().filter(|check| !check.connected) {
            check.step(now, "the broker took this gateway");
            (check.connected, check.broker_answered) = (true, true);
            check.deadline = now + ANSWER_MAX;
        }
    }

    /// The broker has confirmed a message, such as the hello.
    pub(super) fn note_puback(&mut self, now: Duration) {
        for check in self.checks.0.iter_mut().filter(|check| !check.broker_answered) {
            if check.pubacks_before > 0 {
                check.pubacks_before -= 1;
            } else {
                check.step(now, "the broker answered");
                check.broker_answered = true;
            }
        }
    }

    pub(super) fn tell_checks_answered(&mut self) {
        let now = clock::boottime();
        let waiting = self.engine.waiting();
        for check in std::mem::take(&mut self.checks.0) {
            check.step(now, "the storage answered");
            check.tell(Said::Done(match waiting {
                0 => "online; nothing waits".to_owned(),
                _ => format!("online; {waiting} readings and events wait, and are on their way"),
            }));
        }
    }

    pub(super) fn tell_checks_disconnected(
        &mut self,
        error: &str,
        reason: &DisconnectReason,
        retry_in: Duration,
    ) {
        let next = match reason {
            // These say themselves what to look at.
            DisconnectReason::Certificate(_)
            | DisconnectReason::BrokerCertificate(_)
            | DisconnectReason::OurCertificate(_)
            | DisconnectReason::Tls(_)
            | DisconnectReason::Refused(_)
            | DisconnectReason::Subscription(_) => "",
            _ => {
                " Does the broker run there, is [broker] host and port right, and does the network let this \
                 machine through?"
            }
        };
        let retry_s = retry_in.as_secs_f64();
        self.fail_checks(&format!(
            "no connection to {error}.{next} Readings are kept; the next try by itself is in {retry_s:.1} s"
        ));
    }

    pub(super) fn fail_checks(&mut self, why: &str) {
        for check in self.checks.0.drain(..) {
            check.tell(Said::Failed(why.to_owned()));
        }
    }

    pub(super) fn tick_checks(&mut self, now: Duration) {
        let address = &self.broker.address;
        self.checks.0.retain(|check| {
            if now < check.deadline {
                return true;
            }
            let s = ANSWER_MAX.as_secs();
            check.tell(Said::Failed(match (check.connected, check.broker_answered) {
                (false, _) => format!("no connection to {address} within {} s", CONNECT_MAX.as_secs()),
                (true, false) => format!("{address} has answered nothing for {s} s: the connection is about to end"),
                (true, true) => format!(
                    "the broker takes this gateway, but no storage has answered for {s} s. Does the bridge run, on \
                     this broker and with the same topic_prefix, and may this device publish its hello and subscribe \
                     to its state? Readings are kept"
                ),
            }));
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_no_more_than_its_channel_holds() {
        let (told, mut heard) = mpsc::channel(crate::control::SAID_MAX);
        let check = Check {
            told,
            began: Duration::ZERO,
            pubacks_before: 0,
            broker_answered: true,
            connected: true,
            deadline: Duration::ZERO,
        };
        check.tell(Said::Step("began".to_owned()));
        check.step(Duration::from_millis(7), "the broker took this gateway");
        check.step(Duration::from_millis(9), "the storage answered");
        check.tell(Said::Done("online".to_owned()));
        drop(check);
        let mut all = Vec::new();
        while let Ok(said) = heard.try_recv() {
            all.push(said);
        }
        assert_eq!(all.len(), 4);
        assert_eq!(all[1], Said::Step("the broker took this gateway after 7 ms".to_owned()));
    }
}
