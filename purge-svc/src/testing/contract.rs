//! The suite that every custodian passes, over gRPC: the simulator here, each real service in its own tests.
//!
//! ```ignore
//! purge_svc::testing::contract::run(&MyService { .. }).await;
//! ```
//!
//! A failed check panics and names the expectation.

#![expect(clippy::panic, reason = "a failed check of the suite panics")]

use std::collections::BTreeSet;

use svc_core::{
    id::{AccountId, PurgeId, SessionId},
    subject::Subject,
    wire::client::Peer,
};

use crate::{
    client::custodian::{CustodianClient, Error, StepCall},
    domain::{
        custodian::{Custodian, Description},
        external::Verdict,
    },
};

/// Maximum calls of Erase before the suite fails.
const MAX_CALLS: usize = 1000;

/// A custodian under test.
pub trait Owner: Sync {
    fn custodian(&self) -> Custodian;

    /// Returns a peer that calls the custodian as purge-svc.
    fn peer(&self) -> Peer;

    /// Returns a new subject: a session, unless the custodian has no data of sessions.
    fn new_subject(&self) -> Subject {
        Subject::Session { account: AccountId::new(), session: SessionId::new() }
    }

    /// Writes data of a subject, and external objects if the custodian keeps any.
    fn seed(&self, subject: Subject) -> impl Future<Output = ()> + Send;

    /// Tries to write data of a subject as a request or a worker would; returns whether the write was
    /// admitted.
    fn write(&self, subject: Subject) -> impl Future<Output = bool> + Send;
}

pub async fn run(owner: &impl Owner) {
    let suite = Suite { owner, client: client(owner) };
    suite.describes_itself().await;
    suite.erases_a_subject_and_nothing_else().await;
    suite.repeats_its_answers().await;
    suite.stops_and_admits_writers().await;
    suite.gives_up_what_it_never_began().await;
    suite.refuses_steps_out_of_order().await;
    suite.refuses_lower_epochs().await;
    suite.refuses_another_purge().await;
    suite.erases_what_it_never_met().await;
}

fn client(owner: &impl Owner) -> CustodianClient {
    let max_silence = std::time::Duration::from_secs(30);
    CustodianClient::new(owner.custodian(), owner.peer(), BTreeSet::new(), max_silence)
}

struct Suite<'a, O> {
    owner: &'a O,
    client: CustodianClient,
}

