//! Tests that the check of the ledger finds every change to it.

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn time() -> impl Strategy<Value = DateTime<Utc>> {
    (0_i64..4_000_000_000_000_000).prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap())
}

prop_compose! {
    fn custodian()(service in "[a-z]{0,12}", digest: [u8; 32], verified_at in time()) -> CustodianDigest {
        CustodianDigest { service, digest, verified_at }
    }
}

prop_compose! {
    fn body()(
        id: u128,
        subject: [u8; 32],
        kind in proptest::sample::select(&SubjectKind::ALL[..]),
        trigger in proptest::sample::select(&Trigger::ALL[..]),
        epoch in 1_i64..100,
        rounds in 0_u32..5,
        (requested_at, committed_at) in (time(), time()),
        custodians in proptest::collection::vec(custodian(), 0..4),
    ) -> Body {
        Body {
            purge_id: PurgeId(Uuid::from_u128(id)),
            kind,
            subject_hash: SubjectHash(subject),
            trigger,
            epoch,
            rounds,
            requested_at,
            committed_at,
            custodians,
        }
    }
}

fn ledger() -> impl Strategy<Value = Vec<Receipt>> {
    proptest::collection::vec(body(), 1..8).prop_map(|bodies| {
        let mut head = Head::EMPTY;
        bodies
            .into_iter()
            .map(|body| {
                let receipt = Receipt::seal(head, body);
                head = receipt.as_head();
                receipt
            })
            .collect()
    })
}

/// Returns a copy of the receipt with one change; `way` in 0..16 selects it.
fn tampered(receipt: &Receipt, way: u8) -> Receipt {
    let mut receipt = receipt.clone();
    let body = &mut receipt.body;
    match way {
        0 => receipt.seq += 1,
        1 => receipt.previous_hash[7] ^= 1,
        2 => receipt.hash[31] ^= 1,
        3 => body.purge_id = PurgeId(Uuid::from_u128(body.purge_id.0.as_u128() ^ 1)),
        4 => {
            body.kind = match body.kind {
                SubjectKind::Account => SubjectKind::Session,
                SubjectKind::Session => SubjectKind::Account,
            }
        }
        5 => body.subject_hash.0[0] ^= 1,
        6 => {
            body.trigger =
                Trigger::ALL[(usize::try_from(body.trigger.priority()).unwrap() + 1) % Trigger::ALL.len()]
        }
        7 => body.epoch += 1,
        8 => body.rounds += 1,
        9 => body.requested_at += TimeDelta::microseconds(1),
        10 => body.committed_at -= TimeDelta::microseconds(1),
        11 => body.custodians.push(CustodianDigest {
            service: String::new(),
            digest: [0; 32],
            verified_at: body.committed_at,
        }),
        12 if !body.custodians.is_empty() => drop(body.custodians.remove(0)),
        13 if !body.custodians.is_empty() => body.custodians[0].service.push('x'),
        14 if !body.custodians.is_empty() => body.custodians[0].digest[3] ^= 1,
        15 if !body.custodians.is_empty() => body.custodians[0].verified_at += TimeDelta::microseconds(1),
        _ => body.epoch -= 1,
    }
    receipt
}

