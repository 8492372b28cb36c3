//! Steward's contract: one protobuf package a domain, with its HTTP doors, auth rules and
//! server-sent-event roles declared as options beside each RPC.
//!
//! The generated types are for services and clients; [`DESCRIPTORS`] is for everything that works on
//! the contract itself (the gateway's transcoder, reflection, the auth layer, OpenAPI).

/// The encoded `FileDescriptorSet` of the whole contract, imports, comments and custom options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.binpb"));

pub mod rules;

/// The declaration of the rules' options: `buf.validate`.
pub mod buf {
    pub mod validate {
        tonic::include_proto!("buf.validate");
    }
}
/// Sandboxes: `steward.sandbox.v1`.
pub mod sandbox {
    pub mod v1 {
        tonic::include_proto!("steward.sandbox.v1");
    }
}
/// Options and types shared by every package: `steward.common.v1`.
pub mod common {
    pub mod v1 {
        tonic::include_proto!("steward.common.v1");
    }
}
/// Sessions and turns: `steward.chat.v1`.
pub mod chat {
    pub mod v1 {
        tonic::include_proto!("steward.chat.v1");
    }
}
/// What every owner of data implements for erasure: `steward.custody.v1`.
pub mod custody {
    pub mod v1 {
        tonic::include_proto!("steward.custody.v1");
    }
}
/// The program inside a sandbox: `steward.guest.v1`.
pub mod guest {
    pub mod v1 {
        tonic::include_proto!("steward.guest.v1");
    }
}
/// Erasure jobs: `steward.purge.v1`.
pub mod purge {
    pub mod v1 {
        tonic::include_proto!("steward.purge.v1");
    }
}
/// Accounts, tokens, agents, relay: `steward.registry.v1`.
pub mod registry {
    pub mod v1 {
        tonic::include_proto!("steward.registry.v1");
    }
}
