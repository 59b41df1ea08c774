//! The promises of the trees, on trees of numbered nodes and of random keys.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use larder_model::NodeId;
use proptest::prelude::*;

use super::page::Page;
use super::*;
use crate::testing::{Pages, keys, plain_node};
use crate::{FormatError, encode_node};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Result<T> = std::result::Result<T, FormatError>;

const KIND: TreeKind = TreeKind::Names;

fn puts(map: &Map) -> impl Iterator<Item = Result<Change>> + '_ {
    map.iter().map(|(key, value)| {
        Ok(Change {
            key: key.clone(),
            value: Some(value.clone()),
        })
    })
}

fn build(map: &Map, pages: &mut Pages) -> Tree {
    Tree::build(&keys(), KIND, puts(map), pages).unwrap()
}

fn read(tree: &Tree, pages: &mut Pages) -> Map {
    tree.scan(&[], |id: &ChunkId| pages.page(id))
        .collect::<Result<_>>()
        .unwrap()
}

/// All pages that a tree reaches.
fn reached(tree: &Tree, pages: &Pages) -> Vec<ChunkId> {
    let root = Page::decode(tree.kind, &pages.map[&tree.root]).unwrap();
    assert!(root.level == 0 || root.len() > 1, "a root with one child");
    let (mut todo, mut all) = (vec![tree.root], Vec::new());
    while let Some(id) = todo.pop() {
        todo.extend(references(&pages.map[&id]).unwrap());
        all.push(id);
    }
    all.sort();
    all
}

/// Applies changes to the tree and to the map that it must equal.
fn apply(
    tree: &Tree,
    map: &mut Map,
    changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pages: &mut Pages,
) -> Tree {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), value.clone()),
            None => map.remove(key),
        };
    }
    let changes = changes.iter().map(|(key, value)| {
        Ok(Change {
            key: key.clone(),
            value: value.clone(),
        })
    });
    pages.unread = Some(Default::default());
    let changed = tree.apply(&keys(), changes, pages).unwrap();
    pages.unread = None;
    changed
}

/// The values of a key in two trees.
type Pair = [Option<Vec<u8>>; 2];

fn differences(old: &Tree, new: &Tree, pages: &mut Pages) -> BTreeMap<Vec<u8>, Pair> {
    let mut found: BTreeMap<Vec<u8>, Pair> = BTreeMap::new();
    diff(old, new, pages, |d| {
        let values = [d.old, d.new].map(|value| value.map(<[u8]>::to_vec));
        assert_ne!(values[0], values[1]);
        assert!(
            found
                .last_key_value()
                .is_none_or(|(last, _)| last.as_slice() < d.key)
        );
        found.insert(d.key.to_vec(), values);
        Ok(())
    })
    .unwrap();
    found
}

fn expected_differences(old: &Map, new: &Map) -> BTreeMap<Vec<u8>, Pair> {
    let all = old.keys().chain(new.keys());
    all.map(|key| (key.clone(), [old.get(key).cloned(), new.get(key).cloned()]))
        .filter(|(_, [old, new])| old != new)
        .collect()
}

fn numbered(count: u32) -> Map {
    let entry = |n: u32| (n.to_be_bytes().to_vec(), n.to_le_bytes().to_vec());
    (0..count).map(|n| entry(3 * n)).collect()
}

/// Keys of a small range, so that changes meet; now and then a value with its own page.
fn any_changes() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
    let value = prop_oneof![
        8 => any::<[u8; 2]>().prop_map(|v| Some(v.to_vec())),
        1 => any::<u8>().prop_map(|v| Some(vec![v; MAX_INLINE_BYTES + 1])),
        6 => Just(None),
    ];
    let key = (0u32..3000).prop_map(|n| n.to_be_bytes().to_vec());
    proptest::collection::btree_map(key, value, 0..200)
}

