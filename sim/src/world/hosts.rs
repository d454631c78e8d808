//! Agents: the real kernel on a machine, and what its actions do there.
use super::{Client, Happening, SECOND, ToMaster, World};
use bellows_kernel::{
    agent::{self, Exit},
    master::{AgentRegistration, AgentTask},
};
use bellows_model::{ContainerId, FrameworkId};

impl World {
    pub(super) fn agent_up(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        if machine.agent.is_some() {
            return;
        }
        machine.epoch += 1;
        let mut config = agent::Config::new(machine.info.clone(), self.random.next());
        config.resend_max = 60 * SECOND;
        let (state, actions) = agent::recover(config, self.now, machine.disk.clone(), machine.recovered());
        machine.agent = Some(state);
        self.agent_does(number, actions);
        self.reconnect(Client::Agent(number));
    }

    pub(super) fn agent_down(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.agent = None;
        machine.epoch += 1;
        machine.writes.clear();
        machine.tick = None;
        machine.last_write = self.now;
        if let Some(connection) = machine.connection.take() {
            self.drop_connection(connection);
        }
        self.after(100, 120_000, Happening::AgentUp(number));
    }

    pub(super) fn agent_step(&mut self, number: usize, event: agent::Event) {
        let Some(state) = &mut self.machines[number].agent else { return };
        let actions = agent::step(state, self.now, event.clone());
        if let Err(error) = agent::invariants(state) {
            panic!("after {event:?} on agent {number}: {error}");
        }
        self.agent_does(number, actions);
    }

    pub(super) fn agent_does(&mut self, number: usize, actions: Vec<agent::Action>) {
        for action in actions {
            self.agent_action(number, action);
        }
        let machine = &self.machines[number];
        let deadline = machine.agent.as_ref().and_then(agent::State::next_deadline);
        if let Some(deadline) = deadline.map(|deadline| deadline.max(self.now))
            && machine.tick.is_none_or(|tick| deadline < tick)
        {
            let epoch = machine.epoch;
            self.machines[number].tick = Some(deadline);
            self.at(deadline, Happening::AgentTick(number, epoch));
        }
    }

    pub(super) fn agent_action(&mut self, number: usize, action: agent::Action) {
        use agent::{Action, Event};
        match action {
            Action::Register { link, registration } => {
                let registration = AgentRegistration {
                    info: registration.info,
                    frameworks: registration.frameworks.iter().map(|info| (**info).clone()).collect(),
                    tasks: registration
                        .tasks
                        .into_iter()
                        .map(|task| AgentTask {
                            framework_id: task.framework_id,
                            info: (*task.info).clone(),
                            latest_state: task.latest_state,
                        })
                        .collect(),
                    shuffle_service_down: registration.shuffle_service_down,
                    condition: registration.condition,
                };
                self.send_to_master(link.0, ToMaster::Register(Box::new(registration)));
            }
            Action::Send { link, message } => self.send_to_master(link.0, ToMaster::Agent(message)),
            Action::Store { write, record } => {
                let delay = self.random.millis(1, 30);
                let machine = &mut self.machines[number];
                machine.last_write = machine.last_write.max(self.now + delay);
                machine.writes.push_back((write, record));
                let (when, epoch) = (machine.last_write, machine.epoch);
                self.at(when, Happening::Written(number, epoch));
            }
            Action::Fetch(job) => {
                self.machines[number].shuffle.insert(job.framework_id);
                let container_id = job.container_id;
                let event = if self.random.percent(3) {
                    Event::FetchFailed {
                        container_id,
                        fault: agent::Fault::Agent,
                        message: "no such file".into(),
                    }
                } else {
                    Event::Fetched { container_id }
                };
                self.tell_agent(number, 1, 5_000, event);
            }
            Action::Launch(job) => self.launch(number, &job),
            Action::Kill { container_id, grace } => {
                let longest = grace.min(60 * SECOND).as_millis() as u64 + 100;
                self.after(1, longest, Happening::ProcessEnds(number, container_id, Exit::Signaled(15)));
            }
            Action::Forget { container_id } => {
                let forgotten = self.machines[number].containers.remove(&container_id);
                assert_ne!(forgotten, Some(None), "a process that runs was forgotten");
            }
            Action::FindShuffle => {
                let frameworks = self.machines[number].shuffle.iter().cloned().collect();
                self.tell_agent(number, 1, 500, Event::ShuffleFound { frameworks });
            }
            Action::RemoveShuffle { framework_id } => self.remove_shuffle(number, framework_id),
            Action::CancelFetch { .. }
            | Action::Retire(_)
            | Action::ExecutorDeparted { .. }
            | Action::AskShuffleService
            | Action::Trouble { .. } => {}
            Action::StoreAnew(_) => unreachable!("no checkpoint vanishes here"),
            Action::Stop { reason } => panic!("an agent stops: {reason}"),
        }
    }

    pub(super) fn launch(&mut self, number: usize, job: &agent::Job) {
        let container_id = job.container_id.clone();
        if self.random.percent(3) {
            let message = "no such program".into();
            return self.tell_agent(
                number,
                1,
                200,
                agent::Event::LaunchFailed { container_id, fault: agent::Fault::Task, message },
            );
        }
        let key = (job.framework_id.clone(), job.task.task_id.clone());
        let twice = self.machines.iter().any(|machine| machine.is_running(&key.0, &key.1));
        assert!(!twice, "{key:?} was started while it runs");
        let machine = &mut self.machines[number];
        machine.started.insert(container_id.clone(), key);
        machine.containers.insert(container_id.clone(), None);
        let exit = if self.random.percent(70) { Exit::Exited(0) } else { Exit::Exited(1) };
        self.after(10, 60_000, Happening::ProcessEnds(number, container_id.clone(), exit));
        self.tell_agent(number, 1, 200, agent::Event::Launched { container_id, pid: 1 });
    }

    pub(super) fn process_ends(&mut self, number: usize, container_id: ContainerId, exit: Exit) {
        let Some(known) = self.machines[number].containers.get_mut(&container_id) else { return };
        if known.is_none() {
            *known = Some(exit);
            let epoch = self.machines[number].epoch;
            let event = agent::Event::Exited { container_id, exit, stderr: "no such file".into() };
            self.after(1, 20, Happening::Agent(number, epoch, Box::new(event)));
        }
    }

    pub(super) fn remove_shuffle(&mut self, number: usize, framework_id: FrameworkId) {
        assert!(self.ended.contains(&framework_id), "files of {framework_id:?} go while it lives");
        if self.random.percent(10) {
            return self.tell_agent(number, 1, 500, agent::Event::ShuffleRemovalFailed { framework_id });
        }
        self.machines[number].shuffle.remove(&framework_id);
        self.tell_agent(number, 1, 500, agent::Event::ShuffleRemoved { framework_id });
    }

    pub(super) fn tell_agent(&mut self, number: usize, from: u64, to: u64, event: agent::Event) {
        let epoch = self.machines[number].epoch;
        self.after(from, to, Happening::Agent(number, epoch, Box::new(event)));
    }
}
