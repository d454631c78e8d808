//! A copy of what may be read of an agent's state: of the tasks of one machine, which takes a millisecond or two.
use super::{CompletedFramework, Framework, State};

impl State {
    /// Copies what may be read; never step the copy.
    pub fn to_read(&self) -> Self {
        let framework = |framework: &Framework| Framework {
            info: framework.info.clone(),
            tasks: framework.tasks.clone(),
            completed_tasks: framework.completed_tasks.clone(),
            ending: framework.ending,
        };
        let completed = |framework: &CompletedFramework| CompletedFramework {
            info: framework.info.clone(),
            completed_tasks: framework.completed_tasks.clone(),
        };
        let mut copy = Self::new(self.config.clone(), self.started);
        copy.agent_id.clone_from(&self.agent_id);
        copy.master.clone_from(&self.master);
        copy.frameworks = self.frameworks.iter().map(|(id, it)| (id.clone(), framework(it))).collect();
        copy.completed_frameworks = self.completed_frameworks.iter().map(completed).collect();
        copy.removals.clone_from(&self.removals);
        copy.health.clone_from(&self.health);
        copy.counters.clone_from(&self.counters);
        copy
    }
}