/// Keys of which many end pages of high levels, so that few of them make a deep tree.
fn ending_keys() -> &'static [Vec<u8>] {
    static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let boundaries = Boundaries::new(&keys());
        let mut wanted = [10, 10, 10, 10];
        let level = |key: &[u8]| (0..3).take_while(|&l| boundaries.ends_page(key, l)).count();
        let all = (0..3_000_000u32).map(|n| n.to_be_bytes().to_vec());
        all.filter(|key| {
            let wanted = &mut wanted[level(key)];
            *wanted -= i32::from(*wanted > 0);
            *wanted > 0
        })
        .collect()
    });
    &KEYS
}

/// Applies each step and holds that the tree is the one that is built from the map at once,
/// that its pages are those put and not dropped, and that the difference is the step.
fn apply_and_check(
    tree: &Tree,
    map: &mut Map,
    step: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pages: &mut Pages,
) -> Tree {
    let (before, mut kept) = (map.clone(), pages.clone());
    let changed = apply(tree, map, step, pages);
    assert_eq!(build(map, &mut Pages::default()), changed);
    assert_eq!(
        reached(&changed, pages),
        pages.map.keys().copied().collect::<Vec<_>>()
    );
    assert_eq!(read(&changed, pages), *map);
    kept.map.append(&mut pages.map.clone());
    assert_eq!(
        differences(tree, &changed, &mut kept),
        expected_differences(&before, map)
    );
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn deep_trees_grow_and_shrink_to_what_is_built_at_once(
        steps in proptest::collection::vec(proptest::collection::btree_map(
            (0usize..36).prop_map(|n| ending_keys()[n % ending_keys().len()].clone()),
            prop_oneof![Just(None), any::<[u8; 1]>().prop_map(|v| Some(v.to_vec()))],
            0..20,
        ), 1..10)
    ) {
        let (mut pages, mut map) = (Pages::default(), Map::new());
        let mut tree = build(&map, &mut pages);
        for step in &steps {
            tree = apply_and_check(&tree, &mut map, step, &mut pages);
        }
    }

    #[test]
    fn equal_maps_have_equal_roots_whatever_changes_led_to_them(
        start in 0u32..900, steps in proptest::collection::vec(any_changes(), 1..6)
    ) {
        let (mut pages, mut map) = (Pages::default(), numbered(start));
        let mut tree = build(&map, &mut pages);
        for step in &steps {
            tree = apply_and_check(&tree, &mut map, step, &mut pages);
        }
        // And back to nothing.
        let all = map.keys().map(|key| (key.clone(), None)).collect();
        tree = apply(&tree, &mut map, &all, &mut pages);
        prop_assert_eq!(build(&Map::new(), &mut Pages::default()), tree);
        prop_assert_eq!(pages.map.len(), 1);
    }

    #[test]
    fn every_key_is_found_and_no_other(map in proptest::collection::btree_map(
        proptest::collection::vec(any::<u8>(), 0..6), any::<Vec<u8>>(), 0..400), other: Vec<u8>
    ) {
        let mut pages = Pages::default();
        let tree = build(&map, &mut pages);
        for (key, value) in &map {
            prop_assert_eq!(tree.get(key, &mut pages).unwrap(), Some(value.clone()));
        }
        prop_assert_eq!(tree.get(&other, &mut pages).unwrap(), map.get(&other).cloned());
        let from: Map = tree
            .scan(&other, |id: &ChunkId| pages.page(id))
            .collect::<Result<_>>()
            .unwrap();
        prop_assert_eq!(from, map.range(other..).map(|(k, v)| (k.clone(), v.clone())).collect());
    }

    #[test]
    fn a_finder_finds_every_key_and_no_other_in_any_order(
        sought in proptest::collection::vec(0u32..3000, 1..200)
    ) {
        let (map, mut pages) = (numbered(900), Pages::default());
        let tree = build(&map, &mut pages);
        let mut finder = tree.finder();
        for key in sought.iter().map(|n| n.to_be_bytes()) {
            let found = finder.get(&key, &mut pages).unwrap();
            prop_assert_eq!(found.as_ref(), map.get(key.as_slice()));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_fail_otherwise_than_by_an_error(
        mut bytes: Vec<u8>, at: prop::sample::Index, flip: u8
    ) {
        let mut pages = Pages::default();
        let tree = build(&numbered(300), &mut pages);
        // Bytes out of the blue, and a page with one byte changed.
        bytes.splice(0..0, KIND.page().front());
        let ids: Vec<_> = pages.map.keys().copied().collect();
        let id = *at.get(&ids);
        let mut altered = pages.map[&id].clone();
        let byte = at.index(altered.len());
        altered[byte] ^= flip;
        for page in [bytes, altered] {
            let mut pages = pages.clone();
            pages.map.insert(id, page.clone());
            let _ = references(&page);
            let mut last = None;
            for entry in tree.scan(&[], |id: &ChunkId| pages.page(id)) {
                let Ok((key, _)) = entry else { break };
                prop_assert!(last < Some(key.clone()));
                last = Some(key);
            }
            let change = Change { key: vec![0, 0, 1, 1], value: Some(vec![1]) };
            let _ = tree.apply(&keys(), [Ok(change)], &mut pages.clone());
        }
    }
}

#[test]
fn a_page_before_the_only_page_of_a_tree_does_not_replace_it() {
    // Seen: the only leaf ended at a boundary, an entry before it made a page of its own, and
    // the old root, which had not changed, was left out of the new tree.
    let boundaries = Boundaries::new(&keys());
    let ends = |key: &Vec<u8>| boundaries.ends_page(key, 0);
    let ending: Vec<_> = (0..1000u32)
        .map(|n| n.to_be_bytes().to_vec())
        .filter(ends)
        .collect();
    let (mut pages, mut map) = (Pages::default(), Map::new());
    let mut tree = build(&map, &mut pages);
    for key in [&ending[1], &ending[0]] {
        let step = BTreeMap::from([(key.clone(), Some(vec![1]))]);
        tree = apply_and_check(&tree, &mut map, &step, &mut pages);
    }
}

#[test]
fn a_change_of_few_keys_makes_few_pages() {
    let (mut pages, map) = (Pages::default(), numbered(100_000));
    let tree = build(&map, &mut pages);
    let total = pages.put;
    assert!((1000..2500).contains(&total), "{total} pages");
    for count in [1usize, 10, 100] {
        let changes = (0..count as u32)
            .map(|n| (n * 2_999 + 1).to_be_bytes().to_vec())
            .map(|key| (key, Some(b"changed".to_vec())))
            .collect();
        let mut counted = Pages {
            map: pages.map.clone(),
            ..Pages::default()
        };
        apply(&tree, &mut map.clone(), &changes, &mut counted);
        // Three levels; a new key now and then splits a page.
        assert!(
            counted.put <= 4 * count + 2,
            "{} pages for {count} keys",
            counted.put
        );
        assert!(
            counted.reads <= 12 * count + 6,
            "{} reads for {count} keys",
            counted.reads
        );
    }
}

#[test]
fn a_difference_of_few_keys_reads_few_pages() {
    let (mut pages, mut map) = (Pages::default(), numbered(100_000));
    let old = build(&map, &mut pages);
    let mut kept = pages.clone();
    let changes = (0..10u32)
        .map(|n| ((n * 29_999) / 3 * 3).to_be_bytes().to_vec())
        .enumerate()
        .map(|(n, key)| (key, (n % 2 == 0).then(|| b"changed".to_vec())))
        .collect();
    let new = apply(&old, &mut map, &changes, &mut pages);
    kept.map.append(&mut pages.map);
    kept.reads = 0;
    assert_eq!(differences(&old, &new, &mut kept).len(), 10);
    assert!(kept.reads <= 100, "{} reads", kept.reads);
}

#[test]
fn a_directory_is_listed_without_reading_the_rest() {
    let mut map = Map::new();
    for parent in 0..200u8 {
        for n in 0..500u32 {
            let key = [&[parent; 16], format!("name {n}").as_bytes()].concat();
            map.insert(key, vec![parent]);
        }
    }
    let mut pages = Pages::default();
    let tree = build(&map, &mut pages);
    pages.reads = 0;
    let listed: Map = tree
        .scan_prefix(&[7; 16], |id: &ChunkId| pages.page(id))
        .collect::<Result<_>>()
        .unwrap();
    assert_eq!(listed.len(), 500);
    assert!(listed.values().all(|value| value == &[7]));
    assert!(pages.reads < 30, "{} reads", pages.reads);
}

#[test]
fn a_million_nodes_make_a_tree_of_three_levels() {
    // A tenth of that here: the release run of the example `build_tree` has the million.
    let mut pages = Pages::default();
    let changes = (0..100_000u64).map(|n| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n * 1000).to_be_bytes());
        Ok(Change {
            key: node_key(&NodeId(id)),
            value: Some(encode_node(&plain_node(n))?),
        })
    });
    let tree = Tree::build(&keys(), TreeKind::Nodes, changes, &mut pages).unwrap();
    let root = pages.map[&tree.root].clone();
    assert_eq!(root[2], 2);
    assert_eq!(
        tree.scan(&[], |id: &ChunkId| pages.page(id)).count(),
        100_000
    );
}

