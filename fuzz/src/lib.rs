//! What fuzz targets share: segments in a form that a fuzzer can work on, and what must hold for whatever is
//! read from one.

pub mod built;
pub mod folded;
pub mod image;
