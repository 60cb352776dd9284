//! What is to become of a command: the first rule that fits it.
//!
//! Whoever keeps the inbox looks the command up, judges, and writes the verdict down in one
//! transaction. A command is looked at anew whenever it comes, and once more right before it is done.
//!
//! Always true here:
//! - What is known by its id is never started again, whatever else the message says.
//! - `expired` and `rejected` are answered by the epoch that the command is meant for, and by no other:
//!   another cannot know that it did not run.

use fieldpost_protocol::{Command, CommandOutcome, Content, Epoch};

use super::Guards;

/// What the inbox knows about the id of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// What the first command of this id has asked for.
    pub content: Content,
    /// What became of it; `None` while it runs.
    pub outcome: Option<CommandOutcome>,
    /// Storage has the event that told the outcome last.
    pub told: bool,
}

/// What the inbox knows about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// The id was seen before.
    pub known: Option<Known>,
    /// Another command under this id was refused before; and whether storage has the event that said so.
    pub other: Option<bool>,
    /// It was stale for this target before; and whether storage has the event that said so last.
    pub stale: Option<bool>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The bridge gives it an id, or a target, and issues it.
    LeaveToBridge,
    /// Nothing: it runs, or its answer is on its way to storage.
    Wait,
    /// Nobody has told the time yet: to be judged again then.
    Hold,
    /// Tell the recorded outcome once more.
    Repeat,
    /// Reject it: its id is that of another command, whose outcome stays as it is.
    OtherContent,
    /// It was meant for another epoch. Not the outcome of the id: issued for this one, it runs.
    Stale,
    /// It may not be called so, and why. The outcome of the id.
    Reject(String),
    /// It comes too late. The outcome of the id.
    Expire,
    /// Write down that it runs; then, and only then, do it.
    Start,
}

/// What a command is judged by, beside what the inbox knows.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    /// The epoch that is appended to.
    pub epoch: Epoch,
    /// The time at the bridge, at the latest that it can be; `None`: nobody has told.
    pub cloud_ms: Option<i64>,
    /// All on, but in the simulation.
    pub guards: Guards,
}

