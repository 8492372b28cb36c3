use proptest::prelude::*;

use super::*;

const PLAIN: Candidate = Candidate { prefill: false };
const PREFILL: Candidate = Candidate { prefill: true };
const NOTHING: Shown = Shown { from_seq: None, text_bytes: 0, beyond_text: false };
const TEXT: Shown = Shown { from_seq: Some(7), text_bytes: 12, beyond_text: false };
const REASONING: Shown = Shown { from_seq: Some(7), text_bytes: 0, beyond_text: true };

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 2,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(2)),
            longest_wait: Duration::from_secs(5),
        }
    }
}

fn walk(route: &[Candidate]) -> Walk {
    let mut walk = Walk::new(route.to_vec(), 0, RetryPolicy::default());
    assert_eq!(walk.begin_step(), Next::Ask { candidate: 0, attempt: 1, delay: Duration::ZERO });
    walk
}

fn fail(class: FailureClass) -> Failure {
    Failure { class, retry_after: None }
}

fn model(class: FailureClass) -> ResetCause {
    ResetCause::Model(class)
}

#[test]
fn every_failure_class_has_its_next_move() {
    use FailureClass::*;
    // Each row: failure class, next move if no content was shown, next move if text was shown. Neither of the
    // two models in the route can continue a text.
    let again = |class| (class, "same", "reset");
    let on = |class| (class, "next", "reset");
    let stop = |class| (class, "stop", "stop");
    let table = [
        stop(InvalidRequest),
        on(Rejected),
        on(RateLimited),
        again(Transient),
        again(Cut),
        on(Stalled),
        again(Malformed),
        on(InBand),
        on(EmptyTurn),
    ];
    assert_eq!(table.map(|row| row.0), FailureClass::ALL, "one row a class");
    let name = |next: &Next| match next {
        Next::Ask { candidate: 0, .. } => "same",
        Next::Ask { .. } => "next",
        Next::Splice { .. } => "splice",
        Next::Reset { candidate: 1, from_seq: 7, .. } => "reset",
        Next::Reset { .. } => "wrong reset",
        Next::GiveUp { .. } => "stop",
    };
    for (class, silent, visible) in table {
        assert_eq!(name(&walk(&[PLAIN, PLAIN]).failed(fail(class), NOTHING, 0.5)), silent, "{class:?}");
        assert_eq!(name(&walk(&[PLAIN, PLAIN]).failed(fail(class), TEXT, 0.5)), visible, "{class:?}");
    }
}

#[test]
fn a_model_is_retried_with_growing_delays_then_the_next_asked() {
    let mut walk = walk(&[PLAIN, PLAIN]);
    let ms = Duration::from_millis;
    let mut failed = || walk.failed(fail(FailureClass::Transient), NOTHING, 1.0);
    assert_eq!(failed(), Next::Ask { candidate: 0, attempt: 2, delay: ms(250) });
    assert_eq!(failed(), Next::Ask { candidate: 0, attempt: 3, delay: ms(500) });
    assert_eq!(failed(), Next::Ask { candidate: 1, attempt: 4, delay: ms(0) });
}

#[test]
fn a_short_requested_pause_is_kept_a_long_one_fails_over() {
    let failure =
        |seconds| Failure { class: FailureClass::Transient, retry_after: Some(Duration::from_secs(seconds)) };
    let short = walk(&[PLAIN, PLAIN]).failed(failure(3), NOTHING, 0.0);
    assert_eq!(short, Next::Ask { candidate: 0, attempt: 2, delay: Duration::from_secs(3) });
    let long = walk(&[PLAIN, PLAIN]).failed(failure(60), NOTHING, 0.0);
    assert_eq!(long, Next::Ask { candidate: 1, attempt: 2, delay: Duration::ZERO });
}

#[test]
fn a_splice_continues_text_only() {
    let cause = model(FailureClass::Cut);
    let spliced = walk(&[PLAIN, PREFILL]).failed(fail(FailureClass::Cut), TEXT, 0.0);
    assert_eq!(spliced, Next::Splice { candidate: 1, attempt: 2, kept_bytes: 12, cause });
    let reset = walk(&[PLAIN, PREFILL]).failed(fail(FailureClass::Cut), REASONING, 0.0);
    assert_eq!(reset, Next::Reset { candidate: 1, attempt: 2, from_seq: 7, cause });
}