#[test]
fn changes_out_of_order_are_refused() {
    let mut pages = Pages::default();
    let tree = build(&numbered(10), &mut pages);
    for keys_out_of_order in [[b"b", b"a"], [b"a", b"a"]] {
        let changes = keys_out_of_order.map(|key| {
            Ok(Change {
                key: key.to_vec(),
                value: None,
            })
        });
        assert!(tree.apply(&keys(), changes, &mut pages.clone()).is_err());
    }
}

#[test]
fn what_is_too_long_is_not_written() {
    for (key, value) in [(MAX_KEY_BYTES + 1, 1), (1, crate::MAX_NODE_BYTES + 1)] {
        let change = Change {
            key: vec![0; key],
            value: Some(vec![0; value]),
        };
        let built = Tree::build(&keys(), KIND, [Ok(change)], &mut Pages::default());
        assert!(matches!(built, Err(FormatError::TooLarge { .. })));
    }
    let largest = Map::from([(vec![0; MAX_KEY_BYTES], vec![0; crate::MAX_NODE_BYTES])]);
    let mut pages = Pages::default();
    let tree = build(&largest, &mut pages);
    assert_eq!(read(&tree, &mut pages), largest);
}

#[test]
fn a_page_of_a_newer_version_or_the_other_tree_is_refused() {
    let mut pages = Pages::default();
    let tree = build(&numbered(10), &mut pages);
    let other = Tree {
        kind: TreeKind::Nodes,
        ..tree
    };
    assert!(matches!(
        other.get(b"x", &mut pages),
        Err(FormatError::Damaged { .. })
    ));
    pages.map.get_mut(&tree.root).unwrap()[1] += 1;
    assert!(matches!(
        tree.get(b"x", &mut pages),
        Err(FormatError::Newer { .. })
    ));
}

#[test]
fn any_cut_of_a_page_is_refused() {
    let mut pages = Pages::default();
    let tree = build(&numbered(500), &mut pages);
    for id in reached(&tree, &pages) {
        let page = &pages.map[&id];
        for at in 0..page.len() {
            assert!(references(&page[..at]).is_err());
        }
        assert!(references(&[page.as_slice(), &[0]].concat()).is_err());
    }
}

#[test]
fn a_page_in_anothers_place_is_refused() {
    let mut pages = Pages::default();
    let tree = build(&numbered(500), &mut pages);
    let children = references(&pages.map[&tree.root]).unwrap();
    let [first, second, ..] = children[..] else {
        panic!()
    };
    let page = pages.map[&second].clone();
    pages.map.insert(first, page);
    assert!(
        tree.scan(&[], |id: &ChunkId| pages.page(id))
            .any(|entry| entry.is_err())
    );
    // A root that is its own child would be a circle.
    let root = pages.map[&tree.root].clone();
    pages.map.insert(first, root);
    assert!(
        tree.scan(&[], |id: &ChunkId| pages.page(id))
            .any(|entry| entry.is_err())
    );
}
