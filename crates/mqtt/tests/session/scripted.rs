//! Against peers that do what a real broker does only on a bad day.

use std::time::Duration;

use fieldpost_mqtt::{
    DisconnectReason, EVENTS_MAX, Event, Login, Message, Options, Password, PublishError, Qos,
    Token, Will,
};
use tokio::time::{Instant, timeout};

use crate::peer::{
    CONNACK, CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBLISH, Peer, SUBSCRIBE, listen,
};
use crate::{Client, DEADLINE, message, options};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_peer_that_accepts_and_never_answers_is_left() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options { answer_timeout: SECOND, ..options(address, "a") });
    let mut peer = Peer::accept(&listener).await;
    assert_eq!(client.refused().await, DisconnectReason::TimedOut);
    assert_eq!(peer.read().await.unwrap().kind, CONNECT);
    assert!(peer.read().await.is_none(), "the connection is closed");
}

#[tokio::test]
async fn a_broker_that_owes_a_suback_is_left() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        answer_timeout: SECOND,
        subscriptions: vec!["t".to_owned()],
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, false).await;
    assert_eq!(peer.read().await.unwrap().kind, SUBSCRIBE);
    assert_eq!(client.refused().await, DisconnectReason::TimedOut);
}

#[tokio::test]
async fn a_broker_that_answers_no_ping_is_left() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options { keep_alive: SECOND, ..options(address, "a") });
    let mut peer = Peer::welcome(&listener, false).await;
    let connection = client.connected().await;
    assert_eq!(client.disconnected().await, (Some(connection), DisconnectReason::TimedOut));
    assert_eq!(peer.read().await.unwrap().kind, PINGREQ);
}

#[tokio::test]
async fn a_broker_that_stops_its_pubacks_is_dropped_although_it_answers_pings() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        keep_alive: SECOND,
        puback_timeout: 3 * SECOND,
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, false).await;
    let connection = client.connected().await;
    client.session.publish(connection, message("t", 1)).unwrap();
    let broker = async {
        let mut pings = 0;
        while let Some(packet) = peer.read().await {
            if packet.kind == PINGREQ {
                pings += 1;
                peer.write(&PINGRESP).await;
            }
        }
        pings
    };
    let (ended, pings) = tokio::join!(client.disconnected(), broker);
    assert_eq!(ended, (Some(connection), DisconnectReason::PubackStalled(3 * SECOND)));
    assert!(pings >= 2, "{pings}");
}

#[tokio::test]
async fn an_idle_connection_owes_no_pubacks() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        keep_alive: SECOND,
        puback_timeout: SECOND,
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, false).await;
    client.connected().await;
    for _ in 0..3 {
        assert_eq!(peer.read().await.unwrap().kind, PINGREQ);
        peer.write(&PINGRESP).await;
    }
    assert!(client.events.try_recv().is_err());
}

#[tokio::test]
async fn pubacks_leave_in_the_order_of_arrival_whatever_the_order_of_the_calls() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        subscriptions: vec!["t".to_owned()],
        manual_puback: true,
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, true).await;
    for pkid in [7, 3, 9] {
        peer.publish(pkid, b"x").await;
    }
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(client.message().await);
    }
    client.session.puback(&deliveries[2]).unwrap();
    client.session.puback(&deliveries[1]).unwrap();
    // The first is missing, so none leaves. A second call for the same one changes nothing.
    client.session.puback(&deliveries[1]).unwrap();
    assert!(peer.read_within(SECOND / 2).await.is_none());
    client.session.puback(&deliveries[0]).unwrap();
    for pkid in [7, 3, 9] {
        let packet = peer.read().await.unwrap();
        assert_eq!((packet.kind, packet.pkid()), (PUBACK, pkid));
    }
}

