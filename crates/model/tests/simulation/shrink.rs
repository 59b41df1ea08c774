//! Makes a sequence that fails shorter, until each of its steps is needed.

use crate::planted::Bug;
use crate::run;
use crate::steps::Plan;
use crate::world::Failure;

pub fn shorten(mut plan: Plan, bug: Bug, mut failure: Failure) -> (Plan, Failure) {
    let mut size = plan.steps.len().div_ceil(2);
    loop {
        let mut shorter = false;
        let mut at = 0;
        while at < plan.steps.len() {
            let mut fewer = plan.clone();
            let end = (at + size).min(fewer.steps.len());
            fewer.steps.drain(at..end);
            match run(&fewer, bug) {
                Err(same) if same.kind() == failure.kind() => {
                    (plan, failure, shorter) = (fewer, same, true);
                }
                _ => at += size,
            }
        }
        if size == 1 && !shorter {
            return (plan, failure);
        }
        size = (size / 2).max(1);
    }
}
