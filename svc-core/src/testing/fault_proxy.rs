//! A TCP proxy that fails on demand, as a cut cable, a stalled peer or a dead host would.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinSet,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Each piece of data is held back for this time.
    Delay(Duration),
    /// No data is passed on. Connections stay open, and new ones are accepted.
    Stall,
    /// New connections are closed as soon as they are accepted.
    Refuse,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Number of cuts so far. A connection ends when the number changes.
    cuts: u64,
}

/// Passes the data of connections on to a server until a test orders a fault. It ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

impl FaultProxy {
    /// Starts a proxy in front of the server at `upstream`, for example `127.0.0.1:5432` or
    /// `unix:///var/run/docker.sock`.
    pub async fn start(upstream: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (state, watching) = watch::channel(State { mode: Mode::Pass, cuts: 0 });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream.into(), watching));
        Self { address, state, _tasks: tasks }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes all data on, as after the start.
    pub fn pass(&self) {
        self.set(Mode::Pass);
    }

    /// Delays each piece of data by `delay`, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.set(Mode::Delay(delay));
    }

    /// Passes no data on and closes no connection, as if the server had vanished.
    pub fn stall(&self) {
        self.set(Mode::Stall);
    }

    /// Closes every connection, and each new one at once, as if the server were down.
    pub fn refuse(&self) {
        self.set(Mode::Refuse);
        self.cut();
    }

    /// Closes every connection; new ones are treated as before.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

async fn accept(listener: TcpListener, upstream: String, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if state.borrow().mode != Mode::Refuse {
                    connections.spawn(connect(client, upstream.clone(), state.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until the client or the server closes it, an error occurs, or the test cuts it. Then
/// both sides are closed.
async fn connect(client: TcpStream, upstream: String, state: watch::Receiver<State>) {
    // Small pieces of data must not wait for each other unless the test orders a delay.
    if client.set_nodelay(true).is_err() {
        return;
    }
    if let Some(path) = upstream.strip_prefix("unix://") {
        if let Ok(server) = UnixStream::connect(path).await {
            join(client, server, state).await;
        }
    } else if let Ok(server) = TcpStream::connect(upstream).await
        && server.set_nodelay(true).is_ok()
    {
        join(client, server, state).await;
    }
}

async fn join(client: TcpStream, server: impl AsyncRead + AsyncWrite, mut state: watch::Receiver<State>) {
    let cuts = state.borrow_and_update().cuts;
    let (client_in, client_out) = split(client);
    let (server_in, server_out) = split(server);
    let (up, down) = (state.clone(), state.clone());
    tokio::select! {
        _ = state.wait_for(|state| state.cuts != cuts) => {}
        _ = pump(client_in, server_out, up) => {}
        _ = pump(server_in, client_out, down) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mode = state.wait_for(|state| state.mode != Mode::Stall).await.map_err(io::Error::other)?.mode;
        if let Mode::Delay(delay) = mode {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}
