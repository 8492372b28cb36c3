//! A simulated custodian: it keeps its rows in memory, uses the state machine of the real custodians, and can
//! be made to fail, to lose answers, to leave residue, and to refuse to delete objects.
//!
//! It is served over gRPC ([`FakeCustodian::serve`]), so that tests call it through a real socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use svc_core::{
    custody::{self, Record, Step, StepKind, admit},
    data::pg,
    subject::{CustodyState, Subject},
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::domain::{
    custodian::{CONTRACT_VERSION, Custodian, Description},
    external::{ExternalObject, ItemOutcome, ItemResult},
};

mod service;

pub use self::service::Serving;

/// A fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The simulator answers UNAVAILABLE and does nothing.
    Unavailable,
    /// The simulator does the step, but answers with an error, as if the connection had been lost.
    LoseReply,
    /// The simulator does the step, and answers after [`FakeCustodian::resume`].
    Stall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    pub step: StepKind,
    /// Epoch of the calling worker.
    pub epoch: i64,
    pub subject: Subject,
}

/// Rows and objects of one subject.
#[derive(Debug, Default)]
struct Holdings {
    rows: BTreeMap<String, i64>,
    objects: BTreeSet<ExternalObject>,
}

impl Holdings {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.rows.values().all(|rows| *rows == 0)
    }
}

#[derive(Debug)]
struct Kept {
    account: Uuid,
    record: Record,
    /// Answers by purge and step.
    answers: HashMap<Uuid, Vec<(StepKind, Vec<u8>)>>,
    holdings: Holdings,
}

#[derive(Debug, Default)]
struct Inner {
    subjects: HashMap<Uuid, Kept>,
    faults: HashMap<StepKind, VecDeque<Option<Fault>>>,
    /// Objects that cannot be deleted, with outcome and code.
    stuck: HashMap<String, (ItemOutcome, &'static str)>,
    /// Number of rows that appear when the next erasure is done, as if a writer had not been stopped.
    residue: i64,
    calls: Vec<Called>,
    version: i32,
    undeclared: Option<String>,
}

/// The simulator; clones share its state.
#[derive(Debug, Clone)]
pub struct FakeCustodian {
    custodian: Custodian,
    kinds: Arc<[String]>,
    /// Maximum rows that one call deletes.
    chunk: i64,
    inner: Arc<Mutex<Inner>>,
    resumed: watch::Sender<()>,
}

impl FakeCustodian {
    /// Simulates `custodian`, with two kinds of rows and one of external objects.
    pub fn new(custodian: Custodian) -> Self {
        let name = custodian.service().trim_end_matches("-svc");
        let kinds = [format!("{name}.heads"), format!("{name}.rows"), format!("{name}.objects")];
        let inner = Inner { version: CONTRACT_VERSION, ..Inner::default() };
        Self {
            custodian,
            kinds: kinds.into(),
            chunk: 100,
            inner: Arc::new(Mutex::new(inner)),
            resumed: watch::Sender::new(()),
        }
    }

    pub const fn custodian(&self) -> Custodian {
        self.custodian
    }

    /// Gives a subject `rows` rows and these external objects.
    pub fn seed(&self, subject: Subject, rows: i64, objects: &[&str]) {
        let mut inner = self.inner();
        let kept = inner.meet(subject);
        kept.holdings.rows.insert(self.kinds[0].clone(), 1);
        kept.holdings.rows.insert(self.kinds[1].clone(), rows);
        kept.holdings.objects.extend(objects.iter().map(|id| self.object(id)));
    }

    /// Writes one row of a subject if the subject is live; returns whether it did.
    pub fn write(&self, subject: Subject) -> bool {
        let mut inner = self.inner();
        let kept = inner.meet(subject);
        let live = kept.record.state == CustodyState::Live;
        if live {
            *kept.holdings.rows.entry(self.kinds[1].clone()).or_default() += 1;
        }
        live
    }

