//! Builds the contract: protox (no protoc) → descriptor set → prost and tonic code.

use std::{env, fs, path::PathBuf};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    for package in fs::read_dir(root.join("steward"))? {
        for file in fs::read_dir(package?.path().join("v1"))? {
            files.push(file?.path());
        }
    }
    files.sort();
    println!("cargo:rerun-if-changed=steward");
    println!("cargo:rerun-if-changed=google");

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // Encoded by protox itself: through prost_types the custom options (auth, http, sse) would be lost.
    let descriptors = compiler.encode_file_descriptor_set();
    let path = PathBuf::from(env::var("OUT_DIR")?).join("contract.binpb");
    fs::write(&path, &descriptors)?;

    // Ordered maps: a request has one encoding, by whose hash an idempotency key knows it again.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
