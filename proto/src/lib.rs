//! What Karat's parts say to each other: typed commands, events and outcomes, their limits and codes, and the
//! `karat.v1` protobuf services with the conversion between the two; and how clients find a realm that moves ([`realm`]).

pub mod code;
pub mod command;
pub mod convert;
pub mod event;
pub mod ids;
pub mod limits;
pub mod lineage;
pub mod realm;
pub mod served;
pub mod signing;

pub use code::Code;
pub use command::{Command, CommandKind};
pub use event::{Event, EventKind, Outcome};
pub use ids::{Account, AssetId, CollectionId, CommandId, Digest};

/// Generated from `karat/v1/*.proto`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("karat.v1");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/karat_descriptor.bin"));
}
