//! Reads the receipts from the first one on, and checks that each contains the hash of the receipt before it.

use svc_core::data::pg::Pool;

use crate::{
    domain::receipt::{self, Broken, Head},
    error::Error,
    store::receipts,
};

/// Receipts that one query reads.
const PAGE: i64 = 500;

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// The newest receipt before the first fault.
    pub head: Head,
    /// The fault of the receipt after `head`; `None` if the whole ledger is intact.
    pub broken: Option<Broken>,
}

/// The ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: Pool,
}

impl Ledger {
    pub const fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Checks the whole ledger.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read.
    pub async fn check(&self) -> Result<Checked, Error> {
        let mut head = Head::EMPTY;
        loop {
            let page = {
                let mut db = self.pool.acquire().await?;
                receipts::page(&mut db, head.seq, PAGE).await?
            };
            if page.is_empty() {
                return Ok(Checked { head, broken: None });
            }
            for receipt in &page {
                match receipt::verify(head, [receipt]) {
                    Ok(next) => head = next,
                    Err(broken) => {
                        tracing::error!(%broken, "erasure ledger is broken");
                        return Ok(Checked { head, broken: Some(broken) });
                    }
                }
            }
        }
    }
}
