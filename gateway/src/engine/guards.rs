//! The protocol's guards, each of which the simulation can switch off to see what it is for.

/// All on by default; a driver can reach nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// A state must answer our own nonce and an open page.
    pub nonce: bool,
    /// States and sync acks of another store are dropped.
    pub store: bool,
    /// Sync acks count only in the gen that a state on this connection confirmed.
    pub r#gen: bool,
    /// A sync ack of a row that was never given is dropped.
    pub hi_within_last: bool,
    /// A sync ack that does not join what is acked is dropped.
    pub lo_joins_acked: bool,
    /// A sync ack behind `acked` asks for a hello: the store went back.
    pub hello_when_hi_is_low: bool,
    /// A hello every hour, without a reason.
    pub hourly_hello: bool,
    /// A hello lists what was purged wholly.
    pub tombstones: bool,
    /// A hello lists what storage has, too: it may have lost it.
    pub lists_acked: bool,
    /// Rows that were dropped take `acked` along with the floor.
    pub acked_follows_floor: bool,
    /// A stream that a hello under way does not name sends nothing before its answer.
    pub waits_for_hello: bool,
    /// Rows that go are told of by a hello, where one that is under way or no batch says so.
    pub hello_when_floors_move: bool,
    /// What another gen has acknowledged counts for nothing.
    pub gen_forgets_acked: bool,
    /// Resends back off.
    pub backoff: bool,
    /// A command that is meant for another epoch does not run.
    pub target: bool,
    /// ... and is not called expired by this one.
    pub stale_before_expired: bool,
    /// The time at the bridge is counted from when the attempt was sent that its state answers ...
    pub time_from_sending: bool,
    /// ... not from when the first one was.
    pub time_from_answered: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Guards {
            nonce: true,
            store: true,
            r#gen: true,
            hi_within_last: true,
            lo_joins_acked: true,
            hello_when_hi_is_low: true,
            hourly_hello: true,
            tombstones: true,
            lists_acked: true,
            acked_follows_floor: true,
            waits_for_hello: true,
            hello_when_floors_move: true,
            gen_forgets_acked: true,
            backoff: true,
            target: true,
            stale_before_expired: true,
            time_from_sending: true,
            time_from_answered: true,
        }
    }
}
