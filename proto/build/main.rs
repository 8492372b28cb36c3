//! Builds the contract with protox, so that no protoc is needed: the descriptor set, the code of prost and
//! tonic, and the checks of field rules.

mod rules;

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
    for directory in ["steward", "google", "buf", "build"] {
        println!("cargo:rerun-if-changed={directory}");
    }

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // protox encodes the set, because prost_types would lose the custom options (auth, http, sse, rules).
    let descriptors = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("contract.binpb"), &descriptors)?;
    fs::write(out.join("rules.rs"), rules::generate(&compiler.descriptor_pool())?)?;

    // Generates ordered maps, so that equal requests encode to equal bytes. A service stores a hash of these
    // bytes with an idempotency key, and compares it to detect that the key is used for another request.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::rules::CheckedCodec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
