use proptest::prelude::*;

use super::*;

const PLAIN: Candidate = Candidate { prefill: false };
const PREFILL: Candidate = Candidate { prefill: true };
const NOTHING: Shown = Shown { from_seq: None, text_bytes: 0, beyond_text: false, tool_effects: false };
const TEXT: Shown = Shown { from_seq: Some(7), text_bytes: 12, beyond_text: false, tool_effects: false };
const REASONING: Shown = Shown { from_seq: Some(7), text_bytes: 0, beyond_text: true, tool_effects: false };
const EFFECTS: Shown = Shown { tool_effects: true, ..NOTHING };

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
fn every_class_does_what_the_table_says() {
    use FailureClass::*;
    // class, nothing shown, text shown; on a route of two models without prefill.
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
        stop(Canceled),
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
        let with_effects = walk(&[PLAIN, PLAIN]).failed(fail(class), EFFECTS, 0.5);
        assert_eq!(with_effects, Next::GiveUp { primary: class }, "{class:?}: effects are never repeated");
    }
}

#[test]
fn the_same_model_is_asked_again_with_growing_delays_and_then_the_next() {
    let mut walk = walk(&[PLAIN, PLAIN]);
    let ms = Duration::from_millis;
    let mut failed = || walk.failed(fail(FailureClass::Transient), NOTHING, 1.0);
    assert_eq!(failed(), Next::Ask { candidate: 0, attempt: 2, delay: ms(250) });
    assert_eq!(failed(), Next::Ask { candidate: 0, attempt: 3, delay: ms(500) });
    assert_eq!(failed(), Next::Ask { candidate: 1, attempt: 4, delay: ms(0) });
}

#[test]
fn a_pause_that_is_asked_for_is_kept_if_short_and_not_waited_for_if_long() {
    let failure =
        |seconds| Failure { class: FailureClass::Transient, retry_after: Some(Duration::from_secs(seconds)) };
    let short = walk(&[PLAIN, PLAIN]).failed(failure(3), NOTHING, 0.0);
    assert_eq!(short, Next::Ask { candidate: 0, attempt: 2, delay: Duration::from_secs(3) });
    let long = walk(&[PLAIN, PLAIN]).failed(failure(60), NOTHING, 0.0);
    assert_eq!(long, Next::Ask { candidate: 1, attempt: 2, delay: Duration::ZERO });
}

#[test]
fn a_model_that_can_goes_on_from_text_and_from_nothing_else() {
    let cause = model(FailureClass::Cut);
    let spliced = walk(&[PLAIN, PREFILL]).failed(fail(FailureClass::Cut), TEXT, 0.0);
    assert_eq!(spliced, Next::Splice { candidate: 1, attempt: 2, kept_bytes: 12, cause });
    let reset = walk(&[PLAIN, PREFILL]).failed(fail(FailureClass::Cut), REASONING, 0.0);
    assert_eq!(reset, Next::Reset { candidate: 1, attempt: 2, from_seq: 7, cause });
}

#[test]
fn the_last_failure_is_the_primary_one_and_all_are_on_record() {
    let mut walk = walk(&[PLAIN, PLAIN]);
    walk.failed(fail(FailureClass::RateLimited), NOTHING, 0.0);
    let end = walk.failed(fail(FailureClass::Rejected), NOTHING, 0.0);
    assert_eq!(end, Next::GiveUp { primary: FailureClass::Rejected });
    let classes: Vec<_> = walk.failures().iter().map(|f| (f.candidate, f.attempt, f.class)).collect();
    assert_eq!(classes, [(0, 1, FailureClass::RateLimited), (1, 2, FailureClass::Rejected)]);
}

#[test]
fn an_open_breaker_costs_no_attempt_and_is_no_failure() {
    let mut open_first = walk(&[PLAIN, PLAIN]);
    assert_eq!(open_first.refused(NOTHING), Next::Ask { candidate: 1, attempt: 1, delay: Duration::ZERO });
    assert_eq!(open_first.refused(NOTHING), Next::GiveUp { primary: FailureClass::Transient });
    assert!(open_first.failures().is_empty());

    let mut open_second = walk(&[PLAIN, PLAIN, PLAIN]);
    open_second.failed(fail(FailureClass::Cut), TEXT, 0.0);
    let cause = model(FailureClass::Cut);
    assert_eq!(open_second.refused(TEXT), Next::Reset { candidate: 2, attempt: 2, from_seq: 7, cause });
    assert_eq!(open_second.refused(TEXT), Next::GiveUp { primary: FailureClass::Cut });
}

#[test]
fn a_takeover_asks_the_same_model_and_voids_what_was_shown() {
    let resumed = || Walk::new(vec![PLAIN, PLAIN], 1, RetryPolicy::default());
    assert_eq!(
        resumed().take_over(2, NOTHING),
        Next::Ask { candidate: 1, attempt: 3, delay: Duration::ZERO },
    );
    assert_eq!(
        resumed().take_over(2, TEXT),
        Next::Reset { candidate: 1, attempt: 3, from_seq: 7, cause: ResetCause::Takeover },
    );
    assert_eq!(resumed().take_over(2, EFFECTS), Next::GiveUp { primary: FailureClass::Cut });
}

#[test]
fn a_new_step_stays_with_the_model_that_worked() {
    let mut walk = walk(&[PLAIN, PLAIN]);
    walk.failed(fail(FailureClass::Stalled), NOTHING, 0.0);
    assert_eq!(walk.begin_step(), Next::Ask { candidate: 1, attempt: 1, delay: Duration::ZERO });
    assert_eq!(
        walk.failed(fail(FailureClass::Stalled), NOTHING, 0.0),
        Next::GiveUp { primary: FailureClass::Stalled },
        "models left behind are not asked again",
    );
}

#[test]
fn an_empty_route_gives_up() {
    let mut walk = Walk::new(Vec::new(), 0, RetryPolicy::default());
    assert_eq!(walk.begin_step(), Next::GiveUp { primary: FailureClass::Transient });
}

proptest! {
    #[test]
    fn a_walk_ends_goes_forwards_and_repeats_nothing_that_was_seen(
        prefill in proptest::collection::vec(any::<bool>(), 1..5),
        moves in proptest::collection::vec((0..10_usize, 0..4_usize, any::<bool>()), 0..60),
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
            let shown = [NOTHING, TEXT, REASONING, EFFECTS][shown];
            if refuse {
                next = walk.refused(shown);
                prop_assert!(walk.position() > candidate);
                continue;
            }
            calls += 1;
            prop_assert!(calls <= longest, "the walk is bounded");
            prop_assert_eq!(attempt, last_attempt + 1, "tries are counted without a gap");
            last_attempt = attempt;
            next = walk.failed(fail(FailureClass::ALL[class]), shown, 0.5);
            prop_assert!(walk.position() >= candidate);
            match next {
                Next::Ask { .. } => prop_assert!(shown.from_seq.is_none() && !shown.tool_effects),
                Next::Splice { candidate: to, .. } => prop_assert!(to > candidate && route[to].prefill && shown == TEXT),
                Next::Reset { candidate: to, .. } => prop_assert!(to > candidate && shown.from_seq.is_some()),
                Next::GiveUp { .. } => {}
            }
        }
    }
}
