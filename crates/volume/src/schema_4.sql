-- What format 4 of the database added: nodes that a join took the names from, and that programs may
-- know by number still. Whoever would write to one is told that it is stale, and looks again.
CREATE TABLE replaced(ino INTEGER PRIMARY KEY) STRICT;
