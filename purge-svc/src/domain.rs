//! What an erasure is, without databases, wires or clocks: the job's machine, its retry schedule, the receipt's
//! chain, who is erased, and who must have taken part.

pub mod custodian;
pub mod external;
pub mod hold;
pub mod job;
pub mod receipt;
pub mod schedule;
pub mod subject;
