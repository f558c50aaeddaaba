//! Generates the `karat.v1` code from the protobuf files, without a system protoc.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 6] = [
    "karat/v1/commands.proto",
    "karat/v1/events.proto",
    "karat/v1/ledger.proto",
    "karat/v1/edge.proto",
    "karat/v1/operator.proto",
    "karat/v1/host.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Reflection serves these.
    std::fs::write(
        out.join("karat_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    // A client is made from a channel: a generated `connect` would collide with Edge.Connect.
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .compile_fds(descriptors.clone())?;
    // The Ledger's server once more, over messages that are read and written with less work: `src/served.rs`.
    let served = out.join("served");
    std::fs::create_dir_all(&served)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .build_client(false)
        .extern_path(".karat.v1", "crate::v1")
        .extern_path(".karat.v1.SubmitRequest", "crate::served::SubmitRequest")
        .extern_path(".karat.v1.SubmitResponse", "crate::served::SubmitResponse")
        .out_dir(served)
        .compile_fds(descriptors)?;
    Ok(())
}
