//! The composition root: the only place that wires and spawns.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use svc_core::{
    custody::server::CustodianHandler,
    data::{
        lease::Singleton,
        pg::{self, MigrateError, Pool, Tx},
        redis::{self, Redis},
        wake::Wake,
    },
    id::new_id,
    run::{backoff::Backoff, clock::SystemClock, lifecycle::Lifecycle, telemetry::Metrics},
    wire::{
        assertion::{LoadError, Signer, Verifier},
        auth::{Authenticator, CachedTokens, ContractError, Methods, remote::RegistryTokens},
        client::{self, Peer},
        error::Chain,
        server::{self, Bound, Server},
    },
};

use crate::{
    app::{Context, Served, Settings, Shared, custodian::Custodian},
    client::chat::Sessions,
    config::{Config, Unusable},
    engine::{EngineInfo, SharedEngine, docker::DockerEngine, limiter::Limited},
    grpc::sandbox::SandboxHandler,
    run_dirs::{self, RunDirectories},
    store::{MIGRATOR, engines},
    worker::{self, host::HostLevel},
};

/// The service's name, as assertions and telemetry have it.
pub const NAME: &str = "sandbox-svc";

/// Tokens remembered at most, for five seconds each.
const TOKENS: u64 = 100_000;
/// Delay before an engine that does not say who it is is asked again.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// How often it is noted that the engine answers.
const SEEN_PERIOD: Duration = Duration::from_secs(60);

/// Why sandbox-svc could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration cannot be.
    #[error(transparent)]
    Config(#[from] Unusable),
    /// A port is taken, or a service is not part of the contract.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The contract cannot be enforced.
    #[error("read the contract")]
    Contract(#[from] ContractError),
    /// The keys of this and the other processes could not be loaded.
    #[error("load the keys")]
    Identity(#[from] LoadError),
    /// Another service cannot be called.
    #[error("find the other services")]
    Peer(#[from] client::Error),
    /// The database is not as it should be.
    #[error("prepare the database")]
    Migrate(#[from] MigrateError),
    /// The database cannot be used.
    #[error("use the database")]
    Pg(#[from] pg::Error),
    /// Redis cannot be used.
    #[error("use Redis")]
    Redis(#[from] redis::Error),
    /// The run directories cannot be kept.
    #[error("keep run directories")]
    RunDirectories(#[from] run_dirs::Error),
}

/// Starts sandbox-svc on `lifecycle`: takes its ports, migrates, spawns its tasks and returns. The engine may be
/// away: whatever needs it waits until it has said who it is.
///
/// # Errors
/// [`StartError`] says why there is none.
pub async fn start(config: Config, lifecycle: Lifecycle, metrics: Metrics) -> Result<(), StartError> {
    config.check()?;
    // A taken port shows before anything is changed.
    let bound = Bound::bind(&config.server).await?;
    let clock = SystemClock::shared();
    let methods = Methods::from_contract()?;
    let verifier = Verifier::load(NAME, &config.identity, clock.clone())?;
    let signer = Arc::new(Signer::load(NAME, &config.identity, clock.clone())?);
    let registry = Peer::lazy("registry-svc", &config.registry, signer.clone())?;
    let sessions = Sessions::new(Peer::lazy("chat-svc", &config.chat, signer)?);
    let tokens = CachedTokens::new(Arc::new(RegistryTokens::new(registry)), TOKENS);
    let run_dirs = RunDirectories::open(&config.run_dir)?;
    pg::migrate(&MIGRATOR, &config.pg).await?;
    let pool = Pool::connect(&config.pg).await?;
    let redis = Redis::lazy(&config.redis)?;

    let settings = Settings {
        installation: config.installation.clone(),
        guest: config.guest.clone(),
        shape: config.shape.clone(),
        create: config.create.clone(),
        lifetimes: config.lifetimes.clone(),
        overcommit: config.host.overcommit,
    };
    let ctx = Arc::new(Context {
        pool: pool.clone(),
        wake: Wake::start(&redis, &lifecycle),
        lifecycle: lifecycle.clone(),
        settings,
        served: OnceLock::new(),
        clock: clock.clone(),
    });
    let docker = Arc::new(DockerEngine::at(&config.engine.host));
    let engine = Arc::new(Limited::new(docker, config.engine.limits, clock));
    let server = config.server.clone();
    drop(lifecycle.spawn("engine", serve_engine(ctx.clone(), config, engine, run_dirs, redis)));

    let authenticator = Authenticator::new(Arc::new(methods), verifier, Arc::new(tokens));
    Server::new(NAME, server, authenticator)
        .service(CustodianHandler::new(NAME, Custodian::new(ctx.clone())).into_server())
        .service(SandboxHandler::new(ctx, sessions).into_server())
        .ready_when(pool)
        .start(bound, metrics, &lifecycle)?;
    Ok(())
}

/// Waits until the engine has said who it is, then starts everything that works on it.
async fn serve_engine(
    ctx: Shared,
    config: Config,
    engine: SharedEngine,
    run_dirs: RunDirectories,
    redis: Redis,
) {
    let soft = ctx.lifecycle.soft();
    let known = tokio::select! {
        known = introduce(&ctx, engine, run_dirs) => known,
        () = soft.cancelled() => return,
    };
    tracing::info!(engine.id = known, "engine is served");
    start_workers(&ctx, &config, &redis, &known);
}

/// Asks the engine who it is until it says so, and notes it; answers its id.
async fn introduce(ctx: &Context, engine: SharedEngine, run_dirs: RunDirectories) -> String {
    for failures in 1.. {
        let seen = async {
            let info = engine.info().await?;
            see(ctx, &info, &run_dirs).await?;
            Ok::<_, crate::Error>(info)
        };
        match seen.await {
            Ok(info) => {
                let id = info.id.clone();
                ctx.served.get_or_init(|| Served::new(info, engine, run_dirs));
                return id;
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "engine is not known yet"),
        }
        tokio::time::sleep(AGAIN.ceiling(failures)).await;
    }
    String::new()
}

/// Notes that the engine answered.
async fn see(ctx: &Context, info: &EngineInfo, run_dirs: &RunDirectories) -> Result<(), crate::Error> {
    let base = run_dirs.base().display().to_string();
    let mut tx = Tx::system(&ctx.pool).await?;
    if !engines::see(&mut tx, info, &base, ctx.now()).await? {
        return Err(crate::Error::OtherRunDirectories(base));
    }
    Ok(tx.commit().await?)
}

fn start_workers(ctx: &Shared, config: &Config, redis: &Redis, engine: &str) {
    let lifecycle = &ctx.lifecycle;
    let owner = format!("{NAME}/{}", new_id());
    let singleton = |task: &str| {
        let name = format!("sandbox.{task}/{engine}");
        Singleton::new(name, config.reconcile.lease, redis, &ctx.pool, lifecycle)
    };
    let host = HostLevel::default();
    worker::host::start(ctx, &config.host, &host);
    worker::creator::start(ctx, &host, &owner);
    worker::remover::start(ctx, &owner);
    worker::deadlines::start(ctx);
    worker::pool::start(ctx, config.pool.clone(), &host, singleton("pool"));
    worker::reconcile::start(ctx, config.reconcile.clone(), singleton("reconcile"));
    worker::volumes::start(ctx, config.reconcile.period, singleton("volumes"));
    let watched = ctx.clone();
    lifecycle.every("engine seen", SEEN_PERIOD, move || {
        let ctx = watched.clone();
        async move {
            let served = ctx.served()?;
            served.still_itself().await?;
            Ok(see(&ctx, &served.info, &served.run_dirs).await?)
        }
    });
}
