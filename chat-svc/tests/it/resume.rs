//! Tests reading of a turn's events: after any cursor, on any replica, each event once and in order.

use std::time::Duration;

use futures::StreamExt;
use steward_proto::chat::v1::StreamTurnEventsRequest;
use svc_core::error::reason_of;
use tonic::Code;

use crate::plane::{Carries, Event, Plane, TIMEOUT, assert_whole, eventually};

#[tokio::test]
async fn two_replicas_show_the_same_bytes_while_a_turn_is_written() {
    let mut plane = Plane::empty().await;
    plane.add_replica(|_| {}).await;
    // The second replica runs no turn, so all its events come from the first one.
    plane.add_replica(|config| config.own.worker.max_running = 0).await;
    let mut near = plane.tenant();
    let far = plane.tenant_at(1, near.account);
    let session = near.session().await;
    let turn = near.say(&session, "count to 150 every 5ms").await.turn_id;

    let mut readers = Vec::new();
    for number in 0..8 {
        let mut who = if number % 2 == 0 { near.clone() } else { far.clone() };
        let turn = turn.clone();
        readers.push(async move {
            tokio::time::sleep(Duration::from_millis(60 * number)).await;
            who.events(&turn, "").await
        });
    }
    let seen = futures::future::join_all(readers).await;
    assert_whole(&seen[0]);
    assert!(seen[0].len() > 20, "{}", seen[0].len());
    for other in &seen[1..] {
        assert_eq!(other, &seen[0]);
    }
}

#[tokio::test]
async fn a_client_that_keeps_reconnecting_gets_every_event_once() {
    let mut plane = Plane::empty().await;
    plane.add_replica(|_| {}).await;
    plane.add_replica(|_| {}).await;
    let mut here = plane.tenant();
    let mut there = plane.tenant_at(1, here.account);
    let session = here.session().await;
    let turn = here.say(&session, "count to 80 every 10ms").await.turn_id;
    let mut seen: Vec<Event> = Vec::new();
    for round in 0.. {
        let after = seen.last().map(|event| event.id.clone()).unwrap_or_default();
        let who = if round % 2 == 0 { &mut here } else { &mut there };
        let mut stream = who.follow(&turn, &after).await.take(1 + round % 5);
        while let Some(event) = stream.next().await {
            seen.push(event.unwrap().event());
        }
        if seen.last().is_some_and(|event| event.kind == "turn.completed") {
            break;
        }
    }
    assert_whole(&seen);
    assert_eq!(seen, there.events(&turn, "").await);
}

#[tokio::test]
async fn a_bad_foreign_or_future_cursor_is_refused() {
    let plane = Plane::start().await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let events = tenant.run(&session, "say one").await;
    let other = tenant.run(&session, "say two").await;
    let last = events.last().unwrap();
    let turn = last.id.split(':').next().unwrap().to_owned();
    let ahead = format!("{turn}:{}", last.seq() + 1);
    for cursor in ["7", "nonsense", other[0].id.as_str(), ahead.as_str(), &format!("{turn}:-1")] {
        let request = StreamTurnEventsRequest { turn_id: turn.clone(), last_event_id: cursor.to_owned() };
        let status = tenant.client.stream_turn_events(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{cursor}");
        assert!(status.message().starts_with("last_event_id"), "{}", status.message());
    }
    assert!(tenant.events(&turn, &last.id).await.is_empty(), "nothing follows the last event");
    for event in &events {
        let rest = tenant.events(&turn, &event.id).await;
        assert_eq!(rest, events[usize::try_from(event.seq()).unwrap()..]);
    }
}

#[tokio::test]
async fn a_client_that_takes_no_events_is_cut_and_resumes() {
    let plane = Plane::with(|config| config.own.journal.slow_reader = Duration::from_millis(200)).await;
    let mut tenant = plane.tenant();
    let session = tenant.session().await;
    let turn = tenant.say(&session, &format!("say {}", "word ".repeat(1000))).await.turn_id;
    tenant.wait(&turn).await;
    // Stores much more than the buffers of a connection hold.
    sqlx::query(
        "UPDATE turn_events
            SET payload = convert_to(
                '{\"type\":\"text.delta\",\"step\":1,\"text\":\"' || repeat('x', 20000) || '\"}', 'UTF8'
            )
          WHERE kind = 'text.delta'",
    )
    .execute(&mut plane.db.owner("chat").await)
    .await
    .unwrap();
    let mut stream = tenant.follow(&turn, "").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut seen, mut refusal) = (Vec::new(), None);
    while let Some(item) = tokio::time::timeout(TIMEOUT, stream.next()).await.unwrap() {
        match item {
            Ok(event) => seen.push(event.event()),
            Err(status) => refusal = Some(status),
        }
    }
    let refusal = refusal.expect("the stream ends with an error");
    assert_eq!(reason_of(&refusal).as_deref(), Some("SLOW_READER"));
    let after = seen.last().unwrap().id.clone();
    seen.extend(tenant.events(&turn, &after).await);
    assert_whole(&seen);
}

#[tokio::test]
async fn a_stopping_replica_ends_its_streams_and_clients_resume() {
    let mut plane = Plane::empty().await;
    plane.add_replica(|config| config.own.worker.max_running = 0).await;
    plane.add_replica(|_| {}).await;
    let mut here = plane.tenant();
    let session = here.session().await;
    let turn = here.say(&session, "count to 100 every 10ms").await.turn_id;
    let mut stream = here.follow(&turn, "").await;
    let first = stream.next().await.unwrap().unwrap().event();
    plane.stop(0).await;
    let (mut seen, mut refusal) = (vec![first], None);
    while let Some(item) = stream.next().await {
        match item {
            Ok(event) => seen.push(event.event()),
            Err(status) => refusal = Some(status),
        }
    }
    assert_eq!(refusal.unwrap().code(), Code::Unavailable);
    let mut there = plane.tenant_at(1, here.account);
    let after = seen.last().unwrap().id.clone();
    seen.extend(there.events(&turn, &after).await);
    assert_whole(&seen);
    eventually("the turn is final", async || there.turn(&turn).await.ended_at).await;
}