#[tokio::test]
async fn pubacks_do_not_starve_behind_a_full_window() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        subscriptions: vec!["t".to_owned()],
        manual_puback: true,
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, true).await;
    let connection = client.connected().await;
    for token in 0..96 {
        client.session.publish(connection, message("t", token)).unwrap();
    }
    let full = client.session.publish(connection, message("t", 96)).unwrap_err();
    assert_eq!(full, PublishError::WindowFull { max: 96 });
    peer.publish(1, b"x").await;
    let delivery = client.message().await;
    client.session.puback(&delivery).unwrap();
    let mut publishes = 0;
    loop {
        match peer.read().await.unwrap().kind {
            PUBLISH => publishes += 1,
            PUBACK => break,
            other => panic!("{other}"),
        }
    }
    assert_eq!(publishes, 96, "none of them has a puback");
}

#[tokio::test]
async fn messages_that_overtake_the_suback_come_after_connected() {
    let (listener, address) = listen().await;
    let mut client =
        Client::start(Options { subscriptions: vec!["t".to_owned()], ..options(address, "a") });
    let mut peer = Peer::welcome(&listener, false).await;
    let subscribe = peer.read().await.unwrap();
    for pkid in 1..=3 {
        peer.publish(pkid, &[b'0' + u8::try_from(pkid).unwrap()]).await;
    }
    peer.write(&[0x90, 3, subscribe.body[0], subscribe.body[1], 1]).await;
    assert!(matches!(client.event().await, Event::Connected { .. }));
    for payload in [b"1", b"2", b"3"] {
        assert_eq!(client.message().await.payload, payload);
    }
}

#[tokio::test]
async fn a_refused_subscription_is_named_and_nothing_is_connected() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        subscriptions: vec!["allowed".to_owned(), "not/allowed".to_owned()],
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, false).await;
    let subscribe = peer.read().await.unwrap();
    peer.write(&[0x90, 4, subscribe.body[0], subscribe.body[1], 1, 0x80]).await;
    assert_eq!(client.refused().await, DisconnectReason::Subscription("not/allowed".to_owned()));
}

#[tokio::test]
async fn refused_credentials_are_told_apart_and_tried_again() {
    let (listener, address) = listen().await;
    let login =
        Login { username: "u".to_owned(), password: Password::Text("secret-password".to_owned()) };
    assert!(!format!("{login:?}").contains("secret-password"));
    let mut client = Client::start(Options { login: Some(login), ..options(address, "a") });
    for code in [4, 5] {
        let mut peer = Peer::accept(&listener).await;
        let connect = peer.read().await.unwrap();
        assert!(connect.body.ends_with(b"\0\x01u\0\x0fsecret-password"));
        peer.write(&[0x20, 2, 0, code]).await;
        let reason = client.refused().await;
        assert!(matches!(reason, DisconnectReason::Refused(_)), "{reason:?}");
        assert!(!reason.to_string().contains("secret-password"));
    }
}

#[tokio::test]
async fn what_is_no_mqtt_ends_the_connection_and_not_the_session() {
    let instead_of_connack: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0x20, 2, 0, 99],
        &[0xFF; 64],
        &[0x20, 0],
        &[0x30, 3, 0, 1, b't'],
        &[0x20, 0xFF, 0xFF, 0xFF, 0x7F],
    ];
    for bytes in instead_of_connack {
        let (listener, address) = listen().await;
        let mut client = Client::start(options(address, "a"));
        let mut peer = Peer::accept(&listener).await;
        peer.read().await.unwrap();
        peer.write(bytes).await;
        drop(peer);
        client.refused().await;
        let _peer = Peer::welcome(&listener, false).await;
        client.connected().await;
    }
    // A PUBACK that nobody waits for, a message at QoS 2, packets that only a client sends.
    let afterwards: [&[u8]; 8] = [
        &[0x40, 2, 0, 1],
        &[0x34, 5, 0, 1, b't', 0, 1],
        &[0x10, 2, 0, 1],
        &[0x50, 2, 0, 1],
        &[0x62, 2, 0, 1],
        &[0x82, 2, 0, 1],
        &[0xC0, 0],
        &[0x00; 16],
    ];
    for bytes in afterwards {
        let (listener, address) = listen().await;
        let mut client = Client::start(options(address, "a"));
        let mut peer = Peer::welcome(&listener, false).await;
        client.connected().await;
        peer.write(bytes).await;
        let (_, reason) = client.disconnected().await;
        assert!(matches!(reason, DisconnectReason::Protocol(_)), "{bytes:?}: {reason:?}");
        let _peer = Peer::welcome(&listener, false).await;
        client.connected().await;
    }
}

