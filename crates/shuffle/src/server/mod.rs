//! The TCP edge: accepts connections and runs one task for each. A connection handles its requests one after the
//! other and reads no further request while an answer waits to be taken: that is what bounds its memory.

mod calls;
mod connection;
mod outgoing;
mod places;
mod socket;
mod streams;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::ErrorKind;
use crate::service::Service;
use connection::Connection;
use places::Places;
use socket::Socket;

/// A peer whose machine went away is noticed after about a minute and a half.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long nothing is accepted when the process has run out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`; connections then end at their next request.
pub(crate) async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let limits = &service.config.limits;
    let places = Places::new(limits.connections, [limits.open_streams_bytes, limits.large_requests_bytes]);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                pause_after(&service, &error).await;
                continue;
            }
        };
        let (place, other_lost) = places.take();
        if other_lost || place.is_none() {
            service.metrics.error(ErrorKind::Limit);
        }
        let Some(place) = place else { continue };
        if let Err(error) = prepare(&socket) {
            tracing::debug!(%error, "connection went before it began");
            continue;
        }
        let (service, stop, number) = (service.clone(), stop.clone(), place.number());
        let task = tasks.spawn(async move {
            let _open = service.metrics.open_connections.enter();
            match Socket::accept(socket, &service).await {
                Ok(socket) => Connection::new(socket, service.clone(), place).run(&stop).await,
                Err(error) => {
                    service.metrics.error(ErrorKind::Forbidden);
                    tracing::warn!(%error, "no TLS with this peer");
                }
            }
        });
        places.seat(number, task.abort_handle());
    }
}

async fn pause_after(service: &Service, error: &io::Error) {
    let of_one_peer =
        matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !of_one_peer {
        service.metrics.error(ErrorKind::Limit);
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(PAUSE).await;
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
