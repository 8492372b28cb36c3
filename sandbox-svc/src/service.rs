//! The composition root: builds the parts of the service, connects them and starts its tasks.

use std::sync::Arc;

use steward_proto::sandbox::v1::sandbox_service_server::SandboxServiceServer;
use svc_core::{
    base::{StartError, Starting},
    custody::server::CustodianHandler,
    run::{lifecycle::Lifecycle, telemetry},
    wire::{
        auth::remote::RegistryTokens,
        client::{Peer, Sessions},
    },
};

use crate::{
    NAME,
    app::{
        Deps, admission::Admission, custodian::Custodian, execs::Execs, files::Files, notices::Notices,
        sandboxes::Sandboxes, served::EngineSlot,
    },
    config::Config,
    engine::{docker::DockerEngine, limiter::Limited},
    grpc::sandbox::SandboxHandler,
    metrics::Metrics,
    run_dirs::RunDirectories,
    store::MIGRATOR,
    worker::engine::{self, EngineDeps},
};

/// Maximum API tokens in the cache of registry-svc's answers; each stays for at most five seconds.
const MAX_TOKENS: u64 = 100_000;

/// Starts sandbox-svc on `lifecycle`: binds its ports, migrates, spawns its tasks and returns. The engine may
/// be unreachable: requests and tasks that need it fail or wait until it has reported its id.
///
/// # Errors
/// [`StartError`] names the part that failed.
pub async fn start(
    config: Config,
    lifecycle: Lifecycle,
    metrics: telemetry::Metrics,
) -> Result<(), StartError> {
    let (starting, config) = Starting::new(config, lifecycle, metrics).await?;
    let signer = starting.signer()?;
    let registry = Peer::lazy("registry-svc", &config.registry, signer.clone())?;
    let sessions = Sessions::new(Peer::lazy("chat-svc", &config.chat, signer)?);
    let run_dirs =
        RunDirectories::open(&config.run_dir).map_err(|error| StartError::part("run directories", error))?;
    let base = starting.open(&MIGRATOR).await?;

    let deps = Deps {
        pool: base.pool.clone(),
        clock: base.clock.clone(),
        notices: Notices::new(base.wake()),
        lifecycle: base.lifecycle.clone(),
        settings: Arc::new(config.settings()),
        engine: EngineSlot::default(),
        metrics: Metrics::default(),
    };
    let docker = Arc::new(DockerEngine::at(&config.engine.host));
    let engine = EngineDeps {
        engine: Arc::new(Limited::new(docker, config.engine.limits, base.clock.clone())),
        run_dirs,
        redis: base.redis.clone(),
        holder: base.lease_holder(),
        proc_root: config.host.proc_root,
        sample_period: config.host.period,
    };
    engine::start(&deps, engine);
    base.delete_expired_keys(&config.retention);

    let sandboxes = Sandboxes { deps: deps.clone() };
    let handler = SandboxHandler {
        admission: Admission { pool: base.pool.clone(), sessions, sandboxes: sandboxes.clone() },
        sandboxes,
        execs: Execs { deps: deps.clone() },
        files: Files { deps: deps.clone() },
    };
    base.serve(RegistryTokens::new(registry), MAX_TOKENS, |server| {
        server
            .service(CustodianHandler::new(NAME, Custodian::new(deps)).into_server())
            .service(SandboxServiceServer::new(handler))
    })
}
