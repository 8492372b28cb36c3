//! What every owner of data must do, checked over its wire: the same suite for the simulator and for the real
//! services, which run it in their own tests.
//!
//! ```ignore
//! purge_svc::custodian::contract::run(&MyService { .. }).await;
//! ```
//!
//! A failed check panics and names what was expected.

#![expect(clippy::panic, reason = "a suite says by panicking what is wrong")]

use std::collections::BTreeSet;

use svc_core::{
    id::{AccountId, PurgeId, SessionId},
    wire::client::Peer,
};

use super::{Call, Error, Remote};
use crate::domain::{
    custodian::{Custodian, Description},
    external::Verdict,
    subject::Subject,
};

/// Calls of Erase after which an owner counts as stuck.
const MOST_CALLS: usize = 1000;

/// An owner of data under test.
pub trait Owner: Sync {
    /// Who it is.
    fn custodian(&self) -> Custodian;

    /// Leads to it; its calls are signed as purge-svc.
    fn peer(&self) -> Peer;

    /// A subject that nobody has met yet: a session, unless the owner holds nothing of sessions.
    fn stranger(&self) -> Subject {
        Subject::Session { account: AccountId::new(), session: SessionId::new() }
    }

    /// Makes a subject with something in it, external objects included if the owner has such.
    fn seed(&self, subject: Subject) -> impl Future<Output = ()> + Send;

    /// Tries to write something of a subject, as a request or a worker would; says whether it was let in.
    fn write(&self, subject: Subject) -> impl Future<Output = bool> + Send;
}

/// Runs the whole suite.
pub async fn run(owner: &impl Owner) {
    let suite = Suite { owner, remote: remote(owner) };
    suite.describes_itself().await;
    suite.erases_a_subject_and_nothing_else().await;
    suite.repeats_its_answers().await;
    suite.stops_writers_and_lets_them_go_on().await;
    suite.gives_up_what_it_never_began().await;
    suite.refuses_steps_out_of_order().await;
    suite.refuses_lower_epochs().await;
    suite.refuses_another_purge().await;
    suite.erases_what_it_never_met().await;
}

fn remote(owner: &impl Owner) -> Remote {
    let patience = std::time::Duration::from_secs(30);
    Remote::new(owner.custodian(), owner.peer(), BTreeSet::new(), patience)
}

struct Suite<'a, O> {
    owner: &'a O,
    remote: Remote,
}

