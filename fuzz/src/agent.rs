//! An agent: its kernel with a disk, containers and a shuffle service that never fail. After every step the invariants
//! hold, and all that the agent says is understood by a master.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bellows_agent::fuzzing::{from_master, ping_budget, register, to_master};
use bellows_kernel::Time;
use bellows_kernel::agent::{Action, Config, Event, Exit, LinkId, State, invariants, step};
use bellows_master::fuzzing::link_event;
use bellows_wire::link::{AgentMessage, MasterMessage, master_message::Message};

use crate::decoding::said;
use crate::master::agent_info;

const MAX_STEPS: usize = 20_000;

pub struct Agent {
    state: State,
    now: Time,
    steps: usize,
    link: LinkId,
    pids: u32,
    waiting: VecDeque<Event>,
    pub stopped: bool,
}

impl Default for Agent {
    fn default() -> Agent {
        let state = State::new(Config::new(agent_info(), 1), Time(0));
        let mut agent = Agent {
            state,
            now: Time(1_000_000_000),
            steps: 0,
            link: LinkId(0),
            pids: 100,
            waiting: VecDeque::new(),
            stopped: false,
        };
        agent.connect();
        agent
    }
}

impl Agent {
    pub fn connect(&mut self) {
        self.take(Event::LinkClosed { link: self.link });
        self.link.0 += 1;
        self.take(Event::LinkOpened { link: self.link });
    }

    /// `false`: the connection ends.
    pub fn hear(&mut self, message: MasterMessage) -> bool {
        match &message.message {
            Some(Message::Registered(registered)) => assert!(ping_budget(registered) > Duration::ZERO),
            Some(Message::TryLater(_)) => return false,
            _ => {}
        }
        match from_master(message) {
            Ok(Some(command)) => self.take(Event::Command { link: self.link, command: Box::new(command) }),
            Ok(None) => {}
            Err(_) => return false,
        }
        true
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.state.next_deadline()
            && due <= end
        {
            self.now = self.now.max(due);
            self.take(Event::Tick);
        }
        self.now = end;
    }

    fn take(&mut self, event: Event) {
        self.waiting.push_back(event);
        while let Some(event) = self.waiting.pop_front() {
            self.steps += 1;
            assert!(self.steps < MAX_STEPS, "there is no end to it: {event:?}");
            let text = format!("{event:?}");
            let actions = step(&mut self.state, self.now, event);
            invariants(&self.state).unwrap_or_else(|broken| panic!("{broken}, after {text}"));
            actions.into_iter().for_each(|action| self.act(action));
        }
    }

    fn act(&mut self, action: Action) {
        let outcome = match action {
            Action::Register { registration, .. } => return understood(&register(&registration), false),
            Action::Send { message, .. } => return understood(&to_master(message), true),
            Action::Stop { .. } => {
                self.stopped = true;
                return;
            }
            Action::Store { write, .. } => Event::Stored { upto: write },
            Action::Fetch(job) => Event::Fetched { container_id: job.container_id },
            Action::Launch(job) => {
                self.pids += 1;
                Event::Launched { container_id: job.container_id, pid: self.pids }
            }
            Action::Kill { container_id, .. } => {
                Event::Exited { container_id, exit: Exit::Signaled(15), stderr: String::new() }
            }
            Action::FindShuffle => Event::ShuffleFound { frameworks: vec!["m-0009".into()] },
            Action::RemoveShuffle { framework_id } => Event::ShuffleRemoved { framework_id },
            Action::CancelFetch { .. }
            | Action::Forget { .. }
            | Action::Retire(_)
            | Action::ExecutorDeparted { .. }
            | Action::AskShuffleService
            | Action::Trouble { .. }
            | Action::StoreAnew(_) => return,
        };
        self.waiting.push_back(outcome);
    }
}

fn understood(message: &AgentMessage, mut registered: bool) {
    let peer = SocketAddr::from(([127, 0, 0, 1], 9));
    let heard = link_event(bellows_kernel::master::LinkId(1), peer, &mut registered, said(message));
    assert!(matches!(heard, Ok(Some(_))), "{heard:?}: {message:?}");
}
