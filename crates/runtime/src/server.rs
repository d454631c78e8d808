//! One listening socket that speaks HTTP/1.1 and HTTP/2 without TLS, within bounds.
//!
//! What is served is the caller's; this bounds who may connect, how long they may say nothing, and how it ends.
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What one listener grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// More connections wait, unaccepted, until one of these ends.
    pub max_connections: usize,
    /// So long a connection may take for a request's head; one that says nothing is closed after it.
    pub header_timeout: Duration,
    /// Of an HTTP/2 peer that answers no ping, after which its connection is closed.
    pub ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            header_timeout: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// Lets a handler close the connection that its request came on, however much of the answer waits to be written.
/// Found among a request's extensions.
#[derive(Debug, Clone)]
pub struct Disconnect(CancellationToken);

impl Disconnect {
    pub fn now(&self) {
        self.0.cancel();
    }
}

/// A running listener. Dropping it does not stop it: see [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    /// No more connections, no more requests on those that are open.
    stopping: CancellationToken,
    /// The grace period is over.
    ended: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Serves `router` on `listener`. A handler finds among a request's extensions its peer, as
    /// `ConnectInfo<SocketAddr>`, and a [`Disconnect`].
    pub fn start(listener: TcpListener, router: Router, limits: Limits) -> io::Result<Self> {
        let server = Self {
            local_addr: listener.local_addr()?,
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        let accepting = Accepting {
            listener,
            router,
            slots: Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS))),
            limits,
            stopping: server.stopping.clone(),
            ended: server.ended.clone(),
            connections: server.connections.clone(),
        };
        server.connections.spawn(accepting.run());
        Ok(server)
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts no more and lets running requests end, for at most `grace`; then their connections are dropped.
    pub async fn stop(self, grace: Duration) {
        self.stopping.cancel();
        self.connections.close();
        if tokio::time::timeout(grace, self.connections.wait()).await.is_err() {
            tracing::debug!(open = self.connections.len(), "connections outlived the grace period");
            self.ended.cancel();
            self.connections.wait().await;
        }
    }
}

struct Accepting {
    listener: TcpListener,
    router: Router,
    slots: Arc<Semaphore>,
    limits: Limits,
    stopping: CancellationToken,
    ended: CancellationToken,
    connections: TaskTracker,
}

impl Accepting {
    async fn run(self) {
        while let Some(slot) = self.free_slot().await {
            let accepted = tokio::select! {
                () = self.stopping.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection {
                        router: self.router.clone(),
                        limits: self.limits.clone(),
                        stopping: self.stopping.clone(),
                        ended: self.ended.child_token(),
                        _slot: slot,
                    };
                    self.connections.spawn(connection.serve(stream, peer));
                }
                Err(error) => {
                    // Out of descriptors, most likely: accepting at once again would only burn the CPU.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        if self.slots.available_permits() == 0 {
            tracing::warn!(limit = self.limits.max_connections, "all connections are taken, others wait");
        }
        tokio::select! {
            () = self.stopping.cancelled() => None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
        }
    }
}

struct Connection {
    router: Router,
    limits: Limits,
    stopping: CancellationToken,
    ended: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        // Events are small and must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection lost");
            return;
        }
        let spoke = Arc::new(AtomicBool::new(false));
        let service = {
            let router = TowerToHyperService::new(self.router.into_service::<Body>());
            let spoke = Arc::clone(&spoke);
            let disconnect = Disconnect(self.ended.clone());
            service_fn(move |request: Request<Incoming>| {
                spoke.store(true, Ordering::Relaxed);
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(disconnect.clone());
                hyper::service::Service::call(&router, request)
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.limits.ping_timeout)
            .keep_alive_timeout(self.limits.ping_timeout);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // The builder itself waits without end for the bytes that tell HTTP/1 from HTTP/2.
        let silent = tokio::time::sleep(self.limits.header_timeout);
        tokio::pin!(silent);
        let (mut watching, mut draining) = (true, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "connection ended");
                    }
                    return;
                }
                () = silent.as_mut(), if watching => {
                    if !spoke.load(Ordering::Relaxed) {
                        tracing::debug!(%peer, "closed a connection that sent no request");
                        return;
                    }
                    watching = false;
                }
                () = self.ended.cancelled() => return,
                () = self.stopping.cancelled(), if !draining => {
                    if !spoke.load(Ordering::Relaxed) {
                        return;
                    }
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start(limits: Limits) -> Server {
        let router = Router::new()
            .route(
                "/",
                get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }),
            )
            .route("/never", get(std::future::pending::<()>));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Server::start(listener, router, limits).expect("bound")
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("open");
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        while !text.ends_with("127.0.0.1") {
            let byte = stream.read_u8().await.expect("the whole answer");
            text.push(char::from(byte));
        }
        text
    }

    #[tokio::test]
    async fn one_connection_more_than_allowed_waits_for_its_turn() {
        let server = start(Limits { max_connections: 1, ..Limits::default() }).await;
        let mut first = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut first, "/").await;
        assert!(answer(&mut first).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut second = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut second, "/").await;
        ask(&mut first, "/").await;
        answer(&mut first).await;
        let mut byte = [0];
        assert!(second.try_read(&mut byte).is_err(), "nobody answers yet");
        drop(first);
        answer(&mut second).await;
    }

    #[tokio::test]
    async fn who_says_nothing_is_disconnected() {
        let limits = Limits { header_timeout: Duration::from_millis(20), ..Limits::default() };
        let server = start(limits).await;
        for half in ["", "PRI * HT", "GET / HTTP/1.1\r\nHos"] {
            let mut stream = TcpStream::connect(server.local_addr()).await.expect("listening");
            stream.write_all(half.as_bytes()).await.expect("open");
            let mut rest = Vec::new();
            // Ends: that is the assertion. A reset is as good as an end.
            let _ = stream.read_to_end(&mut rest).await;
        }
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections_at_once_and_stuck_ones_after_the_grace_period() {
        let server = start(Limits::default()).await;
        let address = server.local_addr();
        let mut idle = TcpStream::connect(address).await.expect("listening");
        ask(&mut idle, "/").await;
        answer(&mut idle).await;
        let mut stuck = TcpStream::connect(address).await.expect("listening");
        ask(&mut stuck, "/never").await;
        server.stop(Duration::from_millis(20)).await;
        assert_eq!(idle.read(&mut [0]).await.expect("closed in order"), 0);
        assert!(matches!(stuck.read(&mut [0]).await, Ok(0) | Err(_)));
        assert!(TcpStream::connect(address).await.is_err());
    }
}
