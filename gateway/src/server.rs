//! The public listener: HTTP/1.1 connections, their limits, and the drain.
//!
//! TLS and HTTP/2 are the job of a load balancer in front of the gateway. A request's head is limited in size
//! and must arrive within `header_timeout`; a connection without a request for that time is closed. The
//! kernel detects dead peers. At a stop the listener stays open for `drain_delay`, so that load balancers see
//! that the gateway is not ready. Then the gateway accepts no connection, ends streams, lets running requests
//! finish and closes idle connections. The process's grace period limits the time for all of this.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::config::ConnectionsConfig;

/// Pause after a failed accept, for example when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Cancellation tokens for the stop of the server.
#[derive(Debug)]
pub(crate) struct Stop {
    /// Fired by the process: begins the drain.
    pub(crate) soft: CancellationToken,
    /// Fired by the process: ends every connection.
    pub(crate) hard: CancellationToken,
    /// Fired by the server when the listener closes.
    pub(crate) drain: CancellationToken,
    /// Fired by the server when its last connection has ended.
    pub(crate) closed: CancellationToken,
}

/// Serves connections until a stop. The result is always `Ok`: errors of the listener are logged and retried.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    config: ConnectionsConfig,
    stop: Stop,
) -> io::Result<()> {
    let _closed = stop.closed.drop_guard();
    let slots = Arc::new(Semaphore::new(config.max));
    // Dropping the set, when this task ends, ends its connections.
    let mut connections = JoinSet::new();
    let closing = async {
        stop.soft.cancelled().await;
        tokio::time::sleep(config.drain_delay).await;
    };
    let mut closing = std::pin::pin!(closing);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => break,
            () = stop.hard.cancelled() => break,
            Some(ended) = connections.join_next() => { log_panic(ended); continue }
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let connection = connection(stream, router.clone(), config.clone(), stop.drain.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.drain.cancel();
    tracing::info!(connections = connections.len(), "listener closed");
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => log_panic(ended),
                None => return Ok(()),
            },
            () = stop.hard.cancelled() => {
                tracing::warn!(connections = connections.len(), "ending the connections that are left");
                connections.shutdown().await;
                return Ok(());
            }
        }
    }
}

/// Waits for a free slot, then for a connection.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, router: Router, config: ConnectionsConfig, drain: CancellationToken) {
    if let Err(error) = prepare(&stream, config.dead_after) {
        tracing::debug!(%error, "connection closed before its first request");
        return;
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(config.max_header_bytes)
        .max_headers(config.max_headers)
        .keep_alive(true);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // The client disconnected, or sent something other than HTTP.
        tracing::debug!(%error, "connection ended early");
    }
}

fn prepare(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "connection panicked");
    }
}