impl<O: Owner> Suite<'_, O> {
    fn new_call(&self) -> Call {
        Call { purge_id: PurgeId::new(), epoch: 7, subject: self.owner.stranger() }
    }

    async fn seeded(&self) -> Call {
        let call = self.new_call();
        self.owner.seed(call.subject).await;
        call
    }

    async fn describes_itself(&self) {
        let description = self.describe().await;
        assert!(!description.kinds.is_empty(), "Describe names the kinds that are held");
    }

    async fn describe(&self) -> Description {
        fine("Describe", self.remote.describe().await)
    }

    /// Freeze, Inventory, Erase until done, Verify, Commit: then nothing is there, and nothing can be again.
    async fn erases_a_subject_and_nothing_else(&self) {
        let call = self.seeded().await;
        let neighbour = match call.subject {
            Subject::Session { account, .. } => Subject::Session { account, session: SessionId::new() },
            Subject::Account { .. } => self.owner.stranger(),
        };
        self.owner.seed(neighbour).await;
        assert!(self.owner.write(call.subject).await, "a live subject is written");

        let frozen = fine("Freeze", self.remote.freeze(&call).await);
        assert!(frozen.known, "Freeze knows a subject that was seeded");
        self.list(&call).await;
        self.erase(&call).await;
        let description = self.describe().await;
        let read = fine("Verify", self.remote.verify(&call, &description).await);
        assert!(read.residue.is_empty(), "Verify finds nothing after Erase, but found {:?}", read.residue);
        fine("Commit", self.remote.commit(&call).await);

        assert!(!self.owner.write(call.subject).await, "an erased subject is never written again");
        assert!(self.owner.write(neighbour).await, "another subject lives on");
    }

    /// What a worker that takes over asks again is answered as before, with a higher epoch too.
    async fn repeats_its_answers(&self) {
        let call = self.seeded().await;
        let again = Call { epoch: call.epoch + 1, ..call };
        let frozen = fine("Freeze", self.remote.freeze(&call).await);
        let second = fine("Freeze", self.remote.freeze(&again).await);
        assert_eq!(frozen.digest, second.digest, "Freeze is repeated");
        self.list(&again).await;
        let erased = self.erase(&again).await;
        let (repeated, digest) = fine("Erase", self.remote.erase(&again).await);
        assert!(repeated.done && digest == erased, "an Erase that was done is repeated");
        let description = self.describe().await;
        let first = fine("Verify", self.remote.verify(&again, &description).await);
        let second = fine("Verify", self.remote.verify(&again, &description).await);
        assert_eq!(first.digest, second.digest, "a clean Verify is repeated");
        let first = fine("Commit", self.remote.commit(&again).await);
        let second = fine("Commit", self.remote.commit(&again).await);
        assert_eq!(first, second, "Commit is repeated");
        let late = fine("Freeze", self.remote.freeze(&again).await);
        assert_eq!(late.digest, frozen.digest, "Freeze is repeated also after the end");
    }

    async fn stops_writers_and_lets_them_go_on(&self) {
        let call = self.seeded().await;
        fine("Freeze", self.remote.freeze(&call).await);
        assert!(!self.owner.write(call.subject).await, "a frozen subject is not written");
        let first = fine("Thaw", self.remote.thaw(&call).await);
        assert!(self.owner.write(call.subject).await, "a thawed subject is written");
        assert_eq!(first, fine("Thaw", self.remote.thaw(&call).await), "Thaw is repeated");
        // A freeze of the same purge that was still on its way.
        refused("Freeze after Thaw", self.remote.freeze(&call).await, "PURGE_THAWED");
        assert!(self.owner.write(call.subject).await, "a thaw is the last word of its purge");
        // Another purge may come later, with a higher epoch.
        let later = Call { purge_id: PurgeId::new(), epoch: call.epoch + 1, ..call };
        fine("Freeze", self.remote.freeze(&later).await);
        assert!(!self.owner.write(call.subject).await, "a later purge freezes again");
    }

    /// What never began ends without stopping anybody.
    async fn gives_up_what_it_never_began(&self) {
        for call in [self.seeded().await, self.new_call()] {
            let first = fine("Thaw before Freeze", self.remote.thaw(&call).await);
            assert_eq!(first, fine("Thaw", self.remote.thaw(&call).await), "Thaw is repeated");
            refused("Freeze after Thaw", self.remote.freeze(&call).await, "PURGE_THAWED");
            assert!(self.owner.write(call.subject).await, "who was not frozen is written");
            let later = Call { purge_id: PurgeId::new(), epoch: call.epoch + 1, ..call };
            fine("Freeze", self.remote.freeze(&later).await);
            let late = Call { purge_id: PurgeId::new(), epoch: later.epoch + 1, ..call };
            refused("Thaw of what another purge has", self.remote.thaw(&late).await, "OTHER_PURGE");
        }
    }

    async fn refuses_steps_out_of_order(&self) {
        let call = self.seeded().await;
        let description = self.describe().await;
        refused("Erase before Freeze", self.remote.erase(&call).await, "SUBJECT_NOT_FROZEN");
        fine("Freeze", self.remote.freeze(&call).await);
        refused("Verify before Erase", self.remote.verify(&call, &description).await, "SUBJECT_NOT_ERASED");
        refused("Commit before Erase", self.remote.commit(&call).await, "SUBJECT_NOT_ERASED");
        self.erase(&call).await;
        refused("Commit before Verify", self.remote.commit(&call).await, "ERASURE_NOT_VERIFIED");
        refused("Thaw after Erase", self.remote.thaw(&call).await, "ERASURE_STARTED");
        assert!(!self.owner.write(call.subject).await, "a subject that is being erased is not written");
    }

    async fn refuses_lower_epochs(&self) {
        let call = self.seeded().await;
        let stale = Call { epoch: call.epoch - 1, ..call };
        let description = self.describe().await;
        fine("Freeze", self.remote.freeze(&call).await);
        refused("Freeze", self.remote.freeze(&stale).await, "STALE_EPOCH");
        refused("Thaw", self.remote.thaw(&stale).await, "STALE_EPOCH");
        let listed = match self.remote.inventory(&stale, &description).await {
            Ok(mut objects) => objects.next().await.map(|_| ()),
            Err(error) => Err(error),
        };
        refused("Inventory", listed, "STALE_EPOCH");
        refused("Erase", self.remote.erase(&stale).await, "STALE_EPOCH");
        self.erase(&call).await;
        refused("Verify", self.remote.verify(&stale, &description).await, "STALE_EPOCH");
        fine("Verify", self.remote.verify(&call, &description).await);
        refused("Commit", self.remote.commit(&stale).await, "STALE_EPOCH");
        fine("Commit", self.remote.commit(&call).await);
    }

    async fn refuses_another_purge(&self) {
        let call = self.seeded().await;
        fine("Freeze", self.remote.freeze(&call).await);
        let other = Call { purge_id: PurgeId::new(), ..call };
        refused("Freeze by another purge", self.remote.freeze(&other).await, "OTHER_PURGE");
        refused("Erase by another purge", self.remote.erase(&other).await, "OTHER_PURGE");
        refused("Thaw by another purge", self.remote.thaw(&other).await, "OTHER_PURGE");
        assert!(!self.owner.write(call.subject).await, "the subject stays with the first purge");
    }

    /// A subject of which this owner has nothing is erased like any other, and refused if it comes later.
    async fn erases_what_it_never_met(&self) {
        let call = self.new_call();
        fine("Freeze", self.remote.freeze(&call).await);
        self.list(&call).await;
        self.erase(&call).await;
        let description = self.describe().await;
        let read = fine("Verify", self.remote.verify(&call, &description).await);
        assert!(read.residue.is_empty(), "nothing is left of what never was");
        fine("Commit", self.remote.commit(&call).await);
        assert!(!self.owner.write(call.subject).await, "a tombstone refuses who comes late");
    }

    /// Reads the inventory to its end; it names declared kinds alone.
    async fn list(&self, call: &Call) {
        let description = self.describe().await;
        let mut objects = fine("Inventory", self.remote.inventory(call, &description).await);
        while !fine("Inventory", objects.next().await).is_empty() {}
    }

    /// Erases until done, and returns the digest of the last answer.
    async fn erase(&self, call: &Call) -> [u8; 32] {
        for _ in 0..MOST_CALLS {
            let (erasure, digest) = fine("Erase", self.remote.erase(call).await);
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
        Err(error) => panic!("{step} is done, but: {}", svc_core::wire::error::Chain(&error)),
    }
}

fn refused<T>(step: &str, answer: Result<T, Error>, reason: &str) {
    match answer {
        Ok(_) => panic!("{step} is refused with {reason}, but was done"),
        Err(error) => assert_eq!(
            error.refusal().as_deref(),
            Some(reason),
            "{step} is refused with {reason}, but: {}",
            svc_core::wire::error::Chain(&error)
        ),
    }
}
