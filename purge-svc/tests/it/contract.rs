//! The simulator passes the suite that every real custodian passes.

use std::{sync::Arc, time::Duration};

use purge_svc::testing::{
    contract::{self, Owner},
    domain::custodian::Custodian,
    fake::FakeCustodian,
};
use svc_core::{
    run::lifecycle::Lifecycle,
    subject::Subject,
    wire::client::{Peer, PeerConfig},
};

use crate::plane::Keys;

struct Simulated {
    fake: FakeCustodian,
    peer: Peer,
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
        self.fake.seed(subject, 230, &[&objects[0], &objects[1]]);
    }

    async fn write(&self, subject: Subject) -> bool {
        self.fake.write(subject)
    }
}

#[tokio::test]
async fn the_simulator_passes_the_custodian_suite() {
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
