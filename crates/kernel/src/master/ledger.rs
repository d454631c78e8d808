//! The books: who holds what of which agent. Every change of `used` and `offered` is made here.
use super::Step;
use crate::allocator::{AgentIndex, ClientIndex};
use bellows_model::{AgentId, ExecutorId, FrameworkId, Resources, TaskId};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Account {
    Used,
    Offered,
}

impl Step<'_> {
    /// Enters what the allocator granted already.
    pub(super) fn enter(
        &mut self,
        account: Account,
        framework: &FrameworkId,
        agent: &AgentId,
        sum: &Resources,
    ) {
        let (of_framework, of_agent) = self.balances(account, framework, agent);
        of_framework.add(&sum.scalars());
        of_agent.add(sum);
    }

    pub(super) fn strike(
        &mut self,
        account: Account,
        framework: &FrameworkId,
        agent: &AgentId,
        sum: &Resources,
    ) {
        let strike = |balance: &mut Resources, sum: &Resources| {
            assert!(balance.take(sum), "invariant: what leaves the books was in them");
        };
        let (of_framework, of_agent) = self.balances(account, framework, agent);
        strike(of_framework, &sum.scalars());
        strike(of_agent, sum);
    }

    /// Takes free resources into use.
    pub(super) fn charge(&mut self, framework: &FrameworkId, role: &str, agent: &AgentId, sum: &Resources) {
        let client = self.client(framework, role);
        let index = self.index(agent);
        self.state.allocator.charge(index, client, sum);
        self.enter(Account::Used, framework, agent, sum);
        self.drop_unused_client(framework, role);
    }

    /// Makes resources free again.
    pub(super) fn release(
        &mut self,
        account: Account,
        framework: &FrameworkId,
        role: &str,
        agent: &AgentId,
        sum: &Resources,
    ) {
        self.strike(account, framework, agent, sum);
        let client = self.client(framework, role);
        let index = self.index(agent);
        self.state.allocator.release(index, client, sum);
        self.drop_unused_client(framework, role);
    }

    /// Gives up the framework's ordinal in the role where it is not connected and holds nothing: there are not many.
    fn drop_unused_client(&mut self, framework: &FrameworkId, role: &str) {
        let allocator = &mut self.state.allocator;
        let framework = self.state.frameworks.get_mut(framework).expect("invariant: a known framework");
        if framework.stream.is_none()
            && let Some(&client) = framework.clients.get(role)
            && allocator.is_idle(client)
        {
            allocator.remove_client(client);
            framework.clients.remove(role);
        }
    }

    /// Whether the framework has a task or an executor on the agent.
    pub(super) fn has_anything_on(&self, framework: &FrameworkId, agent: &AgentId) -> bool {
        let Some(agent) = self.state.agents.get(agent) else { return false };
        let task = (framework.clone(), TaskId::from(""));
        let executor = (framework.clone(), ExecutorId::from(""));
        agent.tasks.range(task..).next().is_some_and(|(of, _)| of == framework)
            || agent.executors.range(executor..).next().is_some_and(|((of, _), _)| of == framework)
    }

    /// Whether there was such an executor.
    pub(super) fn remove_executor(
        &mut self,
        framework: &FrameworkId,
        agent: &AgentId,
        executor: &ExecutorId,
    ) -> bool {
        let key = (framework.clone(), executor.clone());
        let removed = self.agent_mut(agent).executors.remove(&key);
        if let Some(executor) = &removed {
            self.release(Account::Used, framework, &executor.role, agent, &executor.info.resources);
        }
        removed.is_some()
    }

    /// Removes the executors of `framework`, or all, from the agent; says how many there were.
    pub(super) fn remove_executors(&mut self, agent: &AgentId, of: Option<&FrameworkId>) -> usize {
        let executors = &self.state.agents[agent].executors;
        let keys: Vec<_> = match of {
            None => executors.keys().cloned().collect(),
            Some(of) => {
                let first = (of.clone(), ExecutorId::from(""));
                let own = executors.range(first..).take_while(|((framework, _), _)| framework == of);
                own.map(|(key, _)| key.clone()).collect()
            }
        };
        for (framework, executor) in &keys {
            self.remove_executor(framework, agent, executor);
        }
        keys.len()
    }

    /// Takes a task that no longer holds resources from the books.
    pub(super) fn release_task(&mut self, framework: &FrameworkId, task: &TaskId) {
        let task = &self.state.frameworks[framework].tasks[task];
        let (role, info) = (task.role.clone(), task.info.clone());
        self.release(Account::Used, framework, &role, &info.agent_id, &info.resources);
    }

    /// The framework's ordinal in the role; it gets one if it has none yet.
    pub(super) fn client(&mut self, framework_id: &FrameworkId, role: &str) -> ClientIndex {
        let framework = self.state.frameworks.get_mut(framework_id).expect("invariant: a known framework");
        if let Some(&client) = framework.clients.get(role) {
            return client;
        }
        let client = self.state.allocator.add_client(framework_id.clone(), role);
        framework.clients.insert(role.to_owned(), client);
        client
    }

    pub(super) fn index(&self, agent: &AgentId) -> AgentIndex {
        self.state.agents[agent].index.expect("invariant: only agents within reach hold anything")
    }

    fn balances(
        &mut self,
        account: Account,
        framework: &FrameworkId,
        agent: &AgentId,
    ) -> (&mut Resources, &mut Resources) {
        let framework = self.state.frameworks.get_mut(framework).expect("invariant: a known framework");
        let agent = self.state.agents.get_mut(agent).expect("invariant: a known agent");
        match account {
            Account::Used => (&mut framework.used, &mut agent.used),
            Account::Offered => (&mut framework.offered, &mut agent.offered),
        }
    }

    pub(super) fn agent_mut(&mut self, agent: &AgentId) -> &mut super::Agent {
        self.state.agents.get_mut(agent).expect("invariant: a known agent")
    }

    pub(super) fn framework_mut(&mut self, framework: &FrameworkId) -> &mut super::Framework {
        self.state.frameworks.get_mut(framework).expect("invariant: a known framework")
    }
}
