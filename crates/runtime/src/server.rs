//! One listening socket that speaks HTTP/1.1 and HTTP/2 without TLS, within bounds.
//!
//! The caller supplies the service; this bounds who may connect, how long they may say nothing or read nothing, and how
//! it ends.
use crate::{
    body::{Answer, Untaken},
    descriptors,
    places::{Place, Places},
    vital::{Ended, Vital},
};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What one listener grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// When all are taken, one that is silent makes room for a new one. One peer address may have half of them.
    pub max_connections: usize,
    /// Longest time for a request's head; a connection that says nothing is closed after it.
    pub header_timeout: Duration,
    /// Time after which the connection of an HTTP/2 peer that answers no ping is closed.
    pub ping_timeout: Duration,
    /// Longest time without a request.
    pub idle_timeout: Duration,
    /// Longest time to read 64 KiB of an answer, or one record of a stream.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of_servers(1)
    }
}

impl Limits {
    /// Makes the limits for one of several servers in this process, which share what it may open.
    pub fn of_servers(servers: usize) -> Self {
        Self {
            max_connections: descriptors::connections(servers),
            header_timeout: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            answer_timeout: Duration::from_secs(60),
        }
    }
}

/// Lets a handler close the connection that its request came on, however much of the answer waits to be written.
/// Found among a request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Disconnect(CancellationToken);

impl Disconnect {
    pub fn now(&self) {
        self.0.cancel();
    }

    /// Whether it was asked for.
    pub fn is_now(&self) -> bool {
        self.0.is_cancelled()
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
    vital: Vital,
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
            vital: Vital::new(),
        };
        let accepting = Accepting {
            listener,
            router,
            places: Places::new(limits.max_connections),
            limits,
            stopping: server.stopping.clone(),
            ended: server.ended.clone(),
            connections: server.connections.clone(),
        };
        let guard = server.vital.guard("accepting connections");
        server.connections.spawn(async move {
            let _guard = guard;
            accepting.run().await;
        });
        Ok(server)
    }

    /// Returns when it accepts no more though nobody told it to stop.
    pub async fn ended(&self) -> Ended {
        self.vital.ended().await
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
    places: Arc<Places>,
    limits: Limits,
    stopping: CancellationToken,
    ended: CancellationToken,
    connections: TaskTracker,
}

impl Accepting {
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                () = self.stopping.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.serve(stream, peer),
                Err(error) => {
                    // Out of descriptors, most likely. Accepting at once again would only burn the CPU.
                    let made_room = self.places.make_room();
                    tracing::warn!(%error, made_room, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let disconnect = Disconnect(self.ended.child_token());
        let Some(place) = self.places.take(peer.ip(), disconnect.clone()) else {
            tracing::warn!(%peer, limit = self.limits.max_connections, "no place is left for this connection");
            return;
        };
        let connection = Connection {
            router: self.router.clone(),
            limits: self.limits.clone(),
            stopping: self.stopping.clone(),
            disconnect,
            place: Arc::new(place),
            untaken: Arc::default(),
        };
        self.connections.spawn(connection.serve(stream, peer));
    }
}

/// Streams of one HTTP/2 connection at the same time; an agent needs one.
const MAX_STREAMS: u32 = 64;
/// Buffer of one connection or stream, for answers or requests' heads.
const BUFFER_BYTES: usize = 64 << 10;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;

struct Connection {
    router: Router,
    limits: Limits,
    stopping: CancellationToken,
    disconnect: Disconnect,
    place: Arc<Place>,
    untaken: Arc<Untaken>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = prepare(&stream, &self.limits) {
            tracing::debug!(%peer, %error, "connection lost");
            return;
        }
        let spoke = Arc::new(AtomicBool::new(false));
        let service = {
            let router = TowerToHyperService::new(self.router.into_service::<Body>());
            let (spoke, disconnect) = (Arc::clone(&spoke), self.disconnect.clone());
            let (place, untaken) = (Arc::clone(&self.place), Arc::clone(&self.untaken));
            let number = AtomicU64::new(0);
            service_fn(move |request: Request<Incoming>| {
                spoke.store(true, Ordering::Relaxed);
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(disconnect.clone());
                let (under_way, untaken) = (place.request(), Arc::clone(&untaken));
                let number = number.fetch_add(1, Ordering::Relaxed);
                let answered = hyper::service::Service::call(&router, request);
                async move {
                    let answer = answered.await?;
                    Ok::<_, Infallible>(answer.map(|body| Answer::new(body, number, untaken, under_way)))
                }
            })
        };
        let builder = builder(&self.limits);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // The builder itself waits without end for the bytes that tell HTTP/1 from HTTP/2.
        let silent = tokio::time::sleep(self.limits.header_timeout);
        tokio::pin!(silent);
        let shortest = self.limits.idle_timeout.min(self.limits.answer_timeout);
        let mut watch = tokio::time::interval(shortest / 4);
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
                _ = watch.tick() => {
                    if self.place.silent_for().is_some_and(|silent| silent > self.limits.idle_timeout) {
                        tracing::debug!(%peer, "closed a connection that sends no more requests");
                        return;
                    }
                    if self.untaken.longest().is_some_and(|waits| waits > self.limits.answer_timeout) {
                        tracing::warn!(%peer, "does not read what it asked for: disconnected");
                        return;
                    }
                }
                () = self.disconnect.0.cancelled() => return,
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

fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    // Events are small and must not wait for each other.
    stream.set_nodelay(true)?;
    // Also of what the system holds for a peer that does not read, or is gone. The listener may have a shorter time.
    let timeout = u32::try_from(limits.answer_timeout.as_millis()).unwrap_or(u32::MAX);
    let inherited = rustix::net::sockopt::tcp_user_timeout(stream)?;
    let timeout = if inherited == 0 { timeout } else { timeout.min(inherited) };
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, timeout)?)
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping_timeout)
        .keep_alive_timeout(limits.ping_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// More than the system holds for a connection.
    const LARGE: usize = 64 << 20;

    impl Server {
        /// Waits until so many are open.
        async fn connections_are(&self, open: usize) {
            // The one more accepts.
            while self.connections.len() != open + 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn start(limits: Limits) -> Server {
        let router = Router::new()
            .route(
                "/",
                get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }),
            )
            .route("/large", get(|| async { vec![b'x'; LARGE] }))
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
    async fn one_connection_more_than_allowed_takes_the_place_of_one_that_is_silent() {
        let server = start(Limits { max_connections: 2, ..Limits::default() }).await;
        // One peer has half of them.
        let mut first = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut first, "/").await;
        assert!(answer(&mut first).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut second = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut second, "/never").await;
        assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)), "it was silent");
        let mut third = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut third, "/").await;
        assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "the other is at work");
    }

    #[tokio::test]
    async fn who_asks_no_more_is_disconnected() {
        let limits = Limits { idle_timeout: Duration::from_millis(40), ..Limits::default() };
        let server = start(limits).await;
        let mut stream = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut stream, "/").await;
        answer(&mut stream).await;
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn who_does_not_read_is_disconnected_and_who_reads_gets_all() {
        let limits = Limits { answer_timeout: Duration::from_millis(200), ..Limits::default() };
        let server = start(limits).await;
        let mut slow = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut slow, "/large").await;
        let mut quick = TcpStream::connect(server.local_addr()).await.expect("listening");
        ask(&mut quick, "/large").await;
        let mut all = vec![0; LARGE];
        quick.read_exact(&mut all).await.expect("read at once");
        // What had left before is still read; then comes the end, though not that of the answer.
        server.connections_are(1).await;
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(rest.len() < LARGE, "{}", rest.len());
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
