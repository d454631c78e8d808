//! Frameworks come, come back, and end.
use super::{
    AgentCommand, CallError, Framework, Observation, RequestId, Response, SchedulerEvent, Step,
    offers::Refusal, state::Timer,
};
use crate::allocator::ClientTraits;
use bellows_model::{
    AgentId, Capability, FrameworkId, FrameworkInfo, Reason, StreamId, TaskState, validate_role,
};
use std::collections::BTreeSet;

impl Step<'_> {
    /// Whatever is wrong with a subscription comes as ERROR on its stream, which then closes, as in Mesos.
    pub(super) fn subscribe(
        &mut self,
        request: RequestId,
        stream: StreamId,
        info: FrameworkInfo,
        suppressed_roles: Vec<String>,
    ) {
        if self.state.streams.contains_key(&stream) {
            return self.respond(request, Err(CallError::Invalid("The stream is in use already".into())));
        }
        self.respond(request, Ok(Response::Subscribed));
        let admitted = self.admit(info, suppressed_roles);
        let framework_id = match admitted {
            Ok(framework_id) => framework_id,
            Err(message) => {
                self.state.counters.calls_refused += 1;
                self.send_to(&stream, SchedulerEvent::Error(message));
                return self.actions.push(super::Action::CloseStream { stream });
            }
        };
        self.replace_stream(&framework_id);
        self.state.streams.insert(stream.clone(), framework_id.clone());
        self.disarm_framework(&framework_id);
        let now = self.now;
        let framework = self.framework_mut(&framework_id);
        framework.stream = Some(stream);
        framework.disconnected = None;
        framework.recovered = false;
        framework.reregistered = now;
        self.send(&framework_id, SchedulerEvent::Subscribed { framework_id: framework_id.clone() });
        self.refresh_clients(&framework_id);
        self.reconsider(&framework_id);
    }

    /// Makes the framework known as `info` has it; says why not.
    fn admit(
        &mut self,
        mut info: FrameworkInfo,
        suppressed_roles: Vec<String>,
    ) -> Result<FrameworkId, String> {
        validate_info(&info)?;
        let suppressed_roles = validate_suppressed(&info, suppressed_roles)?;
        let id = match info.id.clone() {
            None => {
                let id = format!("{}-{:04}", self.state.config.master_id, self.state.ids.frameworks);
                self.state.ids.frameworks += 1;
                FrameworkId::new(id)
            }
            Some(id) if self.state.is_completed(&id) => return Err("Framework has been removed".into()),
            Some(id) => id,
        };
        info.id = Some(id.clone());
        if let Some(known) = self.state.frameworks.get(&id) {
            if known.info.principal != info.principal {
                return Err("Changing framework's principal is not allowed.".into());
            }
            // These cannot change; Mesos keeps the old ones without a word here.
            info.user = known.info.user.clone();
            info.checkpoint = known.info.checkpoint;
            if known.recovered {
                self.framework_mut(&id).registered = self.now;
            }
            self.set_info(&id, info);
        } else {
            if self.state.frameworks.len() >= self.state.config.max_frameworks {
                return Err("The master has as many frameworks as it can take".into());
            }
            self.state.frameworks.insert(id.clone(), Framework::new(info, self.now));
            self.observe(Observation::FrameworkAdded(id.clone()));
        }
        self.framework_mut(&id).suppressed_roles = suppressed_roles;
        Ok(id)
    }

    /// Ends the stream that a framework had, where it still has one: another instance takes over.
    fn replace_stream(&mut self, framework_id: &FrameworkId) {
        if let Some(old) = self.framework_mut(framework_id).stream.take() {
            self.state.streams.remove(&old);
            self.send_to(&old, SchedulerEvent::Error("Framework failed over".into()));
            self.actions.push(super::Action::CloseStream { stream: old });
            self.discard_of_framework(framework_id);
        }
    }

    pub(super) fn stream_closed(&mut self, stream: &StreamId) {
        let Some(framework_id) = self.state.streams.remove(stream) else { return };
        let now = self.now;
        let framework = self.framework_mut(&framework_id);
        framework.stream = None;
        framework.disconnected = Some(now);
        let timeout = framework.info.failover_timeout;
        if timeout.is_zero() {
            return self.remove_framework(&framework_id);
        }
        self.refresh_clients(&framework_id);
        self.discard_of_framework(&framework_id);
        self.arm_framework(&framework_id, now + timeout);
    }

    /// A framework of a previous master that an agent still has something of.
    pub(super) fn recover_framework(&mut self, info: FrameworkInfo) {
        let Some(id) = info.id.clone() else { return };
        let timeout = info.failover_timeout.max(self.state.config.agent_reregister_timeout);
        let mut framework = Framework::new(info, self.now);
        framework.recovered = true;
        framework.disconnected = Some(self.now);
        self.state.frameworks.insert(id.clone(), framework);
        self.observe(Observation::FrameworkAdded(id.clone()));
        self.arm_framework(&id, self.now + timeout);
    }

    pub(super) fn update_framework(
        &mut self,
        framework_id: &FrameworkId,
        mut info: FrameworkInfo,
        suppressed_roles: Vec<String>,
    ) -> Result<(), String> {
        info.id = Some(framework_id.clone());
        validate_info(&info).map_err(|error| format!("Supplied FrameworkInfo is not valid: {error}"))?;
        let known = &self.state.frameworks[framework_id].info;
        let unchangeable = |what: &str| format!("FrameworkInfo update is not valid: {what}");
        if known.principal != info.principal {
            return Err(unchangeable("Changing framework's principal is not allowed."));
        }
        if known.user != info.user {
            return Err(unchangeable("Updating 'FrameworkInfo.user' is unsupported"));
        }
        if known.checkpoint != info.checkpoint {
            return Err(unchangeable("Updating 'FrameworkInfo.checkpoint' is unsupported"));
        }
        let suppressed_roles = validate_suppressed(&info, suppressed_roles)
            .map_err(|error| format!("'UpdateFramework' call is not valid: {error}"))?;
        self.set_info(framework_id, info);
        self.framework_mut(framework_id).suppressed_roles = suppressed_roles;
        self.refresh_clients(framework_id);
        self.reconsider(framework_id);
        Ok(())
    }

    /// Takes a new info over and tells those who have the old one.
    fn set_info(&mut self, framework_id: &FrameworkId, info: FrameworkInfo) {
        let framework = self.framework_mut(framework_id);
        if framework.info == info {
            return;
        }
        framework.info = info.clone();
        let agents: BTreeSet<AgentId> =
            framework.tasks.values().map(|task| task.info.agent_id.clone()).collect();
        for agent in agents {
            self.tell(&agent, AgentCommand::UpdateFramework { framework: info.clone() });
        }
        let left: Vec<_> = self.offers_in_roles_left(framework_id);
        left.iter().for_each(|offer| self.rescind(offer, Refusal::None));
        self.observe(Observation::FrameworkUpdated(framework_id.clone()));
    }

    fn offers_in_roles_left(&self, framework_id: &FrameworkId) -> Vec<bellows_model::OfferId> {
        let roles = &self.state.frameworks[framework_id].info.roles;
        let left = |offer: &&bellows_model::Offer| {
            offer.framework_id == *framework_id && !roles.contains(&offer.role)
        };
        self.state.offers.values().filter(left).map(|offer| offer.id.clone()).collect()
    }

    /// Brings the allocator's view in line: which roles the framework is in, and whether it wants offers there.
    pub(super) fn refresh_clients(&mut self, framework_id: &FrameworkId) {
        let framework = &self.state.frameworks[framework_id];
        let connected = framework.stream.is_some();
        let roles = framework.info.roles.clone();
        let suppressed = framework.suppressed_roles.clone();
        let traits = ClientTraits {
            gpu_aware: framework.info.has(Capability::GpuResources),
            uses_shuffle_service: framework.info.uses_shuffle_service(),
        };
        for (role, client) in framework.clients.clone() {
            if roles.contains(&role) {
                continue;
            }
            self.state.allocator.set_wants(client, false);
            if self.state.allocator.is_idle(client) {
                self.state.allocator.remove_client(client);
                self.framework_mut(framework_id).clients.remove(&role);
            }
        }
        for role in roles {
            let client = self.client(framework_id, &role);
            self.state.allocator.set_traits(client, traits);
            self.state.allocator.set_wants(client, connected && !suppressed.contains(&role));
        }
    }

    pub(super) fn operator_teardown(&mut self, request: RequestId, framework_id: &FrameworkId) {
        if !self.state.frameworks.contains_key(framework_id) {
            return self.respond(request, Err(CallError::NothingToTearDown));
        }
        self.respond(request, Ok(Response::Accepted));
        self.remove_framework(framework_id);
    }

    /// Ends a framework: every agent shuts down what it has of it, tasks count as killed, offers are free again.
    pub(super) fn remove_framework(&mut self, framework_id: &FrameworkId) {
        self.disarm_framework(framework_id);
        self.discard_of_framework(framework_id);
        let agents: Vec<_> = self.state.agents.keys().cloned().collect();
        for agent in &agents {
            // An agent without tasks of it may still keep its shuffle files.
            self.tell(agent, AgentCommand::ShutdownFramework { framework_id: framework_id.clone() });
        }
        let stream = self.framework_mut(framework_id).stream.take();
        let message = format!("Framework {framework_id} removed");
        let tasks: Vec<_> = self.state.frameworks[framework_id].tasks.keys().cloned().collect();
        for task in tasks {
            self.end_task(framework_id, &task, TaskState::Killed, Reason::FrameworkRemoved, &message);
        }
        for agent in &agents {
            self.remove_executors(agent, Some(framework_id));
        }
        if let Some(stream) = stream {
            self.state.streams.remove(&stream);
            self.actions.push(super::Action::CloseStream { stream });
        }
        let mut framework = self.state.frameworks.remove(framework_id).expect("invariant: a known framework");
        for client in std::mem::take(&mut framework.clients).into_values() {
            self.state.allocator.remove_client(client);
        }
        framework.unregistered = Some(self.now);
        self.state.completed_frameworks.push_back(framework);
        while self.state.completed_frameworks.len() > self.state.config.max_completed_frameworks {
            self.state.completed_frameworks.pop_front();
        }
        self.observe(Observation::FrameworkRemoved(framework_id.clone()));
    }

    fn arm_framework(&mut self, framework_id: &FrameworkId, deadline: crate::Time) {
        self.disarm_framework(framework_id);
        self.framework_mut(framework_id).deadline = Some(deadline);
        self.state.timers.insert((deadline, Timer::Framework(framework_id.clone())));
    }

    fn disarm_framework(&mut self, framework_id: &FrameworkId) {
        if let Some(deadline) = self.framework_mut(framework_id).deadline.take() {
            self.state.timers.remove(&(deadline, Timer::Framework(framework_id.clone())));
        }
    }
}

fn validate_info(info: &FrameworkInfo) -> Result<(), String> {
    if let Some(id) = &info.id {
        id.validate().map_err(|error| error.to_string())?;
    }
    let mut seen = BTreeSet::new();
    for role in &info.roles {
        validate_role(role)
            .map_err(|error| format!("'FrameworkInfo.roles' contains invalid role: {error}"))?;
        if !seen.insert(role) {
            return Err(format!("'FrameworkInfo.roles' contains duplicate items: {{ {role} }}"));
        }
    }
    Ok(())
}

fn validate_suppressed(info: &FrameworkInfo, roles: Vec<String>) -> Result<BTreeSet<String>, String> {
    match roles.iter().find(|role| !info.roles.contains(role)) {
        Some(role) => Err(format!("Suppressed role '{role}' is not contained in the list of roles")),
        None => Ok(roles.into_iter().collect()),
    }
}
