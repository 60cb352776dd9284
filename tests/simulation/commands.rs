//! Commands in a history: who asks for them, and what really ran. No command runs twice, or after its
//! time; none is left without an answer, and no answer lies.

use std::collections::BTreeMap;
use std::rc::Rc;

use fieldpost_bridge::engine::{CommandRow, Origin};
use fieldpost_protocol::{
    Command, CommandId, CommandOutcome, Content, DeviceId, EventKind, Metrics, Topic, Value,
};

use crate::truth::Truth;
use crate::world::{About, Packet, What, World, note};

/// What is known of a command, by nobody in the history.
#[derive(Debug, Clone)]
pub struct Asked {
    pub device: DeviceId,
    pub strict: bool,
    /// Unix milliseconds at the bridge.
    pub expires: Option<i64>,
    /// By which machines it was done.
    pub runs: Vec<usize>,
    /// A gateway has said that it surely did not run.
    pub denied: bool,
}

/// All of a history's. Somebody may give an id twice: what is asked for is part of the name.
pub type Commands = BTreeMap<(CommandId, Content), Asked>;

/// See [`Commands`].
pub fn name_of(command: &Command) -> (CommandId, Content) {
    (command.id.clone().expect("each has one here"), command.content())
}

/// Whether a gateway has let go of a row that tells of this id.
fn is_let_go(truth: &Truth, id: &CommandId) -> bool {
    let tells = |kind: &EventKind| matches!(kind, EventKind::CommandAck { id: of, .. } if of == id);
    truth.acks.iter().any(|(fact, kind)| truth.facts[*fact].let_go && tells(kind))
}

impl World {
    /// The time at the bridges, as a gateway can know it at best.
    pub fn cloud_ms(&self) -> i64 {
        self.unix_ms() + self.bridge_skew_ms
    }

    /// Somebody asks a device for something: at the bridge's shell, or with an MQTT client.
    pub fn ask(&mut self) {
        if self.measuring {
            self.after(self.dice.around(self.plan.ask_every_ms), What::Ask);
        }
        let device = self.machines[self.dice.below(self.plan.devices)].device.clone();
        let no = self.truth.borrow().commands.len();
        let within_ms = self.dice.pick(&[1_000, 10_000, 60_000, 600_000]);
        let expires = self.dice.chance(0.8).then(|| self.cloud_ms() + within_ms);
        let by_person = self.dice.chance(0.3);
        let strict = self.dice.chance(0.3);
        // A person takes an id that is in use, now and then: one of the latest.
        let reused = by_person && no > 0 && self.dice.chance(self.plan.id_reused);
        let of = if reused { no - 1 - self.dice.below(no.min(4)) } else { no };
        let id: CommandId = format!("c{of}").parse().expect("an id");
        let args = Metrics::new(vec![("no".into(), Value::Int(no as i64))]);
        let command = Command {
            v: 1,
            id: Some(id.clone()),
            name: "led".to_owned(),
            args: args.expect("one good name"),
            expires,
            target: None,
            strict,
        };
        note!(
            self,
            "somebody asks {device} for {id} no {no}, strict: {strict}, person: {by_person}"
        );
        let (runs, denied) = (Vec::new(), false);
        let asked = Asked { device: device.clone(), strict, expires, runs, denied };
        self.truth.borrow_mut().commands.insert((id.clone(), command.content()), asked);
        if by_person {
            let json = serde_json::to_vec(&command).expect("a command is JSON");
            let topic = Topic::Commands(device);
            let packet = Packet { topic, payload: Rc::new(json), about: Rc::new(About::default()) };
            self.after(0, What::AtBroker(packet, false));
        } else {
            let row = CommandRow::new(&command, Origin::Cli, self.cloud_ms());
            self.store.borrow_mut().db.ask(&device, id, row);
        }
    }

    /// Whether it is sure to run at most once, and what is told of it is true. A card that was rolled
    /// back, replaced or copied has forgotten what ran: only the ledger knows, of strict commands. A
    /// ledger that went back has forgotten that.
    fn is_sure(&self, asked: &Asked) -> bool {
        let of = || self.machines.iter().filter(|machine| machine.device == asked.device);
        let copied =
            of().count() > 1 || of().any(|machine| machine.harmed || machine.durable.is_some());
        !copied || (asked.strict && !self.restored)
    }

