//! The rooms and their arrows.

use super::metadata::Metadata;

/// A crate of the workspace, and what it may name.
struct Room {
    name: &'static str,
    /// Rooms that it may name. Its tests may name any room further up in the list, and
    /// itself, to switch a feature for tests on.
    rooms: &'static [&'static str],
    /// `Some`: a pure room, which may name these crates from outside and no others. None
    /// of them does I/O, reads a clock or starts threads; one more is a decision.
    outside: Option<&'static [&'static str]>,
}

const MODEL: &str = "larder-model";
const FORMAT: &str = "larder-format";
const PLAN: &str = "larder-plan";
const STORE: &str = "larder-store";
const VOLUME: &str = "larder-volume";
const MOUNT: &str = "larder-mount";
const PEER: &str = "larder-peer";
const DAEMON: &str = "larder-daemon";

/// Bottom up: a room stands below those that follow it.
const ROOMS: &[Room] = &[
    Room {
        name: MODEL,
        rooms: &[],
        outside: Some(&["thiserror"]),
    },
    Room {
        name: FORMAT,
        rooms: &[MODEL],
        outside: Some(&[
            "argon2",
            "blake3",
            "fastcdc",
            "prost",
            "ring",
            "thiserror",
            "zeroize",
            "zstd",
        ]),
    },
    Room {
        name: PLAN,
        rooms: &[MODEL],
        outside: Some(&[]),
    },
    Room {
        name: STORE,
        rooms: &[],
        outside: None,
    },
    Room {
        name: VOLUME,
        rooms: &[MODEL, FORMAT, PLAN, STORE],
        outside: None,
    },
    Room {
        name: MOUNT,
        rooms: &[MODEL, VOLUME],
        outside: None,
    },
    Room {
        name: PEER,
        rooms: &[MODEL, FORMAT, PLAN, VOLUME],
        outside: None,
    },
    Room {
        name: DAEMON,
        rooms: &[MODEL, FORMAT, PLAN, STORE, VOLUME, MOUNT, PEER],
        outside: None,
    },
    Room {
        name: "larder",
        rooms: &[DAEMON],
        outside: None,
    },
    Room {
        name: "larder-sim",
        rooms: &[MODEL, FORMAT, PLAN, STORE, VOLUME],
        outside: None,
    },
    Room {
        name: "xtask",
        rooms: &[],
        outside: None,
    },
];

/// Every arrow that goes up or sideways, and every crate that a pure room must not name.
pub fn broken(metadata: &Metadata) -> Vec<String> {
    let by_id = metadata.by_id();
    let is_member = |id: &str| metadata.workspace_members.iter().any(|member| member == id);
    let mut findings = Vec::new();
    for node in metadata
        .resolve
        .nodes
        .iter()
        .filter(|node| is_member(&node.id))
    {
        let Some(package) = by_id.get(node.id.as_str()) else {
            continue;
        };
        let Some(at) = ROOMS.iter().position(|room| room.name == package.name) else {
            findings.push(format!(
                "{} is no room of the house. Add it to ROOMS in xtask/src/rules/arrows.rs and to \
                 docs/architecture.md.",
                package.name
            ));
            continue;
        };
        for dep in &node.deps {
            let Some(named) = by_id.get(dep.pkg.as_str()) else {
                continue;
            };
            let allowed = match (is_member(&dep.pkg), dep.is_dev_only()) {
                (true, true) => ROOMS[..=at].iter().any(|room| room.name == named.name),
                (true, false) => ROOMS[at].rooms.contains(&named.name.as_str()),
                (false, true) => true,
                (false, false) => ROOMS[at]
                    .outside
                    .is_none_or(|list| list.contains(&named.name.as_str())),
            };
            if !allowed {
                findings.push(format!("{} must not name {}.", package.name, named.name));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::metadata::planted::metadata;
    use super::*;

    fn broken_by(from: &str, to: &str, kind: Option<&str>) -> bool {
        let crates = [from, to].map(|name| (name, "1.0.0", "MIT"));
        !broken(&metadata(&crates, &[(from, to, kind)])).is_empty()
    }

    #[test]
    fn an_arrow_that_goes_up_is_found() {
        assert!(broken_by("larder-store", "larder-volume", None));
        assert!(broken_by("larder-model", "larder-format", None));
        assert!(broken_by("larder-model", "larder-plan", Some("dev")));
        assert!(!broken_by("larder-volume", "larder-store", None));
        assert!(!broken_by("larder-store", "larder-store", Some("dev")));
    }

    #[test]
    fn the_commands_reach_a_volume_through_the_daemon_only() {
        assert!(broken_by("larder", "larder-volume", None));
        assert!(!broken_by("larder", "larder-volume", Some("dev")));
    }

    #[test]
    fn io_in_a_pure_room_is_found() {
        for room in ["larder-model", "larder-format", "larder-plan"] {
            for io in ["tokio", "rusqlite", "libc", "getrandom"] {
                assert!(broken_by(room, io, None), "{room} -> {io}");
                assert!(broken_by(room, io, Some("build")), "{room} -> {io}");
            }
        }
        assert!(!broken_by("larder-plan", "proptest", Some("dev")));
        assert!(!broken_by("larder-store", "tokio", None));
    }

    #[test]
    fn a_room_that_nobody_knows_is_found() {
        let lone = metadata(&[("larder-attic", "1.0.0", "MIT")], &[]);
        assert_eq!(broken(&lone).len(), 1);
    }
}
