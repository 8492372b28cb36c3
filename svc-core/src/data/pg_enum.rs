//! Domain enums as Postgres enums. The domain does not depend on sqlx, so the store declares how the values
//! of a domain enum are stored.
//!
//! ```ignore
//! svc_core::pg_enum!(AgentStatus as "agent_status" { Online => "online", Offline => "offline" });
//! ```
//!
//! lets sqlx read the enum from a column and bind it as a parameter, also as an array (`&[T]`). The labels
//! are written twice, here and in a migration; a test reads those of the database with [`labels`] and
//! compares them.

use sqlx::PgConnection;

use crate::data::pg;

/// A domain enum and the Postgres enum that stores it.
pub trait PgEnum: Copy + 'static {
    /// Name of the Postgres type.
    const TYPE: &'static str;
    /// Every value with its label, in the order of the type.
    const LABELS: &'static [(Self, &'static str)];
}

/// Stores a domain enum of the calling crate as a Postgres enum; see [the module](self).
#[macro_export]
macro_rules! pg_enum {
    ($enum:ty as $type:literal { $($variant:ident => $label:literal),+ $(,)? }) => {
        impl $crate::data::pg_enum::PgEnum for $enum {
            const TYPE: &'static str = $type;
            const LABELS: &'static [(Self, &'static str)] = &[$((Self::$variant, $label)),+];
        }

        impl ::sqlx::Type<::sqlx::Postgres> for $enum {
            fn type_info() -> ::sqlx::postgres::PgTypeInfo {
                ::sqlx::postgres::PgTypeInfo::with_name($type)
            }
        }

        impl ::sqlx::postgres::PgHasArrayType for $enum {
            fn array_type_info() -> ::sqlx::postgres::PgTypeInfo {
                ::sqlx::postgres::PgTypeInfo::with_name(concat!("_", $type))
            }
        }

        impl ::sqlx::Encode<'_, ::sqlx::Postgres> for $enum {
            fn encode_by_ref(
                &self,
                buffer: &mut ::sqlx::postgres::PgArgumentBuffer,
            ) -> Result<::sqlx::encode::IsNull, ::sqlx::error::BoxDynError> {
                let label = match self { $(Self::$variant => $label),+ };
                <&str as ::sqlx::Encode<::sqlx::Postgres>>::encode(label, buffer)
            }
        }

        impl ::sqlx::Decode<'_, ::sqlx::Postgres> for $enum {
            fn decode(value: ::sqlx::postgres::PgValueRef<'_>) -> Result<Self, ::sqlx::error::BoxDynError> {
                match <&str as ::sqlx::Decode<::sqlx::Postgres>>::decode(value)? {
                    $($label => Ok(Self::$variant),)+
                    other => Err(format!("{other:?} is no label of {}", $type).into()),
                }
            }
        }
    };
}

/// Returns the labels of an enum in the database, in order.
///
/// # Errors
/// [`pg::Error`] if the catalogue cannot be read.
pub async fn labels(connection: &mut PgConnection, name: &str) -> Result<Vec<String>, pg::Error> {
    let rows = sqlx::query_scalar(
        "SELECT enumlabel::text FROM pg_enum WHERE enumtypid = $1::text::regtype ORDER BY enumsortorder",
    )
    .bind(name)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
