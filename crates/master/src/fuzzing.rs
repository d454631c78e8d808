//! What the fuzz targets reach of this crate: how a peer's messages become events, and how the state and what the
//! kernel says are written. Not for anyone else.

use crate::{
    identity::Identity,
    ingress::{self, Known},
    operator, speech,
    views::cluster::{StateView, SummaryView},
};
use bellows_kernel::{
    Time,
    master::{AgentCommand, Config, Event, LinkId, Observation, RequestId, SchedulerEvent, State},
};
use bellows_model::{FrameworkId, StreamId};
use bellows_wire::{
    convert::ResourceFormat,
    link::{AgentMessage, MasterMessage},
    v1::{
        master::{Event as Observed, response::GetState},
        scheduler,
    },
};
use std::{net::SocketAddr, time::Duration};

/// A scheduler's call as an event; `None`: it is refused.
pub fn scheduler_event(call: scheduler::Call, request: RequestId, stream: StreamId) -> Option<Event> {
    let framework_id = call.framework_id.clone();
    match Known::try_from(call).ok()? {
        Known::Subscribe { info, suppressed_roles } => {
            Some(Event::Subscribe { request, stream, info, suppressed_roles })
        }
        Known::Other(call) => {
            let framework_id = FrameworkId::try_from(framework_id?).ok()?;
            Some(Event::Call { request, framework_id, stream, call })
        }
    }
}

/// An agent's message as an event; the error says why the link ends.
pub fn link_event(
    link: LinkId,
    peer: SocketAddr,
    registered: &mut bool,
    message: AgentMessage,
) -> Result<Option<Event>, String> {
    let event = ingress::link_event(link, peer, *registered, message).map_err(|error| error.to_string())?;
    *registered |= event.is_some();
    Ok(event)
}

/// The framework that the form of `POST /teardown` names.
pub fn named_framework(body: &[u8]) -> Option<FrameworkId> {
    ingress::named_framework(body)
}

/// The answer to an operator's GET_STATE.
pub fn get_state(state: &State) -> GetState {
    operator::get_state(state)
}

/// What operators who watch are told.
pub fn observed(state: &State, observation: Observation) -> Option<Observed> {
    operator::observed(state, observation)
}

/// What a master says, in the messages of the wire.
pub struct Speech(Identity);

impl Speech {
    pub fn new(config: &Config, announced: SocketAddr) -> Self {
        Self(Identity::new(config, announced, None, Time(0)))
    }

    pub fn to_agent(&self, command: AgentCommand) -> MasterMessage {
        self.0.to_agent(command)
    }

    pub fn to_scheduler(&self, event: SchedulerEvent, resources: ResourceFormat) -> scheduler::Event {
        speech::scheduler_event(event, resources, &self.0.master_info(), Duration::from_secs(15))
    }

    /// `/state` and `/state-summary`.
    pub fn legacy_state(&self, state: &State) -> serde_json::Result<[Vec<u8>; 2]> {
        let leader = self.0.as_leader();
        let whole = StateView::new(state, &self.0, &leader, &[]);
        Ok([serde_json::to_vec(&whole)?, serde_json::to_vec(&SummaryView::new(state, &self.0))?])
    }
}
