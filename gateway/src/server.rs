//! The public listener: HTTP/1.1 connections, each with its limits, and the way they all end.
//!
//! HTTP/1.1 alone: TLS and HTTP/2 towards browsers belong to what stands in front. A head has a size and a time,
//! idle connections end after the same time, a dead peer is noticed by the kernel. At a stop the door stays open
//! for a moment (balancers must notice), then no connection is accepted, streams are told to end, requests in hand
//! finish, and idle connections close; the process's grace period bounds all of it.

use std::{io, time::Duration};

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

/// Delay after a failed accept, as when the process has no file descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How the server is told to stop, and tells that it did.
#[derive(Debug)]
pub struct Stop {
    /// Asks to finish.
    pub soft: CancellationToken,
    /// Ends everything.
    pub hard: CancellationToken,
    /// Fired by the server when the door closes.
    pub drain: CancellationToken,
    /// Fired by the server when its last connection is gone.
    pub closed: CancellationToken,
}

/// Serves connections until told to stop.
///
/// # Errors
/// None at present: a listener's errors pass.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: ConnectionsConfig,
    stop: Stop,
) -> io::Result<()> {
    let _closed = stop.closed.drop_guard();
    let room = std::sync::Arc::new(Semaphore::new(config.max));
    // Owned here, and ended with this task.
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
            Some(ended) = connections.join_next() => { note(ended); continue }
            accepted = accept(&listener, &room) => accepted,
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
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    stop.drain.cancel();
    tracing::info!(connections = connections.len(), "door closed");
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => note(ended),
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

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &std::sync::Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, router: Router, config: ConnectionsConfig, drain: CancellationToken) {
    if let Err(error) = prepare(&stream, config.dead_after) {
        tracing::debug!(%error, "connection was gone at once");
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
        // Clients that leave, and those that do not speak HTTP.
        tracing::debug!(%error, "connection ended early");
    }
}

fn prepare(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(dead_after.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "connection panicked");
    }
}
