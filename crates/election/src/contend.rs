//! A master's candidacy: an ephemeral sequence node under the election's path, and whether it leads.
//!
//! It never says `Leading` when ZooKeeper may already have given the lead to another: out of contact for a part of
//! the session timeout, it withdraws first and asks afterwards.

use tokio::sync::watch;
use tracing::{info, warn};
use zookeeper_client as zk;

use crate::address::ZooKeeperAddress;
use crate::backoff::Backoff;
use crate::leader::Leader;
use crate::zookeeper::{FIRST_DELAY, MAX_DELAY, NODE_PREFIX, SESSION_TIMEOUT, connect, sequence};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not announced: on the way in, or out of contact with ZooKeeper.
    Absent,
    /// Announced; another master leads.
    Following,
    Leading,
}

/// Stands for election until the last receiver is dropped; the announcement is then withdrawn.
/// Must be called within a Tokio runtime.
pub fn contend(address: &ZooKeeperAddress, candidate: &Leader) -> watch::Receiver<Standing> {
    let (sender, receiver) = watch::channel(Standing::Absent);
    let (address, announcement) = (address.clone(), candidate.to_json());
    tokio::spawn(async move {
        tokio::select! {
            () = stand(&address, &announcement, &sender) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// Never returns: a lost candidacy is followed by another.
async fn stand(address: &ZooKeeperAddress, announcement: &[u8], standing: &watch::Sender<Standing>) {
    let mut backoff = Backoff::new(FIRST_DELAY, MAX_DELAY);
    loop {
        let error = match connect(address).await {
            Ok(client) => {
                let lost = stand_in_session(&client, address, announcement, standing, &mut backoff);
                let error = lost.await.err().unwrap_or(zk::Error::ConnectionLoss);
                // Before the session is closed, which lets the next master lead.
                publish(standing, Standing::Absent);
                error
            }
            Err(error) => error,
        };
        let delay = backoff.next_delay();
        warn!(%address, %error, delay_ms = delay.as_millis() as u64, "not a candidate; standing again");
        tokio::time::sleep(delay).await;
    }
}

/// Announces, and follows the election until the announcement can no longer be relied upon.
async fn stand_in_session(
    client: &zk::Client,
    address: &ZooKeeperAddress,
    announcement: &[u8],
    standing: &watch::Sender<Standing>,
    backoff: &mut Backoff,
) -> Result<(), zk::Error> {
    let mut contact = client.state_watcher();
    tokio::select! {
        result = announce_and_follow(client, address, announcement, standing, backoff) => result,
        () = contact_lost(&mut contact) => Err(zk::Error::ConnectionLoss),
    }
}

async fn announce_and_follow(
    client: &zk::Client,
    address: &ZooKeeperAddress,
    announcement: &[u8],
    standing: &watch::Sender<Standing>,
    backoff: &mut Backoff,
) -> Result<(), zk::Error> {
    // As Mesos: with credentials only their owner may write, everybody may find the leader.
    let acls = if address.credentials.is_some() { owner_writes_all_read() } else { zk::Acls::anyone_all() };
    client.mkdir(&address.path, &zk::CreateMode::Persistent.with_acls(acls)).await?;
    let prefix = format!("{}/{NODE_PREFIX}", address.path);
    let options = zk::CreateMode::EphemeralSequential.with_acls(acls);
    let (_, number) = client.create(&prefix, announcement, &options).await?;
    backoff.reset();
    loop {
        let (children, watcher) = client.list_and_watch_children(&address.path).await?;
        let mut numbers: Vec<i64> = children.iter().filter_map(|name| sequence(name)).collect();
        numbers.sort_unstable();
        let mine = number.into_i64();
        match numbers.binary_search(&mine) {
            Ok(0) => publish(standing, Standing::Leading),
            Ok(_) => publish(standing, Standing::Following),
            // Somebody deleted the announcement.
            Err(_) => return Err(zk::Error::NoNode),
        }
        if watcher.changed().await.event_type == zk::EventType::Session {
            return Err(zk::Error::SessionExpired);
        }
    }
}

/// Returns when contact is lost for so long that the session may soon expire. ZooKeeper's client notices silence
/// after 2/5 of the timeout; another 1/3 leaves the rest for the process to stop leading.
async fn contact_lost(contact: &mut zk::StateWatcher) {
    let mut state = contact.state();
    loop {
        state = match state {
            zk::SessionState::SyncConnected => contact.changed().await,
            zk::SessionState::Disconnected | zk::SessionState::ConnectedReadOnly => {
                match tokio::time::timeout(SESSION_TIMEOUT / 3, contact.changed()).await {
                    Ok(state) => state,
                    Err(_) => return,
                }
            }
            zk::SessionState::Expired | zk::SessionState::AuthFailed | zk::SessionState::Closed => return,
        };
    }
}

fn owner_writes_all_read() -> zk::Acls<'static> {
    const ACLS: &[zk::Acl] = &[
        zk::Acl::new_const(zk::Permission::ALL, "auth", ""),
        zk::Acl::new_const(zk::Permission::READ, "world", "anyone"),
    ];
    zk::Acls::new(ACLS)
}

fn publish(standing: &watch::Sender<Standing>, now: Standing) {
    standing.send_if_modified(|current| {
        let changed = *current != now;
        if changed {
            info!(standing = ?now, "election");
            *current = now;
        }
        changed
    });
}
