//! Tests with the real engine. Each test has its own installation and removes all of its objects.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod container;

use std::{path::PathBuf, sync::Arc};

use sandbox_svc::testing::{Installation, docker, engine::contract::Bench, sandbox_image};

fn bench(guest: PathBuf) -> (Bench, Installation) {
    let installation = Installation::default();
    (Bench::new(Arc::new(docker()), &sandbox_image(), guest, &installation.0), installation)
}

mod contract {
    use sandbox_svc::testing::guest_program;

    sandbox_svc::engine_contract!(super::bench(guest_program()));
}
