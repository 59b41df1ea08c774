//! What the fuzz targets call: each function takes any bytes, and must come back.

#[cfg(feature = "control")]
pub mod control;
pub mod decoders;
