//! The warm pool: which places it has, and when a sandbox in one of them is replaced.
//!
//! A place is *filling* while its sandbox is made and *available* once it runs. One of each may exist for the same
//! place, so a replacement is made before what it replaces goes.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::sandbox::after;

/// How a place of the pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolState {
    /// Its sandbox is being made.
    Filling,
    /// Its sandbox can be claimed.
    Available,
}

/// A place of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its number, from 0.
    pub number: i32,
    /// How it stands.
    pub state: PoolState,
}

impl Slot {
    /// A place whose sandbox is asked for.
    #[must_use]
    pub const fn filling(number: i32) -> Self {
        Self { number, state: PoolState::Filling }
    }

    /// The place once its sandbox runs.
    #[must_use]
    pub const fn filled(self) -> Self {
        Self { state: PoolState::Available, ..self }
    }
}

/// A sandbox that has a place in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Its place.
    pub slot: Slot,
    /// Id of the image it is made from, once it is being made.
    pub image: Option<String>,
    /// Whether it has today's shape: nobody claims another.
    pub fits: bool,
    /// When it must be claimed or replaced.
    pub retire_at: DateTime<Utc>,
}

/// What a pool should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Places.
    pub size: i32,
    /// Id of the image of today.
    pub image: String,
    /// How long before its retirement a sandbox is replaced: the time a replacement takes.
    pub lead: Duration,
}

/// What is to be done with one place, or with one sandbox in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask for a sandbox for this place.
    Fill(i32),
    /// Retire the `index`th occupant.
    Retire(usize),
}

/// The steps from what there is to what should be. What is due goes by its deadline, and what a replacement
/// replaces as that begins to run; neither is a step.
#[must_use]
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

/// When the sandbox in place `number` of `size` retires. The first filling is staggered, so that the pool is never
/// replaced as a whole; later ones keep their distance by themselves.
#[must_use]
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
    fn a_pool_converges_to_its_size_zero_included() {
        use PoolState::{Available, Filling};
        let two = [occupant(0, Available, "new", 1000), occupant(1, Filling, "new", 1000)];
        assert_eq!(plan(&desired(2), &[], at(0)), [Step::Fill(0), Step::Fill(1)]);
        assert_eq!(plan(&desired(2), &two, at(0)), []);
        assert_eq!(plan(&desired(3), &two, at(0)), [Step::Fill(2)]);
        assert_eq!(plan(&desired(1), &two, at(0)), [Step::Retire(1)]);
        assert_eq!(plan(&desired(0), &two, at(0)), [Step::Retire(0), Step::Retire(1)]);
    }

    #[test]
    fn a_replacement_is_made_before_what_it_replaces_goes() {
        use PoolState::{Available, Filling};
        let old = occupant(0, Available, "new", 50);
        assert_eq!(plan(&desired(1), std::slice::from_ref(&old), at(0)), [Step::Fill(0)]);
        let under_way = [old, occupant(0, Filling, "new", 1000)];
        assert_eq!(plan(&desired(1), &under_way, at(0)), []);
    }

    #[test]
    fn a_new_image_replaces_every_place_that_has_another() {
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
    fn retirements_are_staggered_once() {
        let day = 24 * HOUR;
        for (number, size, hours) in [(0, 2, 24), (1, 2, 12), (1, 3, 16), (2, 3, 8)] {
            assert_eq!(retire_at(at(0), day, true, number, size), at(hours * 3600), "{number} of {size}");
            assert_eq!(retire_at(at(0), day, false, number, size), at(24 * 3600));
        }
        assert_eq!(retire_at(at(0), Duration::from_secs(120), true, 9, 10), at(60));
    }
}
