//! Records beside raw and derived rows: positions, gaps, rejections, and requests of other commands.

pub(in crate::store) mod gaps;
pub(in crate::store) mod positions;
pub(in crate::store) mod rejections;
pub(in crate::store) mod requests;
