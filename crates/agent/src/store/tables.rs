//! The checkpoint's tables, and how records change them. Messages are stored as on the wire.
use bellows_kernel::agent::{Checkpoint, Record, StoredTask};
use bellows_model::{
    AgentId, ContainerId, DEFAULT_ROLE, FrameworkId, FrameworkInfo, TaskId, TaskInfo, TaskStatus,
};
use bellows_wire::{convert::task_to_wire, v1};
use prost::Message as _;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use std::sync::Arc;

type Key = (&'static str, &'static str);

const AGENT: TableDefinition<'_, &str, &str> = TableDefinition::new("agent");
const FRAMEWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("frameworks");
/// Container and `TaskInfo`, by framework and task; so are the next three.
const TASKS: TableDefinition<'_, Key, (&str, &[u8])> = TableDefinition::new("tasks");
const KILLED: TableDefinition<'_, Key, ()> = TableDefinition::new("killed");
const ACKNOWLEDGED: TableDefinition<'_, Key, u64> = TableDefinition::new("acknowledged");
const STATUSES: TableDefinition<'_, (&str, &str, u64), &[u8]> = TableDefinition::new("statuses");
const REMOVALS: TableDefinition<'_, &str, ()> = TableDefinition::new("removals");

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// All of `records` or none, durable when it returns.
pub(super) fn write<'a>(
    database: &Database,
    records: impl Iterator<Item = &'a Record>,
) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    {
        let mut tables = Tables::open(&transaction)?;
        for record in records {
            tables.apply(record)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Lists the records that make a new file hold `checkpoint`.
pub(super) fn records(checkpoint: &Checkpoint) -> Vec<Record> {
    let mut records: Vec<Record> = checkpoint.agent_id.clone().map(Record::AgentId).into_iter().collect();
    records.extend(checkpoint.frameworks.iter().map(|info| Record::Framework(Arc::new(info.clone()))));
    records.extend(checkpoint.removals.iter().cloned().map(Record::Removal));
    for task in &checkpoint.tasks {
        let (framework_id, task_id) = (task.framework_id.clone(), task.info.task_id.clone());
        records.push(Record::Task {
            framework_id: framework_id.clone(),
            info: Arc::new(task.info.clone()),
            container_id: task.container_id.clone(),
        });
        records.extend(task.statuses.iter().enumerate().map(|(index, status)| Record::Status {
            framework_id: framework_id.clone(),
            index,
            status: status.clone(),
        }));
        if task.killed {
            records.push(Record::Killed { framework_id: framework_id.clone(), task_id: task_id.clone() });
        }
        records.push(Record::Acknowledged { framework_id, task_id, count: task.acknowledged });
    }
    records
}

struct Tables<'t> {
    agent: Table<'t, &'static str, &'static str>,
    frameworks: Table<'t, &'static str, &'static [u8]>,
    tasks: Table<'t, Key, (&'static str, &'static [u8])>,
    killed: Table<'t, Key, ()>,
    acknowledged: Table<'t, Key, u64>,
    statuses: Table<'t, (&'static str, &'static str, u64), &'static [u8]>,
    removals: Table<'t, &'static str, ()>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::TableError> {
        Ok(Self {
            agent: transaction.open_table(AGENT)?,
            frameworks: transaction.open_table(FRAMEWORKS)?,
            tasks: transaction.open_table(TASKS)?,
            killed: transaction.open_table(KILLED)?,
            acknowledged: transaction.open_table(ACKNOWLEDGED)?,
            statuses: transaction.open_table(STATUSES)?,
            removals: transaction.open_table(REMOVALS)?,
        })
    }

    fn apply(&mut self, record: &Record) -> Result<(), redb::StorageError> {
        match record {
            Record::AgentId(id) => drop(self.agent.insert("id", id.as_str())?),
            Record::ForgetAgentId => drop(self.agent.remove("id")?),
            Record::Framework(info) => {
                let id = info.id.as_ref().map_or("", FrameworkId::as_str);
                let bytes = v1::FrameworkInfo::from(&**info).encode_to_vec();
                self.frameworks.insert(id, &*bytes)?;
            }
            Record::ForgetFramework(id) => drop(self.frameworks.remove(id.as_str())?),
            Record::Task { framework_id, info, container_id } => {
                let key = (framework_id.as_str(), info.task_id.as_str());
                let bytes = task_to_wire(info, framework_id, DEFAULT_ROLE).encode_to_vec();
                self.tasks.insert(key, (container_id.as_str(), &*bytes))?;
            }
            Record::Killed { framework_id, task_id } => {
                self.killed.insert((framework_id.as_str(), task_id.as_str()), ())?;
            }
            Record::Status { framework_id, index, status } => {
                let key = (framework_id.as_str(), status.task_id.as_str(), *index as u64);
                let bytes = v1::TaskStatus::from(status).encode_to_vec();
                self.statuses.insert(key, &*bytes)?;
            }
            Record::Acknowledged { framework_id, task_id, count } => {
                self.acknowledged.insert((framework_id.as_str(), task_id.as_str()), *count as u64)?;
            }
            Record::ForgetTask { framework_id, task_id } => self.forget_task(framework_id, task_id)?,
            Record::Removal(id) => drop(self.removals.insert(id.as_str(), ())?),
            Record::ForgetRemoval(id) => drop(self.removals.remove(id.as_str())?),
        }
        Ok(())
    }

    fn forget_task(
        &mut self,
        framework_id: &FrameworkId,
        task_id: &TaskId,
    ) -> Result<(), redb::StorageError> {
        let (framework_id, task_id) = (framework_id.as_str(), task_id.as_str());
        self.tasks.remove((framework_id, task_id))?;
        self.killed.remove((framework_id, task_id))?;
        self.acknowledged.remove((framework_id, task_id))?;
        let all = (framework_id, task_id, 0)..=(framework_id, task_id, u64::MAX);
        self.statuses.retain_in(all, |_, _| false)
    }
}

pub(super) fn read(database: &Database) -> Result<Checkpoint, Failure> {
    {
        // A new file has no tables yet, and reading knows no missing ones.
        let transaction = database.begin_write()?;
        Tables::open(&transaction)?;
        transaction.commit()?;
    }
    let transaction = database.begin_read()?;
    let agent_id = transaction.open_table(AGENT)?.get("id")?.map(|id| AgentId::from(id.value()));
    let mut frameworks = Vec::new();
    for entry in transaction.open_table(FRAMEWORKS)?.iter()? {
        frameworks.push(FrameworkInfo::try_from(v1::FrameworkInfo::decode(entry?.1.value())?)?);
    }
    let mut removals = Vec::new();
    for entry in transaction.open_table(REMOVALS)?.iter()? {
        removals.push(FrameworkId::from(entry?.0.value()));
    }
    Ok(Checkpoint { agent_id, frameworks, tasks: read_tasks(&transaction)?, removals })
}

fn read_tasks(transaction: &ReadTransaction) -> Result<Vec<StoredTask>, Failure> {
    let killed = transaction.open_table(KILLED)?;
    let acknowledged = transaction.open_table(ACKNOWLEDGED)?;
    let statuses = transaction.open_table(STATUSES)?;
    let mut tasks = Vec::new();
    for entry in transaction.open_table(TASKS)?.iter()? {
        let (key, value) = entry?;
        let ((framework_id, task_id), (container_id, info)) = (key.value(), value.value());
        let mut history = Vec::new();
        for entry in statuses.range((framework_id, task_id, 0)..=(framework_id, task_id, u64::MAX))? {
            history.push(TaskStatus::try_from(v1::TaskStatus::decode(entry?.1.value())?)?);
        }
        let count = acknowledged.get((framework_id, task_id))?.map_or(0, |count| count.value());
        tasks.push(StoredTask {
            framework_id: framework_id.into(),
            info: TaskInfo::try_from(v1::TaskInfo::decode(info)?)?,
            container_id: ContainerId::from(container_id),
            killed: killed.get((framework_id, task_id))?.is_some(),
            statuses: history,
            acknowledged: usize::try_from(count)?,
        });
    }
    Ok(tasks)
}
