//! A watch of the leading master. For ZooKeeper it follows the election's announcements for ever; while ZooKeeper
//! cannot be reached the last known leader stays, as it may well go on leading, and the clients notice if not.

use tokio::sync::watch;
use tracing::{info, warn};
use zookeeper_client as zk;

use crate::address::{MasterAddress, ZooKeeperAddress};
use crate::backoff::Backoff;
use crate::leader::Leader;
use crate::zookeeper::{FIRST_DELAY, MAX_DELAY, connect, leading_node};

/// Starts detecting and returns at once; `None` until a leader is known, and while the election has none.
/// Must be called within a Tokio runtime. Detection ends when the last receiver is dropped.
pub fn detect(address: &MasterAddress) -> watch::Receiver<Option<Leader>> {
    match address {
        MasterAddress::Fixed { host, port } => watch::channel(Some(Leader::at(host, *port))).1,
        MasterAddress::ZooKeeper(address) => {
            let (sender, receiver) = watch::channel(None);
            let address = address.clone();
            tokio::spawn(async move {
                let sender = Detecting(sender);
                tokio::select! {
                    () = follow(&address, &sender.0) => {}
                    () = sender.0.closed() => {}
                }
            });
            receiver
        }
    }
}

/// Says that nobody leads when the detection panics, so that those who wait for a leader notice.
struct Detecting(watch::Sender<Option<Leader>>);

impl Drop for Detecting {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(None);
        }
    }
}

/// Never returns: every error is followed by another attempt.
async fn follow(address: &ZooKeeperAddress, leader: &watch::Sender<Option<Leader>>) {
    let mut backoff = Backoff::new(FIRST_DELAY, MAX_DELAY);
    loop {
        let error = match connect(address).await {
            Ok(client) => follow_session(&client, address, leader, &mut backoff).await,
            Err(error) => error,
        };
        let delay = backoff.next_delay();
        warn!(%address, %error, delay_ms = delay.as_millis() as u64, "ZooKeeper unavailable; the last known leader stays");
        tokio::time::sleep(delay).await;
    }
}

/// Follows the election on one session until the session fails.
async fn follow_session(
    client: &zk::Client,
    address: &ZooKeeperAddress,
    leader: &watch::Sender<Option<Leader>>,
    backoff: &mut Backoff,
) -> zk::Error {
    loop {
        let watcher = match read_leader(client, address, leader).await {
            Ok(watcher) => watcher,
            Err(error) => return error,
        };
        backoff.reset();
        if watcher.changed().await.event_type == zk::EventType::Session {
            return zk::Error::SessionExpired;
        }
    }
}

/// Publishes who leads now; the watcher fires when that may have changed.
async fn read_leader(
    client: &zk::Client,
    address: &ZooKeeperAddress,
    leader: &watch::Sender<Option<Leader>>,
) -> Result<zk::OneshotWatcher, zk::Error> {
    let (children, watcher) = loop {
        match client.list_and_watch_children(&address.path).await {
            // No master has ever stood for election here: wait for the path to be created.
            Err(zk::Error::NoNode) => {
                publish(leader, None);
                let (stat, watcher) = client.check_and_watch_stat(&address.path).await?;
                if stat.is_none() {
                    return Ok(watcher);
                }
            }
            other => break other?,
        }
    };
    let Some(node) = leading_node(&children) else {
        publish(leader, None);
        return Ok(watcher);
    };
    match client.get_data(&format!("{}/{node}", address.path)).await {
        // Gone since it was listed: the watch fires at once.
        Err(zk::Error::NoNode) => {}
        Err(error) => return Err(error),
        Ok((data, _)) => match Leader::from_json(&data) {
            Ok(announced) => publish(leader, Some(announced)),
            Err(error) => {
                warn!(node, %error, "the leader's announcement cannot be read");
                publish(leader, None);
            }
        },
    }
    Ok(watcher)
}

fn publish(leader: &watch::Sender<Option<Leader>>, now: Option<Leader>) {
    leader.send_if_modified(|current| {
        let changed = *current != now;
        if changed {
            info!(leader = now.as_ref().map(Leader::authority), "leading master");
            *current = now;
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_detection_that_panics_is_noticed() {
        let (sender, mut receiver) = watch::channel(Some(Leader::at("m", 5050)));
        let detection = tokio::spawn(async move {
            let _sender = Detecting(sender);
            panic!("injected");
        });
        assert!(detection.await.expect_err("panicked").is_panic());
        assert!(receiver.wait_for(Option::is_some).await.is_err());
    }

    #[tokio::test]
    async fn a_fixed_address_leads_always() {
        let address = MasterAddress::parse("127.0.0.1:5050").expect("valid");
        let receiver = detect(&address);
        let leader = receiver.borrow().clone().expect("known at once");
        assert_eq!(leader.authority(), "127.0.0.1:5050");
    }
}
