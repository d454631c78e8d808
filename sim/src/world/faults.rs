//! What goes wrong.
use super::{Client, Happening, World};
use bellows_kernel::{agent, master::Call};

impl World {
    pub(super) fn fault(&mut self) {
        if self.winding_down {
            return;
        }
        match self.random.below(10) {
            0..=2 => {
                let all: Vec<_> = self.connections.keys().copied().collect();
                if let Some(&connection) = self.random.pick(&all) {
                    self.drop_connection(connection);
                }
            }
            3 | 4 => {
                let number = self.random.below(self.machines.len());
                self.report.agent_crashes += 1;
                self.crash_agent(number);
            }
            5 => self.reboot(),
            6 => self.crash_master(),
            // Another instance of a scheduler takes over, while the first is still there.
            7 | 8 => {
                let number = self.random.below(self.schedulers.len());
                if self.schedulers[number].id().is_some() {
                    self.schedulers[number].lost_connection();
                    self.connect(Client::Scheduler(number));
                }
            }
            _ => {
                let number = self.random.below(self.schedulers.len());
                if !self.schedulers[number].over {
                    self.calls(number, vec![Call::Teardown]);
                }
            }
        }
        self.after(500, 30_000, Happening::Fault);
    }

    pub(super) fn crash_agent(&mut self, number: usize) {
        if self.machines[number].agent.is_some() {
            self.agent_down(number);
        }
    }

    /// All processes are gone. Sometimes the disk comes up empty: another agent, at the same address.
    pub(super) fn reboot(&mut self) {
        let number = self.random.below(self.machines.len());
        self.report.reboots += 1;
        self.crash_agent(number);
        self.machines[number].containers.clear();
        if self.random.percent(30) {
            self.machines[number].disk = agent::Checkpoint::default();
            self.machines[number].shuffle.clear();
        }
    }

    pub(super) fn crash_master(&mut self) {
        if self.master.take().is_none() {
            return;
        }
        self.report.master_crashes += 1;
        let all: Vec<_> = self.connections.keys().copied().collect();
        for connection in all {
            self.drop_connection(connection);
        }
        self.after(100, 10_000, Happening::MasterUp);
    }
}
