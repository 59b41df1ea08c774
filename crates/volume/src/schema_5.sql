-- What format 5 of the database added: the names of conflicts, which have ` (conflict, ` in them.
CREATE INDEX dentries_conflict ON dentries(parent, name)
    WHERE instr(name, x'2028636f6e666c6963742c20') > 0;
