//! Commands of the binary that need more than a few lines.

pub mod pixels;
pub mod probe;
