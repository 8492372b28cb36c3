//! Reads from the schema which class each table and column has for erasures.
//!
//! The comment on a table or column reads `custody=<class>; <text>`. Every service tests that no table or
//! column of its live schema lacks a class ([`unannotated`]). The classes of Redis key families are in the
//! code ([`crate::data::redis::KeyFamily`]).

use sqlx::PgConnection;

use crate::data::pg;

/// Class of a table, column or key family for erasures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Belongs to one session and is erased with it.
    Session,
    /// Belongs to one account and is erased with it.
    Account,
    /// Survives an erasure and holds no personal data.
    Ledger,
    /// Belongs to no subject.
    System,
}

impl Class {
    /// Returns the class with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "session" => Some(Self::Session),
            "account" => Some(Self::Account),
            "ledger" => Some(Self::Ledger),
            "system" => Some(Self::System),
            _ => None,
        }
    }
}

/// A table or one of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub table: String,
    /// Name of the column; `None` for the table itself.
    pub column: Option<String>,
    /// Class for erasures; `None` if the comment names none.
    pub class: Option<Class>,
    /// Description from the comment.
    pub text: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.column {
            Some(column) => write!(f, "{}.{column}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

/// Reads every table and column of the role's schema. Partitions of a table are left out.
///
/// # Errors
/// [`pg::Error`] if the catalogue cannot be read.
pub async fn read(connection: &mut PgConnection) -> Result<Vec<Place>, pg::Error> {
    let rows: Vec<(String, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT c.relname::text, a.attname::text, d.description
         FROM pg_class c
         CROSS JOIN LATERAL (
             SELECT 0::int2 AS attnum, NULL::name AS attname
             UNION ALL
             SELECT attnum, attname
             FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
         ) a
         LEFT JOIN pg_description d
             ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = a.attnum
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
           AND NOT c.relispartition
         ORDER BY c.relname, a.attnum",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(table, column, comment)| {
            let (class, text) = parse(comment.as_deref().unwrap_or_default());
            Place { table, column, class, text: text.to_owned() }
        })
        .collect())
}

/// Returns the tables and columns of the role's schema without a class.
///
/// # Errors
/// [`pg::Error`] if the catalogue cannot be read.
pub async fn unannotated(connection: &mut PgConnection) -> Result<Vec<Place>, pg::Error> {
    Ok(read(connection).await?.into_iter().filter(|place| place.class.is_none()).collect())
}

fn parse(comment: &str) -> (Option<Class>, &str) {
    let Some((class, text)) = comment.strip_prefix("custody=").and_then(|rest| rest.split_once(';')) else {
        return (None, comment);
    };
    let text = text.trim();
    // A comment with a class but without a description counts as one without a class.
    (Class::from_name(class).filter(|_| !text.is_empty()), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_class_and_content() {
        assert_eq!(parse("custody=ledger; Who did it"), (Some(Class::Ledger), "Who did it"));
        for bad in
            ["", "Who did it", "custody=ledger", "custody=ledger;", "custody=all; x", "custody= ledger; x"]
        {
            assert_eq!(parse(bad).0, None, "{bad:?}");
        }
    }
}
