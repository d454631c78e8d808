//! Refusals of clients that did not say for how long: Mesos' 5 s would be Spark's wait for its next executor.
//!
//! Spark's backend declines what it has no use for without a filter, and says nothing when it then wants more. So it
//! is asked again soon, for as long as asking costs little: the more pairs of an idle client and an agent there are,
//! the more rarely each is asked.
use super::{AgentIndex, Allocator, ClientIndex};
use crate::Time;
use bellows_model::{Filters, Resources};
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(100);
/// The longest where asking costs little. An application that wants more waits half as long on average.
const LONGEST_OF_FEW: Duration = Duration::from_millis(400);
const LONGEST: Duration = Filters::DEFAULT_REFUSE;
/// What is added for each pair of an idle client and an agent: all together are asked 250 times a second at most,
/// until `LONGEST` is reached.
const PAUSE_FOR_EACH_PAIR: Duration = Duration::from_millis(4);
/// A refusal is as long as this part of the time for which the client has been declining.
const PART_OF_IDLE_TIME: u32 = 50;

impl Allocator {
    /// The client does not want `resources` of the agent now and did not say for how long.
    pub fn refuse_for_now(
        &mut self,
        agent: AgentIndex,
        client: ClientIndex,
        resources: &Resources,
        now: Time,
    ) {
        let slot = &mut self.clients[client.0 as usize];
        let since = *slot.idle_since.get_or_insert_with(|| {
            self.idle_clients += 1;
            now
        });
        slot.unsaid_on.insert(agent.0);
        let until = now + self.patience(now.since(since));
        self.add_refusal(agent, client, resources, (until, Some(now + SHORTEST)));
    }

    /// The client did something that says that it may want more by now: what it refused without a filter is offered
    /// again, yet never sooner than the shortest such refusal ends.
    pub fn reconsider(&mut self, client: ClientIndex, now: Time) {
        self.end_idleness(client.0);
        let agents = std::mem::take(&mut self.clients[client.0 as usize].unsaid_on);
        for &agent in &agents {
            for refusal in &mut self.agents[agent as usize].refusals {
                if refusal.client == client.0 {
                    refusal.until = refusal.unsaid.map_or(refusal.until, |end| end.min(refusal.until));
                }
            }
            self.schedule_expiry(agent);
        }
        if !agents.is_empty() {
            self.expire(now);
        }
    }

    pub(super) fn end_idleness(&mut self, client: u32) {
        if self.clients[client as usize].idle_since.take().is_some() {
            self.idle_clients -= 1;
        }
    }

    fn patience(&self, idle: Duration) -> Duration {
        let agents = self.agents.len() - self.vacant_agents.len();
        let pairs = u32::try_from(agents * self.idle_clients).unwrap_or(u32::MAX);
        let crowd = PAUSE_FOR_EACH_PAIR.saturating_mul(pairs).min(LONGEST);
        (idle / PART_OF_IDLE_TIME).clamp(SHORTEST.max(crowd), LONGEST_OF_FEW.max(crowd))
    }
}
