//! The part of `cargo metadata` that the rules need.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::run;

/// All crates that cargo would build for Linux, and who names whom.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
    pub resolve: Resolve,
    pub workspace_members: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    pub license: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Resolve {
    pub nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    pub id: String,
    pub deps: Vec<Dep>,
}

#[derive(Debug, Deserialize)]
pub struct Dep {
    pub pkg: String,
    pub dep_kinds: Vec<DepKind>,
}

#[derive(Debug, Deserialize)]
pub struct DepKind {
    /// Absent for what the crate itself is built from, else `dev` or `build`.
    pub kind: Option<String>,
}

impl Dep {
    /// Whether only the tests name it.
    pub fn is_dev_only(&self) -> bool {
        self.dep_kinds
            .iter()
            .all(|dep| dep.kind.as_deref() == Some("dev"))
    }
}

impl Metadata {
    /// Asks cargo.
    pub fn read() -> Result<Self> {
        let json = run::output(run::cargo().args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ]))?;
        serde_json::from_str(&json).context("cargo metadata is not what was expected")
    }

    /// Packages by id.
    pub fn by_id(&self) -> BTreeMap<&str, &Package> {
        self.packages
            .iter()
            .map(|package| (package.id.as_str(), package))
            .collect()
    }

    /// Ids of all that is built into the workspace's crates themselves: no tests' crates.
    pub fn built_in(&self) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = self.workspace_members.iter().map(String::as_str).collect();
        while let Some(id) = next.pop() {
            if seen.insert(id) {
                let deps = nodes.get(id).into_iter().flat_map(|node| &node.deps);
                next.extend(
                    deps.filter(|dep| !dep.is_dev_only())
                        .map(|dep| dep.pkg.as_str()),
                );
            }
        }
        seen
    }
}

/// Small metadata for the rules' own tests.
#[cfg(test)]
pub mod planted {
    use super::*;

    /// Crates as (name, version, licence); arrows as (from, to, kind), the first crate of
    /// each name is meant. Crates whose names start with `larder` are members.
    pub fn metadata(
        crates: &[(&str, &str, &str)],
        arrows: &[(&str, &str, Option<&str>)],
    ) -> Metadata {
        let packages = crates.iter().map(|(name, version, license)| Package {
            id: format!("{name}@{version}"),
            name: (*name).into(),
            version: (*version).into(),
            license: (!license.is_empty()).then(|| (*license).into()),
        });
        let packages: Vec<Package> = packages.collect();
        let id = |name: &str| {
            packages
                .iter()
                .find(|package| package.name == name)
                .unwrap()
                .id
                .clone()
        };
        let nodes = packages.iter().map(|package| Node {
            id: package.id.clone(),
            deps: arrows
                .iter()
                .filter(|(from, _, _)| *from == package.name)
                .map(|(_, to, kind)| Dep {
                    pkg: id(to),
                    dep_kinds: vec![DepKind {
                        kind: kind.map(str::to_owned),
                    }],
                })
                .collect(),
        });
        let nodes = nodes.collect();
        let members = packages
            .iter()
            .filter(|package| package.name.starts_with("larder"));
        let workspace_members = members.map(|package| package.id.clone()).collect();
        Metadata {
            packages,
            resolve: Resolve { nodes },
            workspace_members,
        }
    }
}
