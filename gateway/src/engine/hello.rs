//! One open hello: its pages, its attempts, and which state answers it.

use std::collections::VecDeque;
use std::time::Duration;

use fieldpost_protocol::{
    Epoch, Gen, HELLO_PAGES_MAX, HELLO_STREAMS_MAX, Hello, HelloStream, Nonce, Seq, State,
    StreamKey, VERSION,
};

use super::Guards;
use super::flow::Flow;

/// First repetition of an unanswered hello; doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// ... up to this.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Attempts whose moment is remembered; a later answer to an older one is too old to tell
/// the time by.
const ATTEMPTS_MAX: usize = 16;

/// Streams that one hello can list.
const LIST_MAX: usize = HELLO_STREAMS_MAX * HELLO_PAGES_MAX as usize;

/// What a hello lists. Beyond its bound it leaves out tombstones first, then what storage has
/// (which it then cannot ask for again), the oldest first; then the newest wait.
pub(super) fn listed(flows: &[Flow], guards: &Guards) -> Vec<HelloStream> {
    let may_be_listed = |flow: &&Flow| {
        (guards.tombstones || !flow.is_empty())
            && (guards.lists_acked || flow.is_empty() || !flow.is_settled())
    };
    let mut flows: Vec<&Flow> = flows.iter().filter(may_be_listed).collect();
    let mut surplus = flows.len().saturating_sub(LIST_MAX);
    for may_be_left_out in [Flow::is_empty, Flow::is_settled] {
        flows.retain(|flow| {
            let left_out = surplus > 0 && may_be_left_out(flow);
            surplus -= usize::from(left_out);
            !left_out
        });
    }
    flows.into_iter().take(LIST_MAX).map(Flow::listed).collect()
}

struct Page {
    streams: Vec<HelloStream>,
    answered: Option<Gen>,
    /// Sent in the present attempt.
    sent: bool,
}

/// What a state that answers tells.
pub(super) struct Answer {
    /// When the attempt that it answers was sent.
    pub(super) sent_at: Duration,
    /// When the first one was, that is remembered.
    pub(super) first_sent_at: Duration,
    /// It was the last page.
    pub(super) complete: bool,
}

/// A hello until every page is answered.
pub(super) struct Open {
    nonce: Nonce,
    no: u64,
    epoch: Epoch,
    pages: Vec<Page>,
    attempt: u32,
    attempts: VecDeque<(u32, Duration)>,
    backoff: Duration,
    retry_at: Duration,
}

impl Open {
    pub(super) fn new(
        now: Duration,
        nonce: Nonce,
        no: u64,
        epoch: Epoch,
        streams: Vec<HelloStream>,
        page_max: usize,
    ) -> Self {
        let page = |streams: &[HelloStream]| Page {
            streams: streams.to_vec(),
            answered: None,
            sent: false,
        };
        let mut pages: Vec<Page> = streams.chunks(page_max).map(page).collect();
        if pages.is_empty() {
            // Nothing to list yet: the store and the time are asked for all the same.
            pages.push(page(&[]));
        }
        let attempts = VecDeque::from([(1, now)]);
        Open {
            nonce,
            no,
            epoch,
            pages,
            attempt: 1,
            attempts,
            backoff: RETRY_FIRST,
            retry_at: now + RETRY_FIRST,
        }
    }

    /// The next page to send; after the retry time all unanswered ones once more.
    pub(super) fn poll_page(&mut self, now: Duration, jitter: f64) -> Option<Hello> {
        if now >= self.retry_at {
            self.attempt += 1;
            self.attempts.push_back((self.attempt, now));
            if self.attempts.len() > ATTEMPTS_MAX {
                self.attempts.pop_front();
            }
            self.backoff = (self.backoff * 2).min(RETRY_MAX);
            self.retry_at = now + self.backoff.mul_f64(0.75 + 0.5 * jitter);
            for page in &mut self.pages {
                page.sent = false;
            }
        }
        let at = self.pages.iter().position(|page| !page.sent && page.answered.is_none())?;
        self.pages[at].sent = true;
        Some(Hello {
            v: VERSION,
            nonce: self.nonce,
            attempt: self.attempt,
            no: self.no,
            page: at as u32 + 1,
            pages: self.pages.len() as u32,
            epoch: self.epoch,
            streams: self.pages[at].streams.clone(),
        })
    }

    /// Whose it is: streams of any other epoch have ended.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last row of the stream, if a page names it.
    pub(super) fn last_of(&self, key: StreamKey) -> Option<Seq> {
        self.named(key).map(|listed| listed.last)
    }

    /// Likewise its floor.
    pub(super) fn floor_of(&self, key: StreamKey) -> Option<Seq> {
        self.named(key).map(|listed| listed.floor)
    }

    fn named(&self, key: StreamKey) -> Option<&HelloStream> {
        let mut named = self.pages.iter().flat_map(|page| &page.streams);
        named.find(|listed| listed.key == key)
    }

    /// Whether the state answers a page of ours that is still open.
    pub(super) fn answer(&mut self, state: &State, guards: &Guards) -> Option<Answer> {
        if guards.nonce && state.nonce != self.nonce {
            return None;
        }
        let at = (state.page as usize).checked_sub(1).filter(|&at| at < self.pages.len())?;
        let page = &self.pages[at];
        let same_streams = page.streams.len() == state.streams.len()
            && page.streams.iter().zip(&state.streams).all(|(asked, told)| asked.key == told.key);
        if guards.nonce && (page.answered.is_some() || !same_streams) {
            return None;
        }
        let known = self.attempts.iter().find(|(attempt, _)| *attempt == state.attempt);
        let sent_at = match known {
            Some((_, at)) => *at,
            None if guards.nonce => return None,
            None => self.attempts[0].1,
        };
        self.pages[at].answered = Some(state.r#gen);
        Some(Answer {
            sent_at,
            first_sent_at: self.attempts[0].1,
            complete: self.pages.iter().all(|page| page.answered == Some(state.r#gen)),
        })
    }

    /// The storage was restored between two pages: the earlier answers are void.
    pub(super) fn forget_other_gens(&mut self, r#gen: Gen) {
        for page in &mut self.pages {
            if page.answered.is_some_and(|answered| answered != r#gen) {
                page.answered = None;
                page.sent = false;
            }
        }
    }

    /// A bridge is back: ask again by then, and be patient anew.
    pub(super) fn retry_by(&mut self, at: Duration) {
        self.backoff = RETRY_FIRST;
        self.retry_at = self.retry_at.min(at);
    }

    pub(super) fn retry_at(&self) -> Duration {
        self.retry_at
    }
}
