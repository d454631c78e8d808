//! Schedulers: when they connect, act and are replaced.
use super::{Client, Happening, ToMaster, World};
use crate::scheduler::{Mood, Scheduler};
use bellows_kernel::master::{Call, SchedulerEvent};

impl World {
    pub(super) fn start_scheduler(&mut self, number: usize) {
        self.report.frameworks += 1;
        self.after(0, 5_000, Happening::Connect(Client::Scheduler(number)));
        self.after(1_000, 10_000, Happening::SchedulerActs(number));
    }

    /// One that is over leaves its place to a new one.
    pub(super) fn replace_scheduler(&mut self, number: usize) {
        if !self.winding_down {
            let next = self.schedulers.len();
            self.schedulers.push(Scheduler::new(next, &mut self.random));
            self.start_scheduler(next);
        }
        self.schedulers[number].over = true;
    }

    pub(super) fn mood(&self) -> Mood {
        Mood {
            winding_down: self.winding_down,
            settled: self.settled,
            masters: self.masters,
            faultless: !self.settings.faults,
            lies: self.settings.lies,
        }
    }

    pub(super) fn scheduler_event(&mut self, number: usize, event: SchedulerEvent) {
        let mood = self.mood();
        let scheduler = &mut self.schedulers[number];
        let task = match &event {
            SchedulerEvent::Update(status) => Some(status.task_id.clone()),
            _ => None,
        };
        let open = |scheduler: &Scheduler| {
            task.as_ref()
                .is_some_and(|task| scheduler.tasks.get(task).is_some_and(|known| known.end.is_none()))
        };
        let was_open = open(scheduler);
        let calls = scheduler.on_event(event, &mood, &mut self.random);
        if was_open && !open(scheduler) {
            let known = task.as_ref().and_then(|task| scheduler.tasks.get(task));
            if let Some((state, _)) = known.and_then(|known| known.end) {
                *self.report.ended.entry(state).or_default() += 1;
            }
        }
        self.calls(number, calls);
    }

    pub(super) fn scheduler_acts(&mut self, number: usize) {
        let mood = self.mood();
        let scheduler = &mut self.schedulers[number];
        if scheduler.over {
            return;
        }
        if scheduler.connection.is_some() && scheduler.id().is_some() {
            let calls = scheduler.act(&mood, &mut self.random);
            self.calls(number, calls);
        }
        self.after(500, 10_000, Happening::SchedulerActs(number));
    }

    pub(super) fn calls(&mut self, number: usize, calls: Vec<Call>) {
        if let Some(connection) = self.schedulers[number].connection {
            calls.into_iter().for_each(|call| self.send_to_master(connection, ToMaster::Call(call)));
        }
    }
}
