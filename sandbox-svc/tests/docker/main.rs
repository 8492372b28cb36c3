//! What only the real engine can show. Every test has an installation of its own and leaves nothing behind.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod container;

use std::{path::PathBuf, sync::Arc};

use sandbox_svc::{
    engine::contract::Bench,
    testing::{Installation, docker, sandbox_image},
};

fn bench(guest: PathBuf) -> (Bench, Installation) {
    let installation = Installation::default();
    (Bench::new(Arc::new(docker()), &sandbox_image(), guest, &installation.0), installation)
}

mod contract {
    use sandbox_svc::testing::guest_program;

    sandbox_svc::engine_contract!(super::bench(guest_program()));
}
