//! The master: the real kernel, its tick, and what its actions do.
use super::{Happening, SECOND, ToClient, World, number};
use bellows_kernel::master::{self, Action, AgentCommand, Observation, SchedulerEvent};

impl World {
    pub(super) fn master_up(&mut self) {
        self.masters += 1;
        let mut config = master::Config::new(format!("m{}", self.masters));
        config.agent_reregister_timeout = 120 * SECOND;
        config.max_completed_tasks_per_framework = 200;
        config.max_completed_frameworks = 5;
        // Now and then it has a registry that tells which agents there were.
        let registry = self.random.percent(50);
        let known = self.machines.iter().filter(|machine| registry && machine.disk.agent_id.is_some());
        let known = known.map(|machine| {
            let mut info = machine.info.clone();
            info.id.clone_from(&machine.disk.agent_id);
            info
        });
        self.master = Some(master::State::recover(config, self.now, known));
        self.master_tick = None;
        self.schedule_master_tick();
    }

    pub(super) fn master_step(&mut self, event: master::Event) {
        let Some(state) = &mut self.master else { return };
        let checked = self.report.events.is_multiple_of(self.settings.check_every).then(|| event.clone());
        let actions = master::step(state, self.now, event);
        if let Some(event) = checked
            && let Err(error) = master::invariants(state)
        {
            panic!("after {event:?}: {error}");
        }
        for action in actions {
            self.master_does(action);
        }
        self.schedule_master_tick();
    }

    pub(super) fn master_does(&mut self, action: Action) {
        match action {
            Action::Send { stream, event } => {
                if let SchedulerEvent::Offers(offers) = &event {
                    self.report.offers += offers.len() as u64;
                }
                self.send_to_client(number(stream.as_str()), ToClient::Event(event));
            }
            Action::CloseStream { stream } => self.send_to_client(number(stream.as_str()), ToClient::Close),
            Action::Tell { link, command } => {
                if let AgentCommand::Refused { reason } = &command
                    && self.connections.contains_key(&link.0)
                {
                    panic!("an agent was refused: {reason}");
                }
                self.report.launched += u64::from(matches!(command, AgentCommand::Launch { .. }));
                self.send_to_client(link.0, ToClient::Command(Box::new(command)));
            }
            Action::CloseLink { link } => self.send_to_client(link.0, ToClient::Close),
            Action::Observe(Observation::FrameworkRemoved(id)) => {
                self.ended.insert(id);
            }
            Action::Observe(_) | Action::Respond { .. } | Action::Warn(_) | Action::Note(_) => {}
        }
    }

    pub(super) fn schedule_master_tick(&mut self) {
        let deadline = self.master.as_ref().and_then(master::State::next_deadline);
        if let Some(deadline) = deadline.map(|deadline| deadline.max(self.now))
            && self.master_tick.is_none_or(|tick| deadline < tick)
        {
            self.master_tick = Some(deadline);
            self.at(deadline, Happening::MasterTick);
        }
    }
}
