//! Tests erasures at registry-svc: of an account with all its data, and of a session, of which it has no
//! data.

use std::{collections::BTreeSet, time::Duration};

use purge_svc::testing::{
    client::custodian::{CustodianClient, StepCall},
    contract::{self, Owner},
    domain::custodian::Custodian as Name,
};
use registry_svc::testing::{Account, insert_account, kinds};
use steward_proto::{
    custody::v1::{
        CheckInvariantsRequest, DescribeRequest, ListAllRequest,
        custodian_service_client::CustodianServiceClient,
    },
    registry::v1::{Beat, CreateTokenRequest, HeartbeatRequest, WhoAmIRequest},
};
use svc_core::{
    custody,
    data::pg::Tx,
    id::{AccountId, PurgeId, SessionId},
    run::clock::{Clock, SystemClock},
    subject::Subject,
    wire::{client::Peer, principal::Principal},
};
use tonic::Code;
use uuid::Uuid;

use crate::{
    accounts::refusal,
    plane::{Plane, keyed},
};

const URL: &str = "http://127.0.0.1:9/a2a";

/// Builds purge-svc's client of registry-svc.
fn remote(peer: Peer) -> CustodianClient {
    CustodianClient::new(Name::Registry, peer, BTreeSet::new(), Duration::from_secs(10))
}

/// Counts the rows of an account in all tables.
async fn rows_of(plane: &Plane, account: Uuid) -> i64 {
    let mut db = plane.db.owner("registry").await;
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM accounts WHERE id = $1)
              + (SELECT count(*) FROM api_tokens WHERE account_id = $1)
              + (SELECT count(*) FROM agents WHERE account_id = $1)
              + (SELECT count(*) FROM relay_lanes WHERE account_id = $1)
              + (SELECT count(*) FROM relay_messages WHERE account_id = $1)
              + (SELECT count(*) FROM idempotency_keys WHERE account_id = $1)",
    )
    .bind(account)
    .fetch_one(&mut db)
    .await
    .unwrap()
}

/// Returns whether Redis has any data of an agent.
async fn remembered(plane: &Plane, agent: &str) -> bool {
    let redis = plane.redis.redis();
    let keys: Vec<String> =
        redis.query(redis::cmd("KEYS").arg(format!("{}hb:*", redis.prefix()))).await.unwrap();
    let mut found = false;
    for key in keys {
        let kind: String = redis.query(redis::cmd("TYPE").arg(&key)).await.unwrap();
        let members: Vec<String> = match kind.as_str() {
            "hash" => redis.query(redis::cmd("HKEYS").arg(&key)).await.unwrap(),
            _ => redis.query(redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1)).await.unwrap(),
        };
        found |= members.iter().any(|member| member == agent);
    }
    found
}