impl<O: Owner> Suite<'_, O> {
    fn new_call(&self) -> StepCall {
        StepCall { purge_id: PurgeId::new(), epoch: 7, subject: self.owner.new_subject() }
    }

    async fn seeded(&self) -> StepCall {
        let call = self.new_call();
        self.owner.seed(call.subject).await;
        call
    }

    async fn describes_itself(&self) {
        let description = self.describe().await;
        assert!(!description.kinds.is_empty(), "Describe names the kinds that are held");
    }

    async fn describe(&self) -> Description {
        fine("Describe", self.client.describe().await)
    }

    /// Calls Freeze, Inventory, Erase until done, Verify and Commit. After them the subject has no data left
    /// and cannot be written; another subject still can.
    async fn erases_a_subject_and_nothing_else(&self) {
        let call = self.seeded().await;
        let neighbour = match call.subject {
            Subject::Session { account, .. } => Subject::Session { account, session: SessionId::new() },
            Subject::Account { .. } => self.owner.new_subject(),
        };
        self.owner.seed(neighbour).await;
        assert!(self.owner.write(call.subject).await, "a live subject is written");

        let frozen = fine("Freeze", self.client.freeze(&call).await);
        assert!(frozen.known, "Freeze knows a subject that was seeded");
        self.list(&call).await;
        self.erase(&call).await;
        let description = self.describe().await;
        let read = fine("Verify", self.client.verify(&call, &description).await);
        assert!(read.residue.is_empty(), "Verify finds nothing after Erase, but found {:?}", read.residue);
        fine("Commit", self.client.commit(&call).await);

        assert!(!self.owner.write(call.subject).await, "an erased subject is never written again");
        assert!(self.owner.write(neighbour).await, "another subject lives on");
    }

    /// Checks that a repeated step gets the same answer, also with a higher epoch.
    async fn repeats_its_answers(&self) {
        let call = self.seeded().await;
        let again = StepCall { epoch: call.epoch + 1, ..call };
        let frozen = fine("Freeze", self.client.freeze(&call).await);
        let second = fine("Freeze", self.client.freeze(&again).await);
        assert_eq!(frozen.digest, second.digest, "Freeze is repeated");
        self.list(&again).await;
        let erased = self.erase(&again).await;
        let (repeated, digest) = fine("Erase", self.client.erase(&again).await);
        assert!(repeated.done && digest == erased, "an Erase that was done is repeated");
        let description = self.describe().await;
        let first = fine("Verify", self.client.verify(&again, &description).await);
        let second = fine("Verify", self.client.verify(&again, &description).await);
        assert_eq!(first.digest, second.digest, "a clean Verify is repeated");
        let first = fine("Commit", self.client.commit(&again).await);
        let second = fine("Commit", self.client.commit(&again).await);
        assert_eq!(first, second, "Commit is repeated");
        let late = fine("Freeze", self.client.freeze(&again).await);
        assert_eq!(late.digest, frozen.digest, "Freeze is repeated also after the end");
    }

    async fn stops_and_admits_writers(&self) {
        let call = self.seeded().await;
        fine("Freeze", self.client.freeze(&call).await);
        assert!(!self.owner.write(call.subject).await, "a frozen subject is not written");
        let first = fine("Thaw", self.client.thaw(&call).await);
        assert!(self.owner.write(call.subject).await, "a thawed subject is written");
        assert_eq!(first, fine("Thaw", self.client.thaw(&call).await), "Thaw is repeated");
        // Sends a late freeze of the same purge.
        refused("Freeze after Thaw", self.client.freeze(&call).await, "PURGE_THAWED");
        assert!(self.owner.write(call.subject).await, "a thaw is the last word of its purge");
        // Another purge of the subject may freeze it later, with a higher epoch.
        let later = StepCall { purge_id: PurgeId::new(), epoch: call.epoch + 1, ..call };
        fine("Freeze", self.client.freeze(&later).await);
        assert!(!self.owner.write(call.subject).await, "a later purge freezes again");
    }

    /// Thaws a subject that is not frozen: it can still be written, and only another purge can freeze it.
    async fn gives_up_what_it_never_began(&self) {
        for call in [self.seeded().await, self.new_call()] {
            let first = fine("Thaw before Freeze", self.client.thaw(&call).await);
            assert_eq!(first, fine("Thaw", self.client.thaw(&call).await), "Thaw is repeated");
            refused("Freeze after Thaw", self.client.freeze(&call).await, "PURGE_THAWED");
            assert!(self.owner.write(call.subject).await, "who was not frozen is written");
            let later = StepCall { purge_id: PurgeId::new(), epoch: call.epoch + 1, ..call };
            fine("Freeze", self.client.freeze(&later).await);
            let late = StepCall { purge_id: PurgeId::new(), epoch: later.epoch + 1, ..call };
            refused("Thaw of what another purge has", self.client.thaw(&late).await, "OTHER_PURGE");
        }
    }

    async fn refuses_steps_out_of_order(&self) {
        let call = self.seeded().await;
        let description = self.describe().await;
        refused("Erase before Freeze", self.client.erase(&call).await, "SUBJECT_NOT_FROZEN");
        fine("Freeze", self.client.freeze(&call).await);
        refused("Verify before Erase", self.client.verify(&call, &description).await, "SUBJECT_NOT_ERASED");
        refused("Commit before Erase", self.client.commit(&call).await, "SUBJECT_NOT_ERASED");
        self.erase(&call).await;
        refused("Commit before Verify", self.client.commit(&call).await, "ERASURE_NOT_VERIFIED");
        refused("Thaw after Erase", self.client.thaw(&call).await, "ERASURE_STARTED");
        assert!(!self.owner.write(call.subject).await, "a subject that is being erased is not written");
    }

    async fn refuses_lower_epochs(&self) {
        let call = self.seeded().await;
        let stale = StepCall { epoch: call.epoch - 1, ..call };
        let description = self.describe().await;
        fine("Freeze", self.client.freeze(&call).await);
        refused("Freeze", self.client.freeze(&stale).await, "STALE_EPOCH");
        refused("Thaw", self.client.thaw(&stale).await, "STALE_EPOCH");
        let listed = match self.client.inventory(&stale, &description).await {
            Ok(mut objects) => objects.next().await.map(|_| ()),
            Err(error) => Err(error),
        };
        refused("Inventory", listed, "STALE_EPOCH");
        refused("Erase", self.client.erase(&stale).await, "STALE_EPOCH");
        self.erase(&call).await;
        refused("Verify", self.client.verify(&stale, &description).await, "STALE_EPOCH");
        fine("Verify", self.client.verify(&call, &description).await);
        refused("Commit", self.client.commit(&stale).await, "STALE_EPOCH");
        fine("Commit", self.client.commit(&call).await);
    }

    async fn refuses_another_purge(&self) {
        let call = self.seeded().await;
        fine("Freeze", self.client.freeze(&call).await);
        let other = StepCall { purge_id: PurgeId::new(), ..call };
        refused("Freeze by another purge", self.client.freeze(&other).await, "OTHER_PURGE");
        refused("Erase by another purge", self.client.erase(&other).await, "OTHER_PURGE");
        refused("Thaw by another purge", self.client.thaw(&other).await, "OTHER_PURGE");
        assert!(!self.owner.write(call.subject).await, "the subject stays with the first purge");
    }

    /// Erases a subject without data at this custodian: afterwards the custodian refuses to write it.
    async fn erases_what_it_never_met(&self) {
        let call = self.new_call();
        fine("Freeze", self.client.freeze(&call).await);
        self.list(&call).await;
        self.erase(&call).await;
        let description = self.describe().await;
        let read = fine("Verify", self.client.verify(&call, &description).await);
        assert!(read.residue.is_empty(), "nothing is left of what never was");
        fine("Commit", self.client.commit(&call).await);
        assert!(!self.owner.write(call.subject).await, "a tombstone refuses who comes late");
    }

    /// Reads the inventory to its end, which checks that every kind is declared.
    async fn list(&self, call: &StepCall) {
        let description = self.describe().await;
        let mut objects = fine("Inventory", self.client.inventory(call, &description).await);
        while !fine("Inventory", objects.next().await).is_empty() {}
    }

    /// Erases until done, and returns the digest of the last answer.
    async fn erase(&self, call: &StepCall) -> [u8; 32] {
        for _ in 0..MAX_CALLS {
            let (erasure, digest) = fine("Erase", self.client.erase(call).await);
            match erasure.verdict() {
                Verdict::Done => return digest,
                Verdict::More => {}
                Verdict::Later => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                Verdict::Refused => panic!("Erase deletes what was seeded, but refused {:?}", erasure.items),
            }
        }
        panic!("Erase comes to an end")
    }
}

fn fine<T>(step: &str, answer: Result<T, Error>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(error) => panic!("{step} is done, but: {}", svc_core::error::Chain(&error)),
    }
}

fn refused<T>(step: &str, answer: Result<T, Error>, reason: &str) {
    match answer {
        Ok(_) => panic!("{step} is refused with {reason}, but was done"),
        Err(error) => assert_eq!(
            error.refusal().as_deref(),
            Some(reason),
            "{step} is refused with {reason}, but: {}",
            svc_core::error::Chain(&error)
        ),
    }
}
