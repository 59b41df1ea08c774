-- What format 5 of the database added: what marks say (docs/decisions/0016), and the names of
-- conflicts, which have ` (conflict, ` in them.

-- Packs that a replica condemned, or deleted. Nothing new rests on them.
CREATE TABLE doomed(
    pack  BLOB NOT NULL,                 -- PackId
    by    BLOB NOT NULL,                 -- ReplicaId
    gone  INTEGER NOT NULL,              -- 0 condemned, 1 deleted, 2 deleted and known to all
    since INTEGER NOT NULL,              -- by this replica: the number of its mark that said so first
    time  INTEGER NOT NULL,              -- ns since 1970: when that was noted here
    PRIMARY KEY(pack, by)
) WITHOUT ROWID, STRICT;
-- What was seen of each replica on the store.
CREATE TABLE members(
    replica BLOB PRIMARY KEY,
    head  INTEGER NOT NULL,              -- the number of its newest head
    mark  INTEGER NOT NULL,              -- the number of its newest mark that was taken notice of
    word  INTEGER NOT NULL DEFAULT 0,    -- up to which mark all that follows from it was done here
    said  BLOB,                          -- what that mark says
    heard INTEGER NOT NULL               -- ns since 1970: when something new was last seen of it
) WITHOUT ROWID, STRICT;
-- Commits that this replica gave up, as far as somebody may still name them.
CREATE TABLE given_up(id BLOB PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID, STRICT;

CREATE INDEX dentries_conflict ON dentries(parent, name)
    WHERE instr(name, x'2028636f6e666c6963742c20') > 0;
