//! What has to hold, at each step and in the end.

use fieldpost_protocol::{Seq, StreamKey};

use crate::gateway::told;
use crate::world::World;

impl World {
    /// A gateway let rows go. In the gen that it last heard of, storage has them: what an announced
    /// restore has taken back can be healed.
    pub fn judge_purge(&self, m: usize, key: StreamKey, lo: Seq, hi: Seq, lost: bool) {
        let shared = self.store.borrow();
        let current = Some(shared.db.identity.r#gen) == self.machines[m].image.heard_gen;
        if lost || !current || self.restored_silently {
            return;
        }
        let row = shared.db.streams().find(|(known, _)| *known == key).map(|(_, row)| row.clone());
        let gap = row.unwrap_or_default().coverage.missing_within(lo, hi);
        if let Some((lo, hi)) = gap.first() {
            self.truth.borrow_mut().violate(format!(
                "rows {lo}-{hi} of {key} were let go; the storage lacks them, and its gen had been confirmed"
            ));
        }
    }

    /// After each transaction: what a gateway holds and storage lacks is waiting, not missing.
    pub fn judge_storage(&self) {
        let calm = !self.restored && self.machines.len() == self.plan.devices;
        if !calm || self.machines.iter().any(|machine| machine.harmed) {
            return;
        }
        let shared = self.store.borrow();
        if shared.db.confused_until > self.unix_ms() {
            return;
        }
        for (key, row) in shared.db.streams() {
            let held = self.machines.iter().find_map(|machine| machine.image.held(key));
            let Some(held) = held.filter(|held| row.floor > held.floor) else { continue };
            let end = (row.floor - 1).min(held.last()).min(row.claimed);
            if end < held.floor {
                continue;
            }
            if let Some((lo, hi)) = row.coverage.missing_within(held.floor, end).first() {
                self.truth.borrow_mut().violate(format!(
                    "rows {lo}-{hi} of {key} are shown as missing, and a gateway holds them"
                ));
            }
        }
    }

    /// In the end: every accepted row is stored or in a dead letter, or shown as missing; what a
    /// gateway holds is stored. Says what does not hold yet.
    pub fn unsettled(&self) -> Option<String> {
        let shared = self.store.borrow();
        let db = &shared.db;
        for machine in &self.machines {
            for (key, held) in machine.image.streams() {
                if held.rows.is_empty() {
                    continue;
                }
                let row = db.streams().find(|(known, _)| *known == key).map(|(_, row)| row.clone());
                let gap = row.unwrap_or_default().coverage.missing_within(held.floor, held.last());
                if let Some((lo, hi)) = gap.first() {
                    return Some(format!(
                        "rows {lo}-{hi} of {} are held and not stored",
                        told(key)
                    ));
                }
            }
        }
        if let Some((key, (lo, hi))) = db.waiting() {
            return Some(format!("rows {lo}-{hi} of {} are shown as waiting for ever", told(key)));
        }
        let waiting = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let waiting: u64 = waiting.map(|process| process.engine.waiting()).sum();
        if waiting > 0 {
            return Some(format!("a gateway takes {waiting} rows for waiting"));
        }
        self.unanswered().or_else(|| self.silently_lost())
    }

    fn silently_lost(&self) -> Option<String> {
        let shared = self.store.borrow();
        let db = &shared.db;
        let rows: std::collections::BTreeMap<_, _> = db.streams().collect();
        for (id, fact) in self.truth.borrow().facts.iter().enumerate() {
            let (Some((key, seq)), true) = (fact.row, fact.accepted) else { continue };
            let row = rows.get(&key);
            if row.is_some_and(|row| row.coverage.contains(seq)) {
                continue;
            }
            let shown = row.is_some_and(|row| seq < row.floor && seq <= row.claimed);
            let heard = db.heard.get(&key).is_some_and(|heard| *heard >= seq);
            // Nobody is left who knows of it.
            let named = self.machines.iter().any(|machine| machine.image.names(key, seq));
            let excused = !heard && (fact.harmed || (fact.let_go && !named));
            if !shown && !excused {
                let key = told(key);
                return Some(format!(
                    "row {seq} of {key} (reading {id}) was accepted and is lost in silence \
                     (heard of: {heard}, lost with a card: {}, let go: {}, named: {named})",
                    fact.harmed, fact.let_go
                ));
            }
        }
        None
    }

    /// Rows that are gone from every card, though no gateway let them go, were lost with one.
    pub fn note_harm(&self) {
        let mut truth = self.truth.borrow_mut();
        let mut on_card = vec![false; truth.facts.len()];
        for machine in &self.machines {
            let images = [Some(&machine.image), machine.saved.as_ref()];
            for (_, _, row) in images.into_iter().flatten().flat_map(|image| image.rows()) {
                on_card[row.id] = true;
            }
        }
        for (fact, on_card) in truth.facts.iter_mut().zip(on_card) {
            fact.harmed |= fact.row.is_some() && !on_card && !fact.let_go;
        }
    }
}