impl Judge {
    /// The first rule that fits. `allowed`: what the configuration says of its name and arguments.
    pub fn judge(
        &self,
        command: &Command,
        record: &Record,
        allowed: Result<(), String>,
    ) -> Verdict {
        if command.id.is_none() || (command.strict && command.target.is_none()) {
            return Verdict::LeaveToBridge;
        }
        let for_another = command.target.is_some_and(|target| target != self.epoch);
        let stale = match record.stale {
            Some(false) => Verdict::Wait,
            Some(true) | None => Verdict::Stale,
        };
        if let Some(known) = &record.known {
            return match known.outcome {
                _ if known.content != command.content() && for_another => stale,
                _ if known.content != command.content() => match record.other {
                    Some(false) => Verdict::Wait,
                    Some(true) | None => Verdict::OtherContent,
                },
                Some(_) if known.told => Verdict::Repeat,
                Some(_) | None => Verdict::Wait,
            };
        }
        let is_late = match command.expires {
            Some(at) => self.cloud_ms.map(|now| now >= at),
            None => Some(false),
        };
        if is_late == Some(true) && !self.guards.stale_before_expired {
            return Verdict::Expire;
        }
        if for_another && self.guards.target {
            return stale;
        }
        match (allowed, is_late) {
            (Err(why), _) => Verdict::Reject(why),
            (Ok(()), None) => Verdict::Hold,
            (Ok(()), Some(true)) => Verdict::Expire,
            (Ok(()), Some(false)) => Verdict::Start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_000_000_000;
    const MINE: Epoch = Epoch([1; 16]);
    const OLD: Epoch = Epoch([2; 16]);

    fn command(json: &str) -> Command {
        Command::decode(json.as_bytes()).unwrap()
    }

    fn judge(command: &Command, record: Record) -> Verdict {
        let judge = Judge { epoch: MINE, cloud_ms: Some(NOW), guards: Guards::default() };
        judge.judge(command, &record, Ok(()))
    }

    fn led() -> Command {
        Command { target: Some(MINE), ..command(r#"{"id":"a1","name":"led","args":{"on":1}}"#) }
    }

    fn known(outcome: Option<CommandOutcome>, told: bool) -> Record {
        let known = Known { content: led().content(), outcome, told };
        Record { known: Some(known), ..Record::default() }
    }

    #[test]
    fn a_new_command_for_this_epoch_starts_and_a_person_s_for_none() {
        assert_eq!(judge(&led(), Record::default()), Verdict::Start);
        let person = Command { target: None, ..led() };
        assert_eq!(judge(&person, Record::default()), Verdict::Start);
    }

    #[test]
    fn what_only_a_bridge_can_make_sure_of_is_left_to_it() {
        let nameless = Command { id: None, ..led() };
        assert_eq!(judge(&nameless, Record::default()), Verdict::LeaveToBridge);
        let strict = Command { target: None, strict: true, ..led() };
        assert_eq!(judge(&strict, Record::default()), Verdict::LeaveToBridge);
    }

    #[test]
    fn a_known_command_is_never_started_again() {
        let done = Some(CommandOutcome::Succeeded);
        for command in [led(), Command { target: Some(OLD), expires: Some(0), ..led() }] {
            assert_eq!(judge(&command, known(None, false)), Verdict::Wait);
            assert_eq!(judge(&command, known(done, false)), Verdict::Wait, "it is on its way");
            assert_eq!(judge(&command, known(done, true)), Verdict::Repeat);
        }
        let other = command(r#"{"id":"a1","name":"led","args":{"on":0}}"#);
        assert_eq!(judge(&other, known(None, false)), Verdict::OtherContent);
        let refused = |told| Record { other: Some(told), ..known(None, false) };
        assert_eq!(judge(&other, refused(false)), Verdict::Wait, "its refusal is on its way");
        assert_eq!(judge(&other, refused(true)), Verdict::OtherContent);
    }

    #[test]
    fn another_command_of_a_known_id_is_refused_by_the_epoch_that_it_is_meant_for_only() {
        let other = command(r#"{"id":"a1","name":"led","args":{"on":0}}"#);
        let known = known(Some(CommandOutcome::Succeeded), true);
        for target in [None, Some(MINE)] {
            let other = Command { target, ..other.clone() };
            assert_eq!(judge(&other, known), Verdict::OtherContent);
        }
        // That epoch may be a copy of this card, which has run it.
        let of_old = Command { target: Some(OLD), ..other };
        assert_eq!(judge(&of_old, known), Verdict::Stale);
        let told = |told| Record { stale: Some(told), ..known };
        assert_eq!(judge(&of_old, told(false)), Verdict::Wait);
        assert_eq!(judge(&of_old, told(true)), Verdict::Stale);
    }

    #[test]
    fn only_the_epoch_that_it_is_meant_for_says_expired_or_rejected() {
        let late = Command { expires: Some(NOW), ..led() };
        assert_eq!(judge(&late, Record::default()), Verdict::Expire);
        let of_old = Command { target: Some(OLD), ..late };
        assert_eq!(judge(&of_old, Record::default()), Verdict::Stale);
        let said = |told| Record { stale: Some(told), ..Record::default() };
        assert_eq!(judge(&of_old, said(false)), Verdict::Wait);
        assert_eq!(judge(&of_old, said(true)), Verdict::Stale);
        let judge = Judge { epoch: MINE, cloud_ms: Some(NOW), guards: Guards::default() };
        let refused = || Err("no".to_owned());
        assert_eq!(judge.judge(&of_old, &Record::default(), refused()), Verdict::Stale);
        let verdict = judge.judge(&led(), &Record::default(), refused());
        assert_eq!(verdict, Verdict::Reject("no".to_owned()));
    }

    #[test]
    fn without_the_time_of_the_cloud_nothing_runs_that_expires() {
        let judge = Judge { epoch: MINE, cloud_ms: None, guards: Guards::default() };
        let expires = Command { expires: Some(NOW), ..led() };
        assert_eq!(judge.judge(&expires, &Record::default(), Ok(())), Verdict::Hold);
        assert_eq!(judge.judge(&led(), &Record::default(), Ok(())), Verdict::Start);
    }
}
