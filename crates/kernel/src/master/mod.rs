//! What a master decides: who is subscribed, who is offered what, which task runs where.
//!
//! [`step`] is the only way to change a [`State`]. Semantics are those of Mesos 1.12 (`src/master/master.cpp`,
//! `validation.cpp`) where a comment does not say otherwise.
mod accept;
mod action;
mod agents;
mod calls;
mod copy;
mod counters;
mod event;
mod frameworks;
mod invariants;
mod ledger;
mod load;
mod offers;
mod state;
mod tasks;
mod work;

use crate::Time;
pub use action::{
    Action, AgentChange, AgentCommand, CallError, FrameworkChange, Note, Observation, Response,
    SchedulerEvent,
};
use bellows_model::{AgentId, FrameworkId, StreamId, clipped};
pub use copy::StateCopy;
pub use counters::{Counters, FrameworkCounters, Removal};
pub use event::{AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, Event, LinkId, RequestId};
pub use invariants::invariants;
pub use state::{Agent, Config, Executor, Framework, State, Task};
use std::sync::Arc;

/// Takes one event into account and says what is to be done about it, in order. What it freed is offered anew
/// among the same actions.
///
/// One step does a bounded amount of work. While [`State::has_work`], the next one goes on with what was left over,
/// whatever its event; if there is no other, [`Event::Tick`].
pub fn step(state: &mut State, now: Time, event: Event) -> Vec<Action> {
    let mut step = Step { state, now, actions: Vec::new(), left: work::SLICE };
    match event {
        Event::Tick => step.tick(),
        Event::Subscribe { request, stream, info, suppressed_roles } => {
            step.subscribe(request, stream, info, suppressed_roles);
        }
        Event::StreamClosed { stream } => step.stream_closed(&stream),
        Event::Call { request, framework_id, stream, call } => {
            step.call(request, &framework_id, &stream, call);
        }
        Event::OperatorTeardown { request, framework_id } => step.operator_teardown(request, &framework_id),
        Event::AgentRegister { link, registration } => step.register_agent(link, registration),
        Event::LinkClosed { link } => step.link_closed(link),
        Event::Agent { link, message } => step.agent_message(link, message),
        Event::AgentUnreadable { link, why } => step.agent_unreadable(link, &why),
    }
    step.work_off();
    step.make_offers();
    step.actions
}

/// Bytes of a line for the log, and of the reason of a refusal: both repeat what a peer said.
const MAX_TEXT: usize = 4 << 10;

/// One call of [`step`].
struct Step<'a> {
    state: &'a mut State,
    now: Time,
    actions: Vec<Action>,
    /// How much more may be done in this step.
    left: usize,
}

impl Step<'_> {
    fn tick(&mut self) {
        self.expire_timers();
        self.expire_offers();
        let now = self.now;
        self.state.allocator.expire(now);
    }

    fn expire_timers(&mut self) {
        while let Some((when, _)) = self.state.timers.first()
            && *when <= self.now
            && self.left > 0
        {
            let Some((_, timer)) = self.state.timers.pop_first() else { return };
            self.spend(1);
            match timer {
                state::Timer::Agent(id) => self.agent_deadline(&id),
                state::Timer::Framework(id) => self.framework_deadline(&id),
                state::Timer::Newcomer(link) => self.newcomer_deadline(link),
            }
        }
    }

    fn respond(&mut self, request: RequestId, response: Result<Response, CallError>) {
        if response.is_err() {
            self.state.counters.calls_refused += 1;
        }
        self.actions.push(Action::Respond { request, response });
    }

    fn observe(&mut self, observation: Observation) {
        self.actions.push(Action::Observe(observation));
    }

    /// Tells whoever operates the master.
    fn warn(&mut self, mut text: String) {
        text.truncate(clipped(&text, MAX_TEXT).len());
        self.actions.push(Action::Warn(text));
    }

    /// Tells the reader of the log.
    fn note_agent(&mut self, agent_id: &AgentId, change: AgentChange) {
        let info = Arc::clone(&self.state.agents[agent_id].info);
        self.actions.push(Action::Note(Note::Agent { info, change }));
    }

    fn note_framework(&mut self, framework_id: &FrameworkId, change: FrameworkChange) {
        let info = Arc::clone(&self.state.frameworks[framework_id].info);
        self.actions.push(Action::Note(Note::Framework { info, change }));
    }

    /// Sends to a stream that belongs to no framework.
    fn send_to(&mut self, stream: &StreamId, event: SchedulerEvent) {
        self.actions.push(Action::Send { stream: stream.clone(), event });
    }

    /// Sends to the framework; nothing if it is not connected.
    fn send(&mut self, framework_id: &FrameworkId, event: SchedulerEvent) {
        let framework = self.state.frameworks.get(framework_id);
        if let Some(stream) = framework.and_then(|framework| framework.stream.clone()) {
            let name = event.name();
            self.count(framework_id, |counters| *counters.events.entry(name).or_default() += 1);
            self.actions.push(Action::Send { stream, event });
        }
    }

    /// Tells the agent; nothing if it is not connected.
    fn tell(&mut self, agent_id: &AgentId, command: AgentCommand) {
        if let Some(link) = self.state.agents.get(agent_id).and_then(|agent| agent.link) {
            self.actions.push(Action::Tell { link, command });
        }
    }
}

#[cfg(test)]
mod tests;
