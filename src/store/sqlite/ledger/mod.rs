//! What is known beside the rows: positions, gaps, rejections, and what other commands ask for.

pub(in crate::store) mod gaps;
pub(in crate::store) mod positions;
pub(in crate::store) mod rejections;
pub(in crate::store) mod requests;