#[tokio::test]
async fn an_erasure_deletes_tokens_agents_keys_and_beats() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("forgotten").await;
    let (other, bystander_secret) = plane.tenant("bystander").await;
    let (mut tenant, mut bystander) = (plane.agents(&secret).await, plane.agents(&bystander_secret).await);
    let (agent, token) = plane.registered(&mut tenant, URL).await;
    let (kept, kept_token) = plane.registered(&mut bystander, URL).await;
    for token in [&token, &kept_token] {
        let beat = HeartbeatRequest { beat: Some(Beat::default()) };
        plane.agents(token).await.heartbeat(beat).await.unwrap();
    }
    let more =
        CreateTokenRequest { account_id: account.clone(), name: "more".to_owned(), ..Default::default() };
    plane.accounts(&secret).await.create_token(keyed("a-key", more)).await.unwrap();
    assert!(remembered(&plane, &agent.agent_id).await && remembered(&plane, &kept.agent_id).await);
    let id: Uuid = account.parse().unwrap();
    assert!(rows_of(&plane, id).await >= 5);

    let remote = remote(plane.as_purge());
    let call =
        StepCall { purge_id: PurgeId::new(), epoch: 1, subject: Subject::Account { account: AccountId(id) } };
    assert!(remote.freeze(&call).await.unwrap().known);
    let more =
        CreateTokenRequest { account_id: account.clone(), name: "late".to_owned(), ..Default::default() };
    let frozen = plane.accounts(&secret).await.create_token(more).await;
    assert_eq!(refusal(frozen).1, "SUBJECT_FROZEN");
    let description = remote.describe().await.unwrap();
    let mut listed = remote.inventory(&call, &description).await.unwrap();
    let objects = listed.next().await.unwrap();
    assert_eq!(objects.iter().map(|object| object.object_id.as_str()).collect::<Vec<_>>(), [&agent.agent_id]);
    assert!(listed.next().await.unwrap().is_empty());
    let (erased, _) = remote.erase(&call).await.unwrap();
    assert!(erased.done && erased.rows >= 5, "{erased:?}");
    let read = remote.verify(&call, &description).await.unwrap();
    assert!(read.residue.is_empty(), "{read:?}");
    remote.commit(&call).await.unwrap();

    assert_eq!(rows_of(&plane, id).await, 0);
    assert!(!remembered(&plane, &agent.agent_id).await && remembered(&plane, &kept.agent_id).await);
    // The test does not check that the erased account's token is refused, because a used token stays in the
    // token cache for a few seconds.
    let mut client = CustodianServiceClient::new(plane.as_purge().acting_for(None));
    let checked = client.check_invariants(CheckInvariantsRequest {}).await.unwrap().into_inner();
    assert!(checked.violations.is_empty() && checked.checked.len() == 2, "{checked:?}");
    let subjects = client.list_all(ListAllRequest::default()).await.unwrap().into_inner().subjects;
    assert!(subjects.iter().all(|subject| subject.subject_id != account));
    assert!(subjects.iter().any(|subject| subject.subject_id == other));
    plane.accounts(&bystander_secret).await.who_am_i(WhoAmIRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_beat_that_arrives_after_the_erasure_is_found_and_deleted() {
    let plane = Plane::start().await;
    let (account, secret) = plane.tenant("forgotten").await;
    let (agent, _) = plane.registered(&mut plane.agents(&secret).await, URL).await;
    let account = AccountId(account.parse().unwrap());
    let remote = remote(plane.as_purge());
    let call = StepCall { purge_id: PurgeId::new(), epoch: 1, subject: Subject::Account { account } };
    let description = remote.describe().await.unwrap();
    remote.freeze(&call).await.unwrap();
    let mut listed = remote.inventory(&call, &description).await.unwrap();
    while !listed.next().await.unwrap().is_empty() {}
    assert!(remote.erase(&call).await.unwrap().0.done);
    plane.redis_command(&["ZADD", "hb:deadlines", "1", &agent.agent_id]).await;
    let read = remote.verify(&call, &description).await.unwrap();
    assert_eq!(read.residue.into_iter().collect::<Vec<_>>(), ["registry.heartbeats"]);
    assert!(remote.erase(&call).await.unwrap().0.done);
    assert!(remote.verify(&call, &description).await.unwrap().residue.is_empty());
    assert!(!remembered(&plane, &agent.agent_id).await);
}

/// registry-svc as the suite of purge-svc calls it.
struct Served<'a> {
    plane: &'a Plane,
}

impl Owner for Served<'_> {
    fn custodian(&self) -> Name {
        Name::Registry
    }

    fn peer(&self) -> Peer {
        self.plane.as_purge()
    }

    fn new_subject(&self) -> Subject {
        Subject::Account { account: AccountId::new() }
    }

    async fn seed(&self, subject: Subject) {
        let id = subject.account();
        let mut tx = Tx::system(&self.plane.db.pool("registry")).await.unwrap();
        custody::create(&mut tx, Subject::Account { account: id }).await.unwrap();
        let account = Account { id, name: "acme".to_owned(), created_at: SystemClock.now() };
        insert_account(&mut tx, &account).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn write(&self, subject: Subject) -> bool {
        let subject = Subject::Account { account: subject.account() };
        match Tx::for_subject(&self.plane.db.pool("registry"), subject).await {
            Ok(tx) => tx.commit().await.is_ok(),
            Err(_) => false,
        }
    }
}

#[tokio::test]
async fn registry_svc_keeps_the_contract_of_every_data_owner() {
    let plane = Plane::start().await;
    contract::run(&Served { plane: &plane }).await;
}

#[tokio::test]
async fn the_erasure_of_a_session_finds_nothing() {
    let plane = Plane::start().await;
    let remote = remote(plane.as_purge());
    let session = Subject::Session { account: AccountId::new(), session: SessionId::new() };
    let call = StepCall { purge_id: PurgeId::new(), epoch: 1, subject: session };
    assert!(!remote.freeze(&call).await.unwrap().known);
    let (erased, _) = remote.erase(&call).await.unwrap();
    assert!(erased.done && erased.rows == 0 && erased.items.is_empty());
    let description = remote.describe().await.unwrap();
    assert_eq!(description.kinds, kinds().map(str::to_owned).collect());
    assert!(remote.verify(&call, &description).await.unwrap().residue.is_empty());
}

#[tokio::test]
async fn only_purge_svc_may_call_the_custodian() {
    let plane = Plane::start().await;
    let stating = plane.as_gateway().stating(Principal::account(AccountId::new()));
    let mut client = CustodianServiceClient::new(stating);
    assert_eq!(client.describe(DescribeRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    let mut client = CustodianServiceClient::new(plane.as_service().acting_for(None));
    assert_eq!(client.describe(DescribeRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
}
