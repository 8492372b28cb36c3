//! Tests a plane with two replicas of every service: requests through either gateway give the same result,
//! and the plane survives the loss of one replica of each service.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use steward::{api::Api, plane::Service};
use suite_tests::{actors::Tenant, cluster::Cluster, eventually::eventually};
use tokio::task::JoinSet;

/// Number of turns, enough that each of two workers gets some.
const TURNS: usize = 8;

async fn doubled() -> Cluster {
    let builder = Service::ALL.into_iter().fold(Cluster::builder(), |all, service| all.replicas(service, 2));
    builder.start().await
}

/// Returns the same tenant for each gateway.
fn gateways(cluster: &Cluster, tenant: &Tenant) -> Vec<Tenant> {
    let urls = cluster.plane.urls(Service::Gateway);
    urls.iter().map(|url| Tenant { api: Api::at(url, &tenant.token).unwrap(), ..tenant.clone() }).collect()
}

#[tokio::test]
async fn two_replicas_of_each_service_survive_the_loss_of_one() {
    let mut cluster = doubled().await;
    let tenant = cluster.tenant("twice").await;
    let gateways = gateways(&cluster, &tenant);
    assert_eq!(gateways.len(), 2);

    // Each turn is begun at one gateway, watched at the other, and read from the middle at the first.
    let mut turns = JoinSet::new();
    for number in 0..TURNS {
        let (here, there) = (gateways[number % 2].clone(), gateways[(number + 1) % 2].clone());
        turns.spawn(async move {
            let session = here.session().await;
            let turn = here.begin(&session, &format!("run echo turn-{number}")).await;
            let live = there.watch(&turn, "").await;
            live.assert_whole();
            assert!(live.text().contains(&format!("turn-{number}")), "{}", live.text());
            let middle = live.frames.len() / 2;
            let rest = here.watch(&turn, &live.frames[middle].id).await;
            assert_eq!(rest.frames, live.frames[middle + 1..]);
            session
        });
    }
    let sessions: BTreeSet<String> = turns.join_all().await.into_iter().collect();
    assert_eq!(sessions.len(), TURNS);
    // Each session has one container, although several replicas could have created it.
    assert_eq!(cluster.containers().await.len(), TURNS);

    // With one replica of each service gone, the remaining ones take over its work.
    for service in Service::ALL {
        cluster.process(service.name()).kill().await;
    }
    let left = gateways[1].clone();
    for session in &sessions {
        let begun = async || {
            let path = format!("/v1/sessions/{session}/turns");
            let answer = left.api.post(&path, &json!({ "input": "run echo again" })).await.ok()?;
            Some(answer["turn"]["turnId"].as_str().unwrap().to_owned())
        };
        let (turn, _) = eventually("an accepted turn", Duration::from_secs(15), begun).await;
        let seen = left.watch(&turn, "").await;
        seen.assert_whole();
        assert_eq!(seen.kinds().last(), Some(&"turn.completed"));
        assert!(seen.text().contains("again"), "{}", seen.text());
    }
    assert_eq!(cluster.containers().await.len(), TURNS, "a session got a second sandbox, or lost its own");
    cluster.stop().await;
}
