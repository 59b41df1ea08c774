-- The database of one replica: all metadata of the volume, and what is here of its content.
-- docs/format.md describes it; `meta.format` is its version.

CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;

-- A node that is alive, or unlinked and still open (then it is in `orphans`).
CREATE TABLE nodes(
    ino     INTEGER PRIMARY KEY,        -- local, persistent, never reused; 1 is the root
    id      BLOB NOT NULL UNIQUE,       -- NodeId
    kind    INTEGER NOT NULL,           -- format::kind_code: 1 file 2 directory 3 symlink 4 fifo 5 socket 6 char 7 block
    mode    INTEGER NOT NULL,           -- 0o7777 bits
    uid     INTEGER NOT NULL,
    gid     INTEGER NOT NULL,
    rdev    INTEGER NOT NULL,
    nlink   INTEGER NOT NULL,
    size    INTEGER NOT NULL,           -- bytes; of a symlink the target's length
    alloc   INTEGER NOT NULL,           -- bytes that a file really takes (holes do not), as last seen
    mtime   INTEGER NOT NULL,           -- ns since 1970
    ctime   INTEGER NOT NULL,
    btime   INTEGER NOT NULL,
    atime   INTEGER NOT NULL,           -- local only, never committed
    parent  INTEGER,                    -- of directories: the directory they are in
    target  BLOB,                       -- of symlinks
    content BLOB,                       -- of files: encoded Content whose chunks are all acknowledged by the store; NULL: never stored
    safe    INTEGER NOT NULL DEFAULT 0, -- 1: an acknowledged head reaches `content`
    pin     INTEGER NOT NULL DEFAULT 0, -- 1: pinned by hand; a directory's pin holds for all below it
    xattrs  INTEGER NOT NULL DEFAULT 0  -- how many rows `xattrs` has for it
) STRICT;

CREATE TABLE dentries(
    parent INTEGER NOT NULL,
    name   BLOB NOT NULL,
    child  INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    link   INTEGER NOT NULL,            -- LinkId, as i64 bits
    PRIMARY KEY(parent, name)
) WITHOUT ROWID, STRICT;
CREATE INDEX dentries_child ON dentries(child);

CREATE TABLE xattrs(
    ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY(ino, name)
) WITHOUT ROWID, STRICT;

-- A row exists exactly while the file has a cache file. No row and `content` NULL: an empty
-- or all-hole file is never in that state, each new file gets its cache file at once.
CREATE TABLE cached(
    ino        INTEGER PRIMARY KEY,
    whole      INTEGER NOT NULL,        -- 1: every byte of the file is in the cache file; 0: see `extents`
    dirty      INTEGER NOT NULL,        -- 1: the cache file holds bytes that `nodes.content` does not
    generation INTEGER NOT NULL,        -- grows with each clean -> dirty and each settle
    since      INTEGER NOT NULL,        -- ns: dirty since
    bytes      INTEGER NOT NULL,        -- allocated bytes as last counted
    epoch      INTEGER NOT NULL,        -- sync epoch in which fetched bytes last came in (see recover.rs)
    used       INTEGER NOT NULL         -- seconds since 1970 of the last use, coarse
) STRICT;

-- The working map of a file that is partly here, or that was edited while partly here.
-- Whole or absent files have no rows. Rows tile [0, size) without gap or overlap.
CREATE TABLE extents(
    ino     INTEGER NOT NULL,
    off     INTEGER NOT NULL,
    len     INTEGER NOT NULL,
    chunk   BLOB,                       -- ChunkId; NULL: local bytes, only in the cache file; X'' : a hole
    present INTEGER NOT NULL,           -- 1: the bytes are in the cache file (local and hole rows: always 1)
    PRIMARY KEY(ino, off)
) WITHOUT ROWID, STRICT;

-- Where stored chunks lie. Only chunks in packs that the store acknowledged.
CREATE TABLE chunks(
    id   BLOB PRIMARY KEY, pack INTEGER NOT NULL, entry INTEGER NOT NULL,
    off INTEGER NOT NULL, len INTEGER NOT NULL, raw_len INTEGER NOT NULL, codec INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE packs(
    pack INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL,  -- 1 data, 2 tree
    size INTEGER NOT NULL, epoch INTEGER NOT NULL, salt BLOB NOT NULL,
    indexed INTEGER NOT NULL DEFAULT 0,  -- 1: an acknowledged index object lists it
    condemned INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX packs_unindexed ON packs(pack) WHERE indexed = 0;
-- The index objects that this replica wrote and that are still on the store.
CREATE TABLE indexes(
    id BLOB PRIMARY KEY,                 -- IndexId
    packs INTEGER NOT NULL,              -- how many packs it lists
    replaced INTEGER                     -- the commit after which it may go; NULL: it is in use
) WITHOUT ROWID, STRICT;

-- Pages of the latest committed tree, so that the next commit needs no store; and all commits
-- that were made or read here.
CREATE TABLE pages(id BLOB PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID, STRICT;

-- Nodes that differ from the latest commit, and nodes that it has and that are gone.
-- A negative `seq`: held back, as a rule keeps it local or none of its content is stored yet.
CREATE TABLE changed(ino INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE INDEX changed_seq ON changed(seq);
CREATE TABLE tombstones(id BLOB PRIMARY KEY, time INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE commits(
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, time INTEGER NOT NULL, message TEXT,
    head BLOB,                           -- the sealed head object, durable before it leaves
    acked INTEGER NOT NULL               -- 1: the store acknowledged the head
) STRICT;

CREATE TABLE orphans(ino INTEGER PRIMARY KEY) STRICT;
-- Files whose unsynced state after an unclean boot is kept beside their previous version.
CREATE TABLE recovered(ino INTEGER PRIMARY KEY, time INTEGER NOT NULL, previous BLOB) STRICT;
