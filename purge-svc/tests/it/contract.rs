//! The simulator passes the suite that every real owner of data must pass.

use std::{sync::Arc, time::Duration};

use purge_svc::{
    custodian::{
        contract::{self, Owner},
        fake::FakeCustodian,
    },
    domain::{custodian::Custodian, subject::Subject},
};
use svc_core::{
    data::pg,
    run::lifecycle::Lifecycle,
    wire::client::{Peer, PeerConfig},
};

use crate::plane::Keys;

struct Simulated {
    fake: FakeCustodian,
    peer: Peer,
}

fn pg_subject(subject: Subject) -> pg::Subject {
    match subject {
        Subject::Account { account } => pg::Subject::Account { account },
        Subject::Session { account, session } => pg::Subject::Session { account, session },
    }
}

impl Owner for Simulated {
    fn custodian(&self) -> Custodian {
        self.fake.custodian()
    }

    fn peer(&self) -> Peer {
        self.peer.clone()
    }

    async fn seed(&self, subject: Subject) {
        let objects = [format!("a-{}", subject.id()), format!("b-{}", subject.id())];
        self.fake.seed(pg_subject(subject), 230, &[&objects[0], &objects[1]]);
    }

    async fn write(&self, subject: Subject) -> bool {
        self.fake.write(pg_subject(subject))
    }
}

#[tokio::test]
async fn the_simulator_keeps_the_contract_of_every_owner() {
    let lifecycle = Lifecycle::new();
    for custodian in Custodian::ALL {
        let fake = FakeCustodian::new(custodian);
        let serving = fake.serve(&lifecycle).await.unwrap();
        let config = PeerConfig { urls: vec![serving.url()], timeout: Duration::from_secs(5) };
        let signer = Arc::new(Keys::new("purge-svc").signer());
        let peer = Peer::lazy(custodian.service(), &config, signer).unwrap();
        contract::run(&Simulated { fake, peer }).await;
    }
}
