//! Which commits stay in the history.
//!
//! Each rule of a policy knows periods (hours, days, weeks, months) and a number of them. Of each
//! period that has a commit the latest is kept, for so many periods, the newest first. What is kept
//! by any rule stays, and so does what somebody may want for another reason than its age: the newest
//! commit of each replica, what a head on the store names, what has a message.
//!
//! A period without a commit does not count, so a machine that was off for a year keeps its
//! history; and a commit whose clock was years ahead takes one period's place, no more.

use larder_model::{KeepPolicy, Time};

/// What is asked of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// What its author's wall clock showed.
    pub wall: Time,
    /// Whether it is the newest of a replica, or some head names it, or a tree stands on it.
    pub is_needed: bool,
    /// Whether a user said something about it.
    pub is_named: bool,
}

/// Decides commit by commit, the newest first; so it needs no memory of them.
#[derive(Debug)]
pub struct Keeper {
    /// `None`: everything is kept.
    rules: Option<[Rule; 4]>,
}

#[derive(Debug)]
struct Rule {
    period_of: fn(i64) -> i64,
    /// How many periods are left.
    left: u64,
    /// The period of the commit before.
    last: Option<i64>,
}

const HOUR_NANOS: i64 = 3_600_000_000_000;
/// 1970 began on a Thursday.
const DAYS_FROM_MONDAY: i64 = 3;

impl Keeper {
    /// For a policy; `None` keeps everything.
    pub fn new(policy: Option<KeepPolicy>) -> Self {
        let rules = policy.map(|policy| {
            [
                Rule::new(hour, policy.hourly),
                Rule::new(day, policy.daily),
                Rule::new(week, policy.weekly),
                Rule::new(month, policy.monthly),
            ]
        });
        Self { rules }
    }

    /// Whether this commit is kept. The commits must come in the order of their hybrid times, the
    /// newest first.
    pub fn keeps(&mut self, past: &Past) -> bool {
        let Some(rules) = &mut self.rules else {
            return true;
        };
        // Each rule must see it.
        let by_age = rules
            .iter_mut()
            .fold(false, |kept, rule| rule.keeps(past.wall) | kept);
        by_age || past.is_needed || past.is_named
    }
}

impl Rule {
    fn new(period_of: fn(i64) -> i64, left: u64) -> Self {
        Self {
            period_of,
            left,
            last: None,
        }
    }

    fn keeps(&mut self, wall: Time) -> bool {
        let period = Some((self.period_of)(wall.0));
        if self.left == 0 || period == self.last {
            return false;
        }
        self.last = period;
        if self.left != KeepPolicy::ALL {
            self.left -= 1;
        }
        true
    }
}

fn hour(nanos: i64) -> i64 {
    nanos.div_euclid(HOUR_NANOS)
}

fn day(nanos: i64) -> i64 {
    hour(nanos).div_euclid(24)
}

fn week(nanos: i64) -> i64 {
    (day(nanos) + DAYS_FROM_MONDAY).div_euclid(7)
}

