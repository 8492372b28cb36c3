//! Steward's contract: one protobuf package a domain. Options beside each RPC and field declare its HTTP
//! binding, who may call it, its role in server-sent events, and its rules.
//!
//! The generated types are for services and clients. [`DESCRIPTORS`] is for code that works on the contract
//! itself: the gateway's transcoder, reflection, the auth layer, OpenAPI.

/// The encoded `FileDescriptorSet` of the whole contract, imports, comments and custom options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.binpb"));

pub mod rules;

macro_rules! packages {
    ($($name:ident)*) => {$(
        pub mod $name {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/steward.", stringify!($name), ".v1.rs"));
            }
        }
    )*};
}

packages!(chat common custody guest purge registry sandbox);

pub mod buf {
    pub mod validate {
        tonic::include_proto!("buf.validate");
    }
}
