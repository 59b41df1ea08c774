//! Placeholder of the room; filled by the commits that follow.