/// Months since March of year 0, by Howard Hinnant's `civil_from_days`.
fn month(nanos: i64) -> i64 {
    let days = day(nanos) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    (era * 400 + year) * 12 + month
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DAY_NANOS: i64 = 24 * HOUR_NANOS;

    fn past(wall: i64) -> Past {
        Past {
            wall: Time(wall),
            is_needed: false,
            is_named: false,
        }
    }

    fn kept(policy: KeepPolicy, walls: &[i64]) -> Vec<i64> {
        let mut keeper = Keeper::new(Some(policy));
        let mut walls = walls.to_vec();
        walls.retain(|&wall| keeper.keeps(&past(wall)));
        walls
    }

    #[test]
    fn of_each_period_the_latest_is_kept() {
        let policy = KeepPolicy {
            hourly: 2,
            daily: 2,
            ..KeepPolicy::default()
        };
        let at = |day: i64, hour: i64, minute: i64| {
            day * DAY_NANOS + hour * HOUR_NANOS + minute * HOUR_NANOS / 60
        };
        let walls = [
            at(9, 10, 50),
            at(9, 10, 10),
            at(9, 8, 0),
            at(9, 7, 0),
            at(5, 23, 0),
            at(5, 1, 0),
            at(4, 1, 0),
        ];
        assert_eq!(kept(policy, &walls), [walls[0], walls[2], walls[4]]);
    }

    #[test]
    fn months_and_weeks_begin_where_the_calendar_says() {
        // 2024-02-29 23:59, 2024-03-01 00:00, 2024-12-31, 2025-01-01 (all of them UTC).
        let [feb, march, december, january] =
            [1_709_251_140, 1_709_251_200, 1_735_603_200, 1_735_689_600]
                .map(|s: i64| s * 1_000_000_000);
        assert_eq!(month(march) - month(feb), 1);
        assert_eq!(month(december) - month(march), 9);
        assert_eq!(month(january) - month(december), 1);
        // 2024-03-03 was a Sunday, and 2024-03-04 a Monday.
        let monday = march + 3 * DAY_NANOS;
        assert_eq!(week(monday) - week(monday - 1), 1);
        assert_eq!(week(monday + 7 * DAY_NANOS - 1), week(monday));
    }

    #[test]
    fn a_clock_that_was_years_ahead_costs_one_place() {
        let policy = KeepPolicy {
            daily: 3,
            ..KeepPolicy::default()
        };
        let walls = [9, 40_000, 8, 7].map(|day| day * DAY_NANOS);
        assert_eq!(kept(policy, &walls), walls[..3]);
    }

    fn policies() -> impl Strategy<Value = KeepPolicy> {
        let periods = || prop_oneof![0..6u64, Just(KeepPolicy::ALL)];
        (periods(), periods(), periods(), periods()).prop_map(|(hourly, daily, weekly, monthly)| {
            KeepPolicy {
                hourly,
                daily,
                weekly,
                monthly,
            }
        })
    }

    fn pasts() -> impl Strategy<Value = Vec<Past>> {
        let one = (0..400 * DAY_NANOS, any::<bool>(), any::<bool>());
        proptest::collection::vec(one, 0..200).prop_map(|all| {
            let rarely = |n: i64, is: bool| is && n % 5 == 0;
            let mut all: Vec<_> = all
                .into_iter()
                .map(|(wall, needed, named)| Past {
                    wall: Time(wall),
                    is_needed: rarely(wall, needed),
                    is_named: rarely(wall / 5, named),
                })
                .collect();
            all.sort_unstable_by_key(|past| std::cmp::Reverse(past.wall));
            all
        })
    }

    proptest! {
        #[test]
        fn what_is_needed_or_named_stays_whatever_the_policy(policy in policies(), pasts in pasts()) {
            let mut keeper = Keeper::new(Some(policy));
            for past in &pasts {
                let kept = keeper.keeps(past);
                prop_assert!(kept || !(past.is_needed || past.is_named));
            }
        }

        #[test]
        fn without_a_policy_everything_stays(pasts in pasts()) {
            let mut keeper = Keeper::new(None);
            prop_assert!(pasts.iter().all(|past| keeper.keeps(past)));
        }

        /// By counting all of them, which a keeper does not.
        #[test]
        fn a_rule_keeps_the_latest_of_the_newest_periods_and_no_more(
            policy in policies(), mut pasts in pasts(),
        ) {
            pasts.iter_mut().for_each(|past| *past = self::past(past.wall.0));
            let mut keeper = Keeper::new(Some(policy));
            let kept: Vec<_> = pasts.iter().filter(|past| keeper.keeps(past)).copied().collect();
            let rules = [
                (hour as fn(i64) -> i64, policy.hourly),
                (day, policy.daily),
                (week, policy.weekly),
                (month, policy.monthly),
            ];
            let mut expected = Vec::new();
            for (period_of, most) in rules {
                let mut latest = BTreeMap::new();
                for (at, past) in pasts.iter().enumerate() {
                    latest.entry(std::cmp::Reverse(period_of(past.wall.0))).or_insert(at);
                }
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                expected.extend(latest.into_values().take(most));
            }
            expected.sort_unstable();
            expected.dedup();
            let expected: Vec<_> = expected.into_iter().map(|at| pasts[at]).collect();
            prop_assert_eq!(kept, expected);
        }

        /// Or what was kept in one run would be given up in the next one.
        #[test]
        fn what_was_kept_is_kept_again(policy in policies(), pasts in pasts()) {
            let keep = |pasts: &[Past]| -> Vec<Past> {
                let mut keeper = Keeper::new(Some(policy));
                pasts.iter().filter(|past| keeper.keeps(past)).copied().collect()
            };
            let once = keep(&pasts);
            prop_assert_eq!(keep(&once), once);
        }
    }
}
