//! The rules of erasures, without I/O: the job's state machine, its retry schedule, the chain of receipts,
//! and the custodians that take part.

pub mod custodian;
pub mod dead_letter;
pub mod external;
pub mod hold;
pub mod job;
pub mod receipt;
pub mod schedule;
pub mod trigger;