proptest! {
    #[test]
    fn an_unchanged_ledger_verifies(ledger in ledger()) {
        let head = verify(Head::EMPTY, &ledger).unwrap();
        prop_assert_eq!(head, ledger.last().unwrap().as_head());
    }

    #[test]
    fn any_change_of_any_receipt_is_found(
        ledger in ledger(),
        at: proptest::sample::Index,
        way in 0_u8..16,
    ) {
        let mut ledger = ledger;
        let at = at.index(ledger.len());
        ledger[at] = tampered(&ledger[at], way);
        let broken = verify(Head::EMPTY, &ledger).unwrap_err();
        if way >= 2 {
            prop_assert_eq!(broken, Broken::Changed(ledger[at].seq));
        }
    }

    /// Changes one receipt and hashes it again: the check fails at the next receipt, or, if there is none,
    /// returns another head than the known one.
    #[test]
    fn a_resealed_receipt_breaks_its_successor_or_the_known_head(
        ledger in ledger(),
        at: proptest::sample::Index,
    ) {
        let mut ledger = ledger;
        let known = ledger.last().unwrap().as_head();
        let at = at.index(ledger.len());
        let before = if at == 0 { Head::EMPTY } else { ledger[at - 1].as_head() };
        let mut body = ledger[at].body.clone();
        body.epoch += 1;
        ledger[at] = Receipt::seal(before, body);
        match verify(Head::EMPTY, &ledger) {
            Ok(head) => prop_assert_ne!(head, known),
            Err(broken) => prop_assert_eq!(broken, Broken::Unlinked(ledger[at].seq + 1)),
        }
    }

    #[test]
    fn a_receipt_that_is_missing_doubled_or_moved_is_found(
        ledger in ledger(),
        at: proptest::sample::Index,
        way in 0_u8..3,
    ) {
        prop_assume!(ledger.len() > 1);
        let mut ledger = ledger;
        let at = at.index(ledger.len() - 1);
        match way {
            0 => drop(ledger.remove(at)),
            1 => ledger.insert(at, ledger[at].clone()),
            _ => ledger.swap(at, at + 1),
        }
        let gap = matches!(verify(Head::EMPTY, &ledger), Err(Broken::Gap { .. }));
        prop_assert!(gap);
    }

    /// Checks that lengths are encoded before texts, so that no text can move from one field into the next.
    #[test]
    fn fields_do_not_run_into_each_other(name in "[a-z]{2,10}", cut in 1_usize..2) {
        let two = |first: &str, second: &str| {
            let digest = |service: &str| CustodianDigest {
                service: service.to_owned(),
                digest: [0; 32],
                verified_at: DateTime::UNIX_EPOCH,
            };
            let body = Body {
                purge_id: PurgeId(Uuid::nil()),
                kind: SubjectKind::Session,
                subject_hash: SubjectHash([0; 32]),
                trigger: Trigger::UserErasure,
                epoch: 1,
                rounds: 0,
                requested_at: DateTime::UNIX_EPOCH,
                committed_at: DateTime::UNIX_EPOCH,
                custodians: vec![digest(first), digest(second)],
            };
            hash(1, &GENESIS, &body)
        };
        let (head, tail) = name.split_at(cut);
        prop_assert_ne!(two(&name, ""), two(head, tail));
    }
}

#[test]
fn the_order_of_read_backs_does_not_matter() {
    let digest = |service: &str| CustodianDigest {
        service: service.to_owned(),
        digest: [1; 32],
        verified_at: DateTime::UNIX_EPOCH,
    };
    let sealed = |custodians| {
        Receipt::seal(
            Head::EMPTY,
            Body {
                purge_id: PurgeId(Uuid::nil()),
                kind: SubjectKind::Session,
                subject_hash: SubjectHash([0; 32]),
                trigger: Trigger::UserErasure,
                epoch: 1,
                rounds: 0,
                requested_at: DateTime::UNIX_EPOCH,
                committed_at: DateTime::UNIX_EPOCH,
                custodians,
            },
        )
    };
    assert_eq!(
        sealed(vec![digest("chat-svc"), digest("sandbox-svc")]),
        sealed(vec![digest("sandbox-svc"), digest("chat-svc")])
    );
}

/// Fixes the encoding, because after a change of it every stored receipt would look changed.
#[test]
fn the_encoding_stays_what_it_was() {
    let body = Body {
        purge_id: PurgeId(Uuid::from_u128(1)),
        kind: SubjectKind::Session,
        subject_hash: SubjectHash([2; 32]),
        trigger: Trigger::UserErasure,
        epoch: 3,
        rounds: 0,
        requested_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        committed_at: DateTime::from_timestamp(1_700_000_060, 0).unwrap(),
        custodians: vec![CustodianDigest {
            service: "chat-svc".to_owned(),
            digest: [4; 32],
            verified_at: DateTime::from_timestamp(1_700_000_050, 0).unwrap(),
        }],
    };
    let hash = hex(&Receipt::seal(Head::EMPTY, body).hash);
    assert_eq!(hash, "8bc4c359c2516afd8d4817adf98374f39f0d6dccd5a7c4950e96ef58681af682");
}
