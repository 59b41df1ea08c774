-- What format 3 of the database added: the pages of long lists, as far as they were written or
-- read here. The store has each of them, so any row may go at any time.
CREATE TABLE lists(
    seq   INTEGER PRIMARY KEY,           -- in the order in which they came: the oldest go first
    id    BLOB NOT NULL UNIQUE,          -- ChunkId
    bytes BLOB NOT NULL
) STRICT;