#[test]
fn the_last_failure_is_the_primary_one() {
    let mut walk = walk(&[PLAIN, PLAIN]);
    walk.failed(fail(FailureClass::RateLimited), NOTHING, 0.0);
    let end = walk.failed(fail(FailureClass::Rejected), NOTHING, 0.0);
    assert_eq!(end, Next::GiveUp { primary: FailureClass::Rejected });
}

#[test]
fn an_open_breaker_is_neither_an_attempt_nor_a_failure() {
    let mut open_first = walk(&[PLAIN, PLAIN]);
    assert_eq!(open_first.refused(NOTHING), Next::Ask { candidate: 1, attempt: 1, delay: Duration::ZERO });
    assert_eq!(open_first.refused(NOTHING), Next::GiveUp { primary: FailureClass::Transient });
    assert_eq!(open_first.last_failure, None);

    let mut open_second = walk(&[PLAIN, PLAIN, PLAIN]);
    open_second.failed(fail(FailureClass::Cut), TEXT, 0.0);
    let cause = model(FailureClass::Cut);
    assert_eq!(open_second.refused(TEXT), Next::Reset { candidate: 2, attempt: 2, from_seq: 7, cause });
    assert_eq!(open_second.refused(TEXT), Next::GiveUp { primary: FailureClass::Cut });
}

#[test]
fn a_takeover_asks_the_same_model_and_voids_shown_text() {
    let resumed = || Walk::new(vec![PLAIN, PLAIN], 1, RetryPolicy::default());
    assert_eq!(
        resumed().take_over(2, NOTHING),
        Next::Ask { candidate: 1, attempt: 3, delay: Duration::ZERO },
    );
    assert_eq!(
        resumed().take_over(2, TEXT),
        Next::Reset { candidate: 1, attempt: 3, from_seq: 7, cause: ResetCause::Takeover },
    );
}

#[test]
fn a_new_step_starts_on_the_model_that_answered() {
    let mut walk = walk(&[PLAIN, PLAIN]);
    walk.failed(fail(FailureClass::Stalled), NOTHING, 0.0);
    assert_eq!(walk.begin_step(), Next::Ask { candidate: 1, attempt: 1, delay: Duration::ZERO });
    assert_eq!(
        walk.failed(fail(FailureClass::Stalled), NOTHING, 0.0),
        Next::GiveUp { primary: FailureClass::Stalled },
        "earlier models are not asked again",
    );
}

#[test]
fn an_empty_route_gives_up() {
    let mut walk = Walk::new(Vec::new(), 0, RetryPolicy::default());
    assert_eq!(walk.begin_step(), Next::GiveUp { primary: FailureClass::Transient });
}

proptest! {
    #[test]
    fn a_walk_is_bounded_and_never_repeats_shown_content(
        prefill in proptest::collection::vec(any::<bool>(), 1..5),
        moves in proptest::collection::vec((0..9_usize, 0..3_usize, any::<bool>()), 0..60),
    ) {
        let route: Vec<_> = prefill.iter().map(|&prefill| Candidate { prefill }).collect();
        let policy = RetryPolicy::default();
        let longest = route.len() * (1 + policy.retries as usize);
        let mut walk = Walk::new(route.clone(), 0, policy);
        let (mut next, mut calls, mut last_attempt) = (walk.begin_step(), 0, 0);
        for (class, shown, refuse) in moves {
            let (candidate, attempt) = match next {
                Next::Ask { candidate, attempt, .. }
                | Next::Splice { candidate, attempt, .. }
                | Next::Reset { candidate, attempt, .. } => (candidate, attempt),
                Next::GiveUp { .. } => break,
            };
            let shown = [NOTHING, TEXT, REASONING][shown];
            if refuse {
                next = walk.refused(shown);
                prop_assert!(walk.at > candidate);
                continue;
            }
            calls += 1;
            prop_assert!(calls <= longest, "the walk is bounded");
            prop_assert_eq!(attempt, last_attempt + 1, "attempts are counted without a gap");
            last_attempt = attempt;
            next = walk.failed(fail(FailureClass::ALL[class]), shown, 0.5);
            prop_assert!(walk.at >= candidate);
            match next {
                Next::Ask { .. } => prop_assert!(shown.from_seq.is_none()),
                Next::Splice { candidate: to, .. } => {
                    prop_assert!(to > candidate && route[to].prefill && shown == TEXT);
                }
                Next::Reset { candidate: to, .. } => prop_assert!(to > candidate && shown.from_seq.is_some()),
                Next::GiveUp { .. } => {}
            }
        }
    }
}
