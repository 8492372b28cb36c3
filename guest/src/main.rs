//! `steward-guest <run directory> <sandbox id> <generation>`: the command of every sandbox's container.

use std::{env, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use steward_guest::{Config, Limits, files::Roots, serve};
use tokio::signal::unix::{SignalKind, signal};

/// They are never given back, and count among the processes of the sandbox.
const BLOCKING_THREADS: usize = 8;
/// A hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is all there is to tell: the container's log shows it.
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
    // One thread for blocking work from now on: what runs here may leave no room for another, and where there is none
    // at all, asking for one would end the guest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(FOR_EVER)
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    runtime.block_on(async {
        tokio::task::spawn_blocking(|| ()).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Open streams must not hold up the end: the container's stop is the caller's decision.
        tokio::select! {
            served = serve(config, std::future::pending()) => served?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
