//! Frameworks come, come back, and end.
use super::{
    AgentCommand, CallError, Framework, FrameworkChange, Observation, RequestId, Response, SchedulerEvent,
    Step,
    state::Timer,
    work::{EndOfOffer, Told, Work},
};
use crate::allocator::ClientTraits;
use bellows_model::{Capability, FrameworkId, FrameworkInfo, OfferId, StreamId, validate_role};
use std::{collections::BTreeSet, sync::Arc};

/// Most frameworks that were removed, but for some of their tasks. They do not count to `Config::max_frameworks`; while there
/// are more, no new one is taken.
const MAX_ENDING: usize = 1_000;

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
        let (framework_id, change) = match admitted {
            Ok(admitted) => admitted,
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
        framework.reported_users.clear();
        framework.reregistered = now;
        self.state.counters.frameworks_back += u64::from(change == FrameworkChange::Back);
        self.note_framework(&framework_id, change);
        self.count(&framework_id, |counters| *counters.calls.entry("subscribe").or_default() += 1);
        self.send(&framework_id, SchedulerEvent::Subscribed { framework_id: framework_id.clone() });
        self.refresh_clients(&framework_id);
        self.reconsider(&framework_id);
    }

    /// Makes the framework known as `info` has it; says why not.
    fn admit(
        &mut self,
        mut info: FrameworkInfo,
        suppressed_roles: Vec<String>,
    ) -> Result<(FrameworkId, FrameworkChange), String> {
        validate_info(&info)?;
        let suppressed_roles = validate_suppressed(&info, suppressed_roles)?;
        if let Some(id) = info.id.clone() {
            self.validate_chosen_id(&id)?;
        }
        self.make_room(&info)?;
        let id = info.id.clone().unwrap_or_else(|| self.next_framework_id());
        info.id = Some(id.clone());
        let mut change = FrameworkChange::Back;
        if self.state.frameworks.get(&id).is_some_and(|known| known.recovered) {
            // So far only agents have spoken of it, and one of them may have lied.
            self.kill_tasks_of_others(&id, &info.user);
            self.framework_mut(&id).registered = self.now;
            self.set_info(&id, info);
        } else if let Some(known) = self.state.frameworks.get(&id) {
            if known.info.principal != info.principal {
                return Err("Changing framework's principal is not allowed.".into());
            }
            // Mesos keeps the old one without a word: tasks would run as another user than the subscriber believes.
            if known.info.user != info.user {
                return Err(format!(
                    "Changing framework's user is not allowed: {id} is known with user '{}', not '{}'",
                    known.info.user, info.user
                ));
            }
            // This cannot change either; the old one is kept, as in Mesos.
            info.checkpoint = known.info.checkpoint;
            self.set_info(&id, info);
        } else {
            self.state.frameworks.insert(id.clone(), Framework::new(info, self.now));
            self.observe(Observation::FrameworkAdded(id.clone()));
            change = FrameworkChange::Subscribed;
        }
        self.framework_mut(&id).suppressed_roles = suppressed_roles;
        Ok((id, change))
    }

    /// Kills the tasks on agents that said that the framework has another user: they run as somebody else.
    fn kill_tasks_of_others(&mut self, framework_id: &FrameworkId, user: &str) {
        let framework = self.framework_mut(framework_id);
        let reported = std::mem::take(&mut framework.reported_users);
        for (agent_id, other) in reported.into_iter().filter(|(_, other)| other != user) {
            let tasks = self.state.frameworks[framework_id].tasks.values();
            let tasks = tasks.filter(|task| task.info.agent_id == agent_id && !task.state.is_terminal());
            let tasks: Vec<_> = tasks.map(|task| task.info.task_id.clone()).collect();
            self.warn(format!(
                "framework {framework_id} has user '{user}', and {} of its tasks on agent {agent_id} have '{other}': \
                 they are killed",
                tasks.len()
            ));
            self.spend(tasks.len());
            for task_id in tasks {
                let framework_id = framework_id.clone();
                self.agent_mut(&agent_id).killed.insert((framework_id.clone(), task_id.clone()), None);
                self.tell(&agent_id, AgentCommand::Kill { framework_id, task_id, grace: None });
            }
        }
    }

    /// A framework may choose an id, as one of a previous master does; but none that this master gives to somebody else.
    fn validate_chosen_id(&self, id: &FrameworkId) -> Result<(), String> {
        let known = self.state.frameworks.get(id).map(|framework| framework.ending);
        match known {
            Some(false) => Ok(()),
            None if !self.state.is_completed(id) && !self.state.is_frameworks_of_our_making(id) => Ok(()),
            // Of the ids of this master's making, those that are not known have ended long ago, or were never given.
            Some(true) | None => Err("Framework has been removed".into()),
        }
    }

    fn next_framework_id(&mut self) -> FrameworkId {
        loop {
            let id = format!("{}-{:04}", self.state.config.master_id, self.state.ids.frameworks);
            let id = FrameworkId::new(id);
            self.state.ids.frameworks += 1;
            if !self.state.frameworks.contains_key(&id) {
                return id;
            }
        }
    }

    /// Sees to it that the framework fits in: the one without tasks that is disconnected for longest has to go.
    fn make_room(&mut self, info: &FrameworkInfo) -> Result<(), String> {
        let known = info.id.as_ref().and_then(|id| self.state.frameworks.get(id));
        let (known, new_roles) = match known {
            None => (false, info.roles.len()),
            Some(known) => {
                let new = info.roles.iter().filter(|role| !known.clients.contains_key(*role));
                (true, new.count())
            }
        };
        if self.state.allocator.client_count() + new_roles > self.state.config.max_roles {
            return Err(format!(
                "The frameworks of this master are in as many roles as it can take ({}); use fewer roles",
                self.state.config.max_roles
            ));
        }
        if !known && self.state.ending >= MAX_ENDING {
            return Err(format!("The master is still removing {MAX_ENDING} frameworks; try again later"));
        }
        let full = self.state.frameworks.len() - self.state.ending >= self.state.config.max_frameworks;
        if known || !full {
            return Ok(());
        }
        match self.first_to_go() {
            Some(idle) => {
                self.remove_framework(&idle, "another needs its place");
                Ok(())
            }
            None => Err(format!(
                "The master has as many frameworks as it can take ({}), and each is connected or has tasks",
                self.state.config.max_frameworks
            )),
        }
    }

    /// The framework without tasks that is disconnected for longest. If there is none, the one that was brought by an agent
    /// first and has never subscribed: agents can bring as many as they like.
    fn first_to_go(&self) -> Option<FrameworkId> {
        let away = self.state.frameworks.iter().filter_map(|(id, framework)| {
            let in_use = !framework.tasks.is_empty() || !framework.used.is_empty();
            let may_go = framework.stream.is_none() && !framework.ending && (!in_use || framework.recovered);
            may_go.then_some((in_use, framework.disconnected, id))
        });
        away.min().map(|(.., id)| id.clone())
    }

    /// Ends the stream that a framework had, where it still has one: another instance takes over.
    fn replace_stream(&mut self, framework_id: &FrameworkId) {
        if let Some(old) = self.framework_mut(framework_id).stream.take() {
            self.state.streams.remove(&old);
            let event = SchedulerEvent::Error("Framework failed over".into());
            let name = event.name();
            self.count(framework_id, |counters| *counters.events.entry(name).or_default() += 1);
            self.send_to(&old, event);
            self.actions.push(super::Action::CloseStream { stream: old });
            self.discard_of_framework(framework_id);
        }
    }

    pub(super) fn framework_deadline(&mut self, framework_id: &FrameworkId) {
        self.framework_mut(framework_id).deadline = None;
        self.remove_framework(framework_id, "it did not come back in time");
    }

    pub(super) fn stream_closed(&mut self, stream: &StreamId) {
        let Some(framework_id) = self.state.streams.remove(stream) else { return };
        let now = self.now;
        let framework = self.framework_mut(&framework_id);
        framework.stream = None;
        framework.disconnected = Some(now);
        let timeout = framework.info.failover_timeout;
        if timeout.is_zero() {
            return self
                .remove_framework(&framework_id, "its stream is gone, and it has no failover timeout");
        }
        self.note_framework(&framework_id, FrameworkChange::Disconnected(timeout));
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
        self.note_framework(&id, FrameworkChange::Recovered(timeout));
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
        self.make_room(&info).map_err(|error| unchangeable(&error))?;
        self.set_info(framework_id, info);
        self.framework_mut(framework_id).suppressed_roles = suppressed_roles;
        self.refresh_clients(framework_id);
        self.reconsider(framework_id);
        Ok(())
    }

    /// Takes a new info over and tells those who have the old one.
    fn set_info(&mut self, framework_id: &FrameworkId, info: FrameworkInfo) {
        let framework = self.framework_mut(framework_id);
        if *framework.info == info {
            return;
        }
        framework.info = Arc::new(info);
        let mut backlog = self.state.backlog.iter_mut();
        let open = backlog.find_map(|work| match work {
            Work::UpdateAgents { framework_id: of, after } if of == framework_id => Some(after),
            _ => None,
        });
        match open {
            Some(after) => *after = None,
            None => {
                let work = Work::UpdateAgents { framework_id: framework_id.clone(), after: None };
                self.state.backlog.push_front(work);
            }
        }
        let left = self.offers_in_roles_left(framework_id);
        self.end_own_offers(framework_id, &left, EndOfOffer::Rescind);
        self.observe(Observation::FrameworkUpdated(framework_id.clone()));
    }

    fn offers_in_roles_left(&self, framework_id: &FrameworkId) -> Vec<OfferId> {
        let framework = &self.state.frameworks[framework_id];
        let roles: BTreeSet<_> = framework.info.roles.iter().collect();
        let left = |id: &&OfferId| !roles.contains(&self.state.offers[*id].role);
        framework.offers.iter().filter(left).cloned().collect()
    }

    /// Brings the allocator's view in line: which roles the framework is in, and whether it wants offers there.
    pub(super) fn refresh_clients(&mut self, framework_id: &FrameworkId) {
        let framework = &self.state.frameworks[framework_id];
        let connected = framework.stream.is_some();
        // Who is not connected has a place only where it holds something.
        let roles = framework.info.roles.iter().filter(|_| connected).cloned().collect::<BTreeSet<_>>();
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
        if self.state.live_framework(framework_id).is_none() {
            return self.respond(request, Err(CallError::NothingToTearDown));
        }
        self.respond(request, Ok(Response::Accepted));
        self.remove_framework(framework_id, "an operator ended it");
    }

    /// Ends a framework. Nobody hears from it or to it any more; the rest is done in slices.
    pub(super) fn remove_framework(&mut self, framework_id: &FrameworkId, why: &str) {
        if std::mem::replace(&mut self.framework_mut(framework_id).ending, true) {
            return;
        }
        self.state.ending += 1;
        self.note_framework(framework_id, FrameworkChange::Removed(why.to_owned()));
        self.disarm_framework(framework_id);
        if let Some(stream) = self.framework_mut(framework_id).stream.take() {
            self.state.streams.remove(&stream);
            self.actions.push(super::Action::CloseStream { stream });
        }
        self.refresh_clients(framework_id);
        let (id, told) = (framework_id.clone(), Told::UpTo(None));
        self.state.backlog.push_front(Work::EndFramework { framework_id: id, told });
        self.discard_of_framework(framework_id);
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
    let own: BTreeSet<_> = info.roles.iter().collect();
    match roles.iter().find(|role| !own.contains(role)) {
        Some(role) => Err(format!("Suppressed role '{role}' is not contained in the list of roles")),
        None => Ok(roles.into_iter().collect()),
    }
}