    /// A gateway lets its board do it, now.
    pub fn run_command(&mut self, m: usize, command: &Command) {
        let key = name_of(command);
        let id = &key.0;
        note!(self, "the board of gateway {m} does {id}");
        let cloud_ms = self.cloud_ms();
        let clock_lies = self.truth.borrow().clock_lies;
        let truth = &mut *self.truth.borrow_mut();
        let Some(asked) = truth.commands.get_mut(&key) else { return };
        asked.runs.push(m);
        let sure = self.is_sure(asked);
        let wrong = if asked.runs.len() > 1 && sure {
            Some(format!("command {id} ran {} times", asked.runs.len()))
        } else if asked.denied && sure {
            Some(format!("command {id} ran after somebody said that it surely did not"))
        } else if asked.expires.is_some_and(|at| cloud_ms >= at) && !clock_lies {
            let late_ms = cloud_ms - asked.expires.unwrap_or_default();
            Some(format!("command {id} ran {late_ms} ms after its time"))
        } else {
            None
        };
        if let Some(wrong) = wrong {
            truth.violate(wrong);
        }
    }

    /// A gateway has recorded this outcome.
    pub fn judge_outcome(&self, command: &Command, outcome: CommandOutcome, slack_ms: i64) {
        let key = name_of(command);
        let id = &key.0;
        let cloud_ms = self.cloud_ms();
        let truth = &mut *self.truth.borrow_mut();
        let clock_lies = truth.clock_lies;
        let Some(asked) = truth.commands.get_mut(&key) else { return };
        let sure = self.is_sure(asked);
        let (runs, expires) = (asked.runs.len(), asked.expires);
        let denies = matches!(outcome, CommandOutcome::Expired | CommandOutcome::Rejected);
        asked.denied |= denies;
        let early = expires.map_or(0, |at| at - cloud_ms - slack_ms);
        let wrong = match outcome {
            _ if denies && runs > 0 && sure => {
                Some(format!("command {id} is {} and ran", outcome.as_str()))
            }
            CommandOutcome::Expired if early > 0 && !clock_lies => {
                Some(format!("command {id} is called expired {early} ms before its time"))
            }
            CommandOutcome::Succeeded | CommandOutcome::Failed if runs != 1 && sure => {
                Some(format!("command {id} has {} and ran {runs} times", outcome.as_str()))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            truth.violate(wrong);
        }
    }

    /// In the end: every command that the ledger knows is answered, and so is every one that a gateway
    /// has begun; and what the bridge has concluded by itself is true.
    pub fn unanswered(&self) -> Option<String> {
        for machine in &self.machines {
            if let Some((id, _)) = machine.image.inbox.iter().find(|(_, row)| row.outcome.is_none())
            {
                return Some(format!("command {id} was begun and never ended"));
            }
        }
        let shared = self.store.borrow();
        let truth = self.truth.borrow();
        for (id, row) in shared.db.ledger() {
            let Some(ending) = &row.ending else {
                return Some(format!(
                    "command {id} has no answer (issued {} times, target {:?})",
                    row.issued, row.target
                ));
            };
            let Some(asked) = truth.commands.get(&(id.clone(), row.content)) else { continue };
            let sure = self.is_sure(asked);
            let denied = matches!(
                ending.outcome,
                Some(CommandOutcome::Expired | CommandOutcome::Rejected) | None
            );
            // A storage that went back gets a person's message once more, long after it was answered;
            // or the answer was too old to be kept for that.
            let late = self.plan.duplicate > 0.0 && row.origin == Origin::Person;
            let excused = ending.concluded && self.restored && (late || is_let_go(&truth, id));
            if denied && sure && !excused && !asked.runs.is_empty() {
                let told = ending.detail.as_deref().unwrap_or_default();
                return Some(format!("command {id} ended as {} and ran: {told}", ending.as_str()));
            }
        }
        None
    }
}
