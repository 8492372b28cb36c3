//! The warm pool: its slots, the replacement of a sandbox in a slot, and the conditions for filling one.
//!
//! A slot is *filling* while its sandbox is created and *available* once it runs. A slot may have one sandbox
//! in each of the two states, so that a replacement runs before the sandbox that it replaces is retired.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{host::Level, time::after};

/// State of a pool slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolState {
    /// Its sandbox is requested or being created.
    Filling,
    /// Its sandbox runs and can be claimed.
    Available,
}

/// A slot of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub number: i32,
    pub state: PoolState,
}

/// A sandbox in a slot of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    pub slot: Slot,
    /// Id of its image, once its container is being created.
    pub image: Option<String>,
    /// Whether it has the configured shape; no session claims a sandbox with another shape.
    pub fits: bool,
    /// Time at which it retires unless a session claims it.
    pub retire_at: DateTime<Utc>,
}

/// The pool as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub size: i32,
    /// Id of the image that the configured name points to now.
    pub image: String,
    /// Time before a retirement at which the replacement is requested, about as long as a creation takes.
    pub lead: Duration,
}

/// One change towards the desired pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Request a sandbox for this slot.
    Fill(i32),
    /// Retire the occupant with this index.
    Retire(usize),
}

/// Plans the steps from the present occupants to the desired pool. The plan retires neither expired
/// sandboxes, which the deadline worker removes, nor replaced ones, which are removed when the replacement
/// starts to run.
pub fn plan(desired: &Desired, occupants: &[Occupant], now: DateTime<Utc>) -> Vec<Step> {
    let of = |number, state| occupants.iter().find(|occupant| occupant.slot == Slot { number, state });
    let fill = (0..desired.size).filter(|&number| {
        let replace = of(number, PoolState::Available).is_none_or(|available| {
            let stale = available.image.as_ref().is_some_and(|image| *image != desired.image);
            stale || !available.fits || available.retire_at <= after(now, desired.lead)
        });
        replace && of(number, PoolState::Filling).is_none()
    });
    let surplus = occupants.iter().enumerate().filter(|(_, occupant)| occupant.slot.number >= desired.size);
    fill.map(Step::Fill).chain(surplus.map(|(index, _)| Step::Retire(index))).collect()
}

/// Returns whether the pool may request sandboxes now: the host must have enough of every resource, and fewer
/// than `max_failures` of the pool's recent sandboxes must have failed.
pub fn may_fill(host: Level, recent_failures: i64, max_failures: u32) -> bool {
    host == Level::Fine && recent_failures < i64::from(max_failures)
}

/// Returns when the sandbox in slot `number` of `size` retires. The first filling of a pool is staggered, so
/// that its sandboxes do not all retire at once; later fillings keep those distances.
pub fn retire_at(now: DateTime<Utc>, life: Duration, first: bool, number: i32, size: i32) -> DateTime<Utc> {
    let (number, size) = (u32::try_from(number).unwrap_or(0), u32::try_from(size).unwrap_or(1).max(1));
    let earlier = if first { life / size * number } else { Duration::ZERO };
    after(now, life.saturating_sub(earlier).max(Duration::from_secs(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn desired(size: i32) -> Desired {
        Desired { size, image: "new".into(), lead: Duration::from_secs(60) }
    }

    fn occupant(number: i32, state: PoolState, image: &str, retires: i64) -> Occupant {
        let image = (state == PoolState::Available).then(|| image.to_owned());
        Occupant { slot: Slot { number, state }, image, fits: true, retire_at: at(retires) }
    }

    #[test]
    fn a_pool_converges_to_its_size_even_to_zero() {
        use PoolState::{Available, Filling};
        let two = [occupant(0, Available, "new", 1000), occupant(1, Filling, "new", 1000)];
        assert_eq!(plan(&desired(2), &[], at(0)), [Step::Fill(0), Step::Fill(1)]);
        assert_eq!(plan(&desired(2), &two, at(0)), []);
        assert_eq!(plan(&desired(3), &two, at(0)), [Step::Fill(2)]);
        assert_eq!(plan(&desired(1), &two, at(0)), [Step::Retire(1)]);
        assert_eq!(plan(&desired(0), &two, at(0)), [Step::Retire(0), Step::Retire(1)]);
    }

    #[test]
    fn a_replacement_is_requested_before_the_retirement() {
        use PoolState::{Available, Filling};
        let old = occupant(0, Available, "new", 50);
        assert_eq!(plan(&desired(1), std::slice::from_ref(&old), at(0)), [Step::Fill(0)]);
        let under_way = [old, occupant(0, Filling, "new", 1000)];
        assert_eq!(plan(&desired(1), &under_way, at(0)), []);
    }

    #[test]
    fn a_new_image_or_shape_replaces_every_slot_with_another() {
        let occupants =
            [occupant(0, PoolState::Available, "old", 1000), occupant(1, PoolState::Available, "new", 1000)];
        assert_eq!(plan(&desired(2), &occupants, at(0)), [Step::Fill(0)]);
        let [_, mut other] = occupants;
        other.fits = false;
        assert_eq!(
            plan(&desired(1), &[Occupant { slot: Slot { number: 0, ..other.slot }, ..other }], at(0)),
            [Step::Fill(0)]
        );
    }

    #[test]
    fn a_pool_fills_only_on_a_fine_host_and_below_its_failures() {
        assert!(may_fill(Level::Fine, 2, 3));
        assert!(!may_fill(Level::Fine, 3, 3) && !may_fill(Level::Fine, 0, 0));
        assert!(!may_fill(Level::Warning, 0, 3) && !may_fill(Level::Critical, 0, 3));
    }

    #[test]
    fn retirements_are_staggered_once() {
        let day = 24 * HOUR;
        for (number, size, hours) in [(0, 2, 24), (1, 2, 12), (1, 3, 16), (2, 3, 8)] {
            assert_eq!(retire_at(at(0), day, true, number, size), at(hours * 3600), "{number} of {size}");
            assert_eq!(retire_at(at(0), day, false, number, size), at(24 * 3600));
        }
        assert_eq!(retire_at(at(0), Duration::from_secs(120), true, 9, 10), at(60));
    }
}
