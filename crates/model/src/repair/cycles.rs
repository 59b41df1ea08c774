//! Circles of directories: two replicas each moved one into the other.

use std::collections::BTreeSet;

use super::places::Adrift;
use super::view::View;
use crate::{Hlc, Kind, LinkId, NodeId, Tree};

/// Finds the circles that the directories in `dirty` are in or lead to. Of each, the directory
/// that was moved last is adrift. Circles have no directory in common, so their order does not
/// matter.
pub(super) fn open<T: Tree>(
    view: &mut View<'_, T>,
    dirty: &BTreeSet<NodeId>,
    adrift: &mut Adrift,
) -> Result<(), T::Error> {
    let mut rooted = BTreeSet::from([NodeId::ROOT]);
    for &id in dirty {
        let mut way: Vec<Step> = Vec::new();
        let mut at = id;
        while !rooted.contains(&at) {
            if let Some(begin) = way.iter().position(|step| step.directory == at) {
                let circle = way.iter().skip(begin);
                let latest = circle.max_by_key(|step| (step.moved, step.directory));
                adrift.extend(latest.map(|step| (step.directory, step.link)));
                break;
            }
            let Some((step, parent)) = step(view, at)? else {
                break;
            };
            let is_adrift = adrift.contains(&(step.directory, step.link));
            way.push(step);
            if is_adrift {
                break;
            }
            at = parent;
        }
        rooted.extend(way.iter().map(|step| step.directory));
    }
    Ok(())
}

struct Step {
    directory: NodeId,
    link: LinkId,
    moved: Hlc,
}

/// From a live directory to the one that it is in.
fn step<T: Tree>(view: &mut View<'_, T>, at: NodeId) -> Result<Option<(Step, NodeId)>, T::Error> {
    let node = view.node(&at)?;
    let Some(node) = node.filter(|node| node.kind == Kind::Directory && node.is_alive()) else {
        return Ok(None);
    };
    let link = node.present_links().next();
    Ok(link.map(|(link, place)| {
        let step = Step {
            directory: at,
            link,
            moved: place.time,
        };
        (step, place.place.parent)
    }))
}
