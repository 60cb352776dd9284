//! The supervisor: one connection after the other, with a wait between them.

use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::polled;
use crate::session::{Order, Shared};
use crate::{Connection, DisconnectReason, Event};

/// How a connection ended.
pub(crate) enum End {
    /// It is to be made again.
    Lost(DisconnectReason),
    /// The caller closed the session, and the goodbye was said if possible.
    Closed,
    /// Nobody holds the session, or takes its events, any more: no goodbye, so that the broker
    /// sends the will.
    Abandoned,
}

pub(crate) async fn run(
    shared: Weak<Shared>,
    events: mpsc::Sender<Event>,
    mut orders: watch::Receiver<Order>,
) {
    let mut backoff = Backoff::new();
    let Some(hurry) = shared.upgrade().map(|shared| shared.hurry.clone()) else { return };
    loop {
        let connection = Connection::next();
        let started = Instant::now();
        let end = one_connection(&shared, &events, &orders, connection).await;
        // The link is made when the connection is complete.
        let connected = shared.upgrade().is_some_and(|shared| shared.link().take().is_some());
        let End::Lost(reason) = end else { return };
        let lived = if connected { started.elapsed() } else { Duration::ZERO };
        let retry_in = backoff.next(lived);
        let connection = connected.then_some(connection);
        let mut hurried = pin!(hurry.notified());
        // From here on: the caller may answer the event before the wait has begun.
        hurried.as_mut().enable();
        let wait = async {
            let event = Event::Disconnected { connection, reason, retry_in };
            if events.send(event).await.is_err() {
                return End::Abandoned;
            }
            tokio::select! {
                () = tokio::time::sleep(retry_in) => End::Lost(DisconnectReason::Asked),
                () = hurried => End::Lost(DisconnectReason::Asked),
                () = events.closed() => End::Abandoned,
            }
        };
        tokio::select! {
            end = wait => if matches!(end, End::Abandoned) { return },
            () = closed(&mut orders) => return,
        }
    }
}

/// In a task of its own: should the client panic on what a broker sends, then the connection
/// is lost and not the session.
async fn one_connection(
    shared: &Weak<Shared>,
    events: &mpsc::Sender<Event>,
    orders: &watch::Receiver<Order>,
    connection: Connection,
) -> End {
    let Some(options) = shared.upgrade().map(|shared| shared.options.clone()) else {
        return End::Abandoned;
    };
    let work = polled::run(shared.clone(), events.clone(), orders.clone(), options, connection);
    match tokio::spawn(work).await {
        Ok(end) => end,
        Err(error) if error.is_panic() => {
            End::Lost(DisconnectReason::Protocol("the client failed within".to_owned()))
        }
        // The runtime goes down.
        Err(_) => End::Abandoned,
    }
}

/// Resolves when the session is closed, or every handle is gone.
async fn closed(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(|order| *order == Order::Close).await;
}
