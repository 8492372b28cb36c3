//! `steward-guest <run directory> <sandbox id> <generation>`: the command of every sandbox's container.

use std::{env, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use steward_guest::{BLOCKING_THREADS, Config, Limits, Roots, serve};
use tokio::signal::unix::{SignalKind, signal};

/// Time without work after which a blocking thread ends: a hundred years, so none ends during a sandbox's
/// life.
const KEEP_ALIVE: Duration = Duration::from_secs(100 * 365 * 86_400);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The container's log shows standard error. A failed write cannot be reported anywhere else.
            let _ = writeln!(std::io::stderr(), "steward-guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [run_dir, sandbox_id, generation] = arguments.as_slice() else {
        return Err("usage: steward-guest <run directory> <sandbox id> <generation>".into());
    };
    let config = Config {
        run_dir: PathBuf::from(run_dir),
        sandbox_id: sandbox_id.clone(),
        generation: generation.parse()?,
        roots: Roots::standard(),
        limits: Limits::STANDARD,
    };
    // The first blocking thread starts below and never ends. Commands may use up the sandbox's process limit;
    // if the guest then had no blocking thread and asked for one, the runtime would panic.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(KEEP_ALIVE)
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    runtime.block_on(async {
        tokio::task::spawn_blocking(|| ()).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Ends without waiting for open calls, because SIGTERM means that the container is being stopped.
        tokio::select! {
            served = serve(config, std::future::pending()) => served?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