    /// Returns whether there is data of this subject under this account.
    pub fn has(&self, subject: Subject) -> bool {
        let inner = self.inner();
        let kept = inner.subjects.get(&subject.id());
        kept.is_some_and(|kept| kept.account == subject.account().0 && !kept.holdings.is_empty())
    }

    /// Returns whether nothing of a subject is left but its tombstone.
    pub fn is_erased(&self, subject: Subject) -> bool {
        let inner = self.inner();
        inner
            .subjects
            .get(&subject.id())
            .is_some_and(|kept| kept.record.state == CustodyState::Erased && kept.holdings.is_empty())
    }

    pub fn is_live(&self, subject: Subject) -> bool {
        self.inner().subjects.get(&subject.id()).is_none_or(|kept| kept.record.state == CustodyState::Live)
    }

    /// Returns the number of rows of a subject.
    pub fn rows(&self, subject: Subject) -> i64 {
        self.inner().subjects.get(&subject.id()).map_or(0, |kept| kept.holdings.rows.values().sum())
    }

    /// Makes the next `times` calls of a step fail.
    pub fn fail(&self, step: StepKind, fault: Fault, times: usize) {
        self.inner().faults.entry(step).or_default().extend(std::iter::repeat_n(Some(fault), times));
    }

    /// Makes one call of a step fail, after `calls` that succeed.
    pub fn fail_after(&self, step: StepKind, calls: usize, fault: Fault) {
        let faults = std::iter::repeat_n(None, calls).chain([Some(fault)]);
        self.inner().faults.entry(step).or_default().extend(faults);
    }

    /// Answers the calls that stall.
    pub fn resume(&self) {
        self.resumed.send_replace(());
    }

    /// Makes an object impossible to delete.
    pub fn jam(&self, object_id: &str, outcome: ItemOutcome, code: &'static str) {
        self.inner().stuck.insert(object_id.to_owned(), (outcome, code));
    }

    /// Makes an object possible to delete again.
    pub fn unjam(&self, object_id: &str) {
        self.inner().stuck.remove(object_id);
    }

    /// Makes this many rows appear when the next erasure is done.
    pub fn leave_residue(&self, rows: i64) {
        self.inner().residue = rows;
    }

    /// Speaks another version of the contract.
    pub fn speak(&self, version: i32) {
        self.inner().version = version;
    }

    /// Adds one object of a kind that is not declared.
    pub fn hide_a_kind(&self, kind: Option<&str>) {
        self.inner().undeclared = kind.map(str::to_owned);
    }

    pub fn calls(&self) -> Vec<Called> {
        self.inner().calls.clone()
    }

    /// Returns the number of calls of a step.
    pub fn count(&self, step: StepKind) -> usize {
        self.inner().calls.iter().filter(|called| called.step == step).count()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, id: &str) -> ExternalObject {
        ExternalObject {
            kind: self.kinds[2].clone(),
            provider: "simulator".to_owned(),
            object_id: id.to_owned(),
        }
    }

    pub(super) fn describe(&self) -> Description {
        Description {
            service: self.custodian.service().to_owned(),
            contract_version: self.inner().version,
            kinds: self.kinds.iter().cloned().collect(),
        }
    }

    pub(super) fn fault(&self, step: StepKind) -> Option<Fault> {
        self.inner().faults.get_mut(&step)?.pop_front()?
    }

    /// Returns a receiver that the next [`resume`](Self::resume) notifies. Must be called before the call is
    /// counted: a test that sees the count may resume at once.
    pub(super) fn resumption(&self) -> watch::Receiver<()> {
        self.resumed.subscribe()
    }

