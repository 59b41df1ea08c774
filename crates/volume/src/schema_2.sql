-- What format 2 of the database added: what a store took without saying that it lies on its
-- medium. A store that syncs leaves both tables empty.

-- Objects that are looked at again before anything relies on them; a row goes once its object
-- was found twice.
CREATE TABLE unproven(
    seq   INTEGER PRIMARY KEY,           -- in the order in which the store took them
    name  TEXT NOT NULL UNIQUE,          -- the object's key
    size  INTEGER NOT NULL,
    looks INTEGER NOT NULL DEFAULT 0,    -- how often it was found since it was put
    bytes BLOB                           -- to put it again if it is lost; NULL: a data pack, all of whose content is here
) STRICT;
-- Files that an acknowledged head reaches, and that are safe once no object up to `seq` is
-- unproven.
CREATE TABLE awaiting(
    ino INTEGER PRIMARY KEY, generation INTEGER NOT NULL, seq INTEGER NOT NULL
) STRICT;