#[tokio::test]
async fn a_packet_beyond_the_limit_ends_the_connection() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options { packet_bytes_max: 2_000, ..options(address, "a") });
    let mut peer = Peer::welcome(&listener, false).await;
    client.connected().await;
    peer.write(&[0x30, 0xD1, 0x0F]).await;
    let (_, reason) = client.disconnected().await;
    assert!(
        matches!(&reason, DisconnectReason::Protocol(text) if text.contains("2001")),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_caller_that_leaves_its_events_gets_all_that_was_pubacked_and_then_the_reason() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        keep_alive: SECOND,
        subscriptions: vec!["t".to_owned()],
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, true).await;
    let sent = EVENTS_MAX as u16 + 8;
    for pkid in 1..=sent {
        peer.publish(pkid, b"x").await;
    }
    // A broker closes a connection after one and a half keep-alives without a packet.
    let mut pubacked = 0;
    while let Some(packet) = peer.read_within(3 * SECOND / 2).await {
        match packet.kind {
            PUBACK => pubacked += 1,
            PINGREQ => peer.write(&PINGRESP).await,
            other => panic!("{other}"),
        }
    }
    drop(peer);
    assert!(pubacked >= EVENTS_MAX, "{pubacked}");
    assert!(matches!(client.event().await, Event::Connected { .. }));
    let mut arrived = 0;
    let reason = loop {
        match client.event().await {
            Event::Message(_) => arrived += 1,
            Event::Disconnected { reason, .. } => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(arrived >= pubacked, "{arrived} of {pubacked}");
    assert!(matches!(reason, DisconnectReason::EventsNotTaken(_)), "{reason:?}");
}

#[tokio::test]
async fn closing_waits_for_the_pubacks_and_says_goodbye() {
    let (listener, address) = listen().await;
    let mut client = Client::start(options(address, "a"));
    let mut peer = Peer::welcome(&listener, false).await;
    let connection = client.connected().await;
    client.session.publish(connection, message("t", 1)).unwrap();
    let publish = peer.read().await.unwrap();
    let [high, low] = publish.publish_pkid().to_be_bytes();
    let broker = async {
        assert!(peer.read_within(SECOND / 2).await.is_none(), "it waits");
        peer.write(&[0x40, 2, high, low]).await;
        assert_eq!(peer.read().await.unwrap().kind, DISCONNECT);
        assert!(peer.read().await.is_none());
    };
    let Client { session, mut events } = client;
    timeout(DEADLINE, async { tokio::join!(session.close(), broker) }).await.unwrap();
    assert_eq!(events.recv().await, Some(Event::Puback { connection, token: Token(1) }));
    assert_eq!(events.recv().await, None);
}

#[tokio::test]
async fn closing_does_not_wait_for_a_caller_that_takes_no_events() {
    let (listener, address) = listen().await;
    let client =
        Client::start(Options { subscriptions: vec!["t".to_owned()], ..options(address, "a") });
    let mut peer = Peer::welcome(&listener, true).await;
    for pkid in 1..=3 * EVENTS_MAX as u16 {
        peer.publish(pkid, b"x").await;
    }
    // Full: the next one waits.
    let full = async {
        while client.events.len() < EVENTS_MAX {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, full).await.unwrap();
    timeout(DEADLINE, client.session.close()).await.unwrap();
    loop {
        let packet = peer.read().await.expect("it says goodbye");
        if packet.kind == DISCONNECT {
            return;
        }
        assert_eq!(packet.kind, PUBACK);
    }
}

#[tokio::test]
async fn closing_between_two_connections_ends_at_once() {
    let (listener, address) = listen().await;
    drop(listener);
    let mut client = Client::start(options(address, "a"));
    // The waits are random: until one is long enough to tell "at once" from "at its end".
    let wait = client
        .until(|event| match event {
            Event::Disconnected { retry_in, .. } => (retry_in > SECOND / 2).then_some(retry_in),
            _ => None,
        })
        .await;
    let start = Instant::now();
    timeout(DEADLINE, client.session.close()).await.unwrap();
    assert!(start.elapsed() < wait / 2, "{:?} of {wait:?}", start.elapsed());
}

#[tokio::test]
async fn a_session_whose_events_nobody_takes_any_more_goes_without_a_goodbye() {
    let (listener, address) = listen().await;
    let will = Will { topic: "w".to_owned(), payload: b"gone".to_vec(), retain: true };
    let mut client = Client::start(Options { will: Some(will), ..options(address, "a") });
    let mut peer = Peer::accept(&listener).await;
    let connect = peer.read().await.unwrap();
    assert!(connect.body.ends_with(b"\0\x01w\0\x04gone"));
    peer.write(&CONNACK).await;
    client.connected().await;
    let Client { session, events } = client;
    drop(events);
    assert!(peer.read().await.is_none(), "no DISCONNECT: the broker sends the will");
    drop(session);

    let mut client = Client::start(options(address, "a"));
    let mut peer = Peer::welcome(&listener, false).await;
    client.connected().await;
    let Client { session, mut events } = client;
    drop(session);
    assert!(peer.read().await.is_none(), "as without a handle");
    assert_eq!(events.recv().await, None);
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_is_refused_before_anything_leaves() {
    let (listener, address) = listen().await;
    let mut client = Client::start(Options {
        packet_bytes_max: 2_000,
        inflight_max: 2,
        ..options(address, "a")
    });
    let mut peer = Peer::welcome(&listener, false).await;
    let connection = client.connected().await;
    for topic in ["", "a/+", "#", "a\0b"] {
        let error = client.session.publish(connection, message(topic, 1)).unwrap_err();
        assert_eq!(error, PublishError::BadTopic { topic: topic.to_owned() });
    }
    let big = Message { payload: vec![0; 2_000], ..message("t", 1) };
    let error = client.session.publish(connection, big).unwrap_err();
    assert!(matches!(error, PublishError::TooBig { max: 2_000, .. }), "{error}");
    let largest = Message { payload: vec![0; 2_000 - 10], ..message("t", 1) };
    client.session.publish(connection, largest).unwrap();
    client.session.publish(connection, message("t", 2)).unwrap();
    let error = client.session.publish(connection, message("t", 3)).unwrap_err();
    assert_eq!(error, PublishError::WindowFull { max: 2 });
    // QoS 0 has no window of pubacks, and no puback.
    let loose = Message { qos: Qos::AtMostOnce, ..message("t", 4) };
    client.session.publish(connection, loose).unwrap();
    assert_eq!(client.session.inflight(), 2);
    let mut pkids = Vec::new();
    for _ in 0..2 {
        let packet = peer.read().await.unwrap();
        assert_eq!(packet.kind, PUBLISH);
        pkids.push(packet.publish_pkid());
    }
    assert_eq!(peer.read().await.unwrap().kind, PUBLISH);
    for (pkid, token) in pkids.into_iter().zip([1, 2]) {
        let [high, low] = pkid.to_be_bytes();
        peer.write(&[0x40, 2, high, low]).await;
        assert_eq!(client.puback().await, Token(token));
    }
    assert_eq!(client.session.inflight(), 0);
}

#[tokio::test]
async fn a_wait_for_the_next_connection_can_be_ended() {
    let (listener, address) = listen().await;
    drop(listener);
    let mut client = Client::start(options(address, "a"));
    // Without a wait there is nothing to end, and nothing is ended later.
    client.session.try_now();
    for _ in 0..2 {
        let wait = client
            .until(|event| match event {
                Event::Disconnected { retry_in, .. } => (retry_in > SECOND / 2).then_some(retry_in),
                _ => None,
            })
            .await;
        // The session may not have come to its wait yet.
        let start = Instant::now();
        client.session.try_now();
        client.refused().await;
        assert!(start.elapsed() < wait / 2, "{:?} of {wait:?}", start.elapsed());
    }
}