    /// Counts a call, and asks the state machine about it. Returns the answer of a step that was done before.
    pub(super) fn admit(&self, step: &Step) -> Result<Option<Vec<u8>>, custody::Error> {
        let mut inner = self.inner();
        inner.calls.push(Called { step: step.kind, epoch: step.epoch, subject: step.subject });
        if matches!(step.kind, StepKind::Freeze | StepKind::Thaw) {
            inner.meet(step.subject);
        }
        let kept = inner.subjects.get_mut(&step.subject.id());
        let kept = kept.filter(|kept| kept.account == step.subject.account().0);
        let kept = kept.ok_or(pg::Error::SubjectNotFound { kind: step.subject.kind(), erased: false })?;
        let answers = kept.answers.entry(step.purge_id.0).or_default();
        let state = admit(&kept.record, step, answers.iter().map(|(kind, _)| *kind))?;
        kept.record = Record { state, epoch: step.epoch, purge_id: Some(step.purge_id) };
        let answer = answers.iter().find(|(kind, _)| *kind == step.kind);
        Ok(answer.map(|(_, answer)| answer.clone()))
    }

    /// Stores the answer of a step.
    pub(super) fn answered(&self, step: &Step, answer: Vec<u8>) {
        let mut inner = self.inner();
        let kept = inner.meet(step.subject);
        kept.answers.entry(step.purge_id.0).or_default().push((step.kind, answer));
    }

    /// Returns whether there is data of a subject.
    pub(super) fn knows(&self, subject: Subject) -> bool {
        !self.inner().meet(subject).holdings.is_empty()
    }

    pub(super) fn list(&self, subject: Subject) -> Vec<ExternalObject> {
        let mut inner = self.inner();
        let hidden = inner.undeclared.clone();
        let mut objects: Vec<_> = inner.meet(subject).holdings.objects.iter().cloned().collect();
        let hidden = hidden.map(|kind| ExternalObject { kind, ..self.object("hidden") });
        objects.extend(hidden);
        objects
    }

    /// Deletes up to `chunk` rows and all objects that can be deleted. Returns the deleted rows by kind, the
    /// result for each object, and whether nothing is left.
    pub(super) fn erase(&self, subject: Subject) -> (Vec<(String, i64)>, Vec<ItemResult>, bool) {
        let mut inner = self.inner();
        let (stuck, residue) = (inner.stuck.clone(), inner.residue);
        let kept = inner.meet(subject);
        let mut budget = self.chunk;
        let mut deleted = Vec::new();
        for (kind, rows) in &mut kept.holdings.rows {
            let some = (*rows).min(budget);
            *rows -= some;
            budget -= some;
            deleted.push((kind.clone(), some));
        }
        let mut items = Vec::new();
        kept.holdings.objects.retain(|object| {
            let (outcome, code) = stuck.get(&object.object_id).copied().unwrap_or((ItemOutcome::Deleted, ""));
            items.push(ItemResult { object: object.clone(), outcome, code: code.to_owned() });
            !outcome.is_gone()
        });
        let done = kept.holdings.is_empty();
        if done && residue > 0 {
            kept.holdings.rows.insert(self.kinds[1].clone(), residue);
            inner.residue = 0;
        }
        (deleted, items, done)
    }

    /// Counts what is left, by kind. If anything is left, deletes the stored answer of Erase, so that the
    /// next Erase deletes again.
    pub(super) fn verify(&self, step: &Step) -> Vec<(String, i64)> {
        let mut inner = self.inner();
        let kept = inner.meet(step.subject);
        let objects = i64::try_from(kept.holdings.objects.len()).unwrap_or(i64::MAX);
        let count = |kind: &String| match kept.holdings.rows.get(kind) {
            Some(rows) => *rows,
            None if *kind == self.kinds[2] => objects,
            None => 0,
        };
        let left: Vec<_> = self.kinds.iter().map(|kind| (kind.clone(), count(kind))).collect();
        if left.iter().any(|(_, count)| *count != 0)
            && let Some(answers) = kept.answers.get_mut(&step.purge_id.0)
        {
            answers.retain(|(kind, _)| *kind != StepKind::Erase);
        }
        left
    }
}

impl Inner {
    fn meet(&mut self, subject: Subject) -> &mut Kept {
        self.subjects.entry(subject.id()).or_insert_with(|| Kept {
            account: subject.account().0,
            record: Record { state: CustodyState::Live, epoch: 0, purge_id: None },
            answers: HashMap::new(),
            holdings: Holdings::default(),
        })
    }
}
