//! `POST /api/v1/link`: an agent's connection, records both ways over one request.
use super::{Decoders, Refused, Shared, header};
use crate::{driver::Handle, streams::Stream};
use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    response::{IntoResponse, Response},
};
use bellows_kernel::master::{
    AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask, Event, LinkId,
};
use bellows_model::{FrameworkInfo, TaskInfo, TaskState, TaskStatus, clipped, limits};
use bellows_runtime::{
    Disconnect, Share,
    outbox::{Inbox, outbox},
};
use bellows_wire::{
    convert::{ConvertError, agent_from_wire},
    link::{self, agent_message::Message},
    media::{self, DecodeError, Encoding},
    recordio,
    text::one_line,
};
use bytes::Bytes;
use futures::StreamExt as _;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Messages that take more memory are waited for: the driver's queue holds few of them.
const LARGE: usize = 64 << 10;
/// How many times as long as for its registration an agent has from a record's first byte to its last.
const RECORD_PATIENCE: u32 = 6;

/// Why an agent is not listened to any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the connection broke: {0}")]
    Broken(#[from] axum::Error),
    #[error(transparent)]
    Record(#[from] recordio::RecordError),
    #[error("a record is no agent's message: {0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Convert(#[from] ConvertError),
    #[error("the first message must be register, and only the first")]
    OutOfOrder,
    #[error("the agent has an unknown task state {0}")]
    TaskState(i32),
    #[error(
        "the agent has {tasks} tasks of {frameworks} frameworks; at most {} of {} are taken",
        limits::REGISTERED_TASKS,
        limits::REGISTERED_FRAMEWORKS
    )]
    TooMany { tasks: usize, frameworks: usize },
    #[error("it did not register in time")]
    NotRegistered,
    #[error("a record did not arrive in time")]
    TooSlow,
    #[error("no memory is left for what it says")]
    NoRoom,
    #[error("the master is stopping")]
    Stopped,
}

impl LinkError {
    /// Whether one message cannot be read, though what follows it can.
    fn is_of_one_message(&self) -> bool {
        match self {
            Self::Convert(_) | Self::TaskState(_) => true,
            Self::Decode(error) => !matches!(error, DecodeError::NoRoom),
            _ => false,
        }
    }

    /// Whether the agent said something that it must not.
    fn is_the_agents_fault(&self) -> bool {
        matches!(self, Self::Convert(_) | Self::TaskState(_) | Self::OutOfOrder | Self::TooMany { .. })
    }
}

pub(super) async fn link(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    media::require_recordio(header(&request, "content-type"))?;
    let extensions = request.extensions();
    let disconnect = extensions.get::<Disconnect>().cloned();
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let (Some(disconnect), Some(peer)) = (disconnect, peer) else {
        return Err(Refused::bad_request("A link needs a connection"));
    };
    let id = LinkId(shared.driver.number());
    let (outbox, inbox) = outbox(shared.max_unread_bytes, Some(shared.share(&request)));
    let share = Arc::new(shared.share(&request));
    let stream = Stream::new(outbox, peer.ip(), disconnect);
    shared.driver.read(move |_, effects| effects.open_link(id, stream)).await??;

    let gone = CancellationToken::new();
    let reader = Reader {
        id,
        peer,
        driver: shared.driver.clone(),
        decoders: shared.decoders.clone(),
        body: request.into_body(),
        share,
        registration_timeout: shared.registration_timeout,
        registered: false,
    };
    tokio::spawn(reader.run(gone.clone()));
    let body = Body::from_stream(futures::stream::unfold(
        (inbox, gone.drop_guard()),
        |(mut inbox, gone): (Inbox<Bytes>, DropGuard)| async move {
            let record = inbox.next().await?;
            Some((Ok::<_, Infallible>(record), (inbox, gone)))
        },
    ));
    Ok(([("content-type", media::APPLICATION_RECORDIO)], body).into_response())
}

struct Reader {
    id: LinkId,
    peer: SocketAddr,
    driver: Handle,
    decoders: Decoders,
    body: Body,
    share: Arc<Share>,
    registration_timeout: Duration,
    registered: bool,
}

impl Reader {
    /// Reads until the agent has said all, or nobody writes to it any longer (`gone`).
    async fn run(mut self, gone: CancellationToken) {
        let peer = self.peer;
        let (driver, link) = (self.driver.clone(), self.id);
        tokio::select! {
            () = gone.cancelled() => {}
            outcome = self.read() => if let Err(error) = outcome {
                tracing::warn!(%peer, %error, "an agent's connection ends");
                if error.is_the_agents_fault() {
                    let reason = error.to_string();
                    // The agent would only say the same again. But once it is registered, a refusal would end all that
                    // it runs; and of too many tasks, some may have ended when it comes back.
                    let refused = match self.registered || matches!(error, LinkError::TooMany { .. }) {
                        false => AgentCommand::Refused { reason },
                        true => AgentCommand::TryLater { reason },
                    };
                    let _ = driver.read(move |_, effects| effects.tell_agent(link, refused)).await;
                }
            }
        }
        // A master that is stopping forgets all links by itself.
        let _ = driver.tell(Event::LinkClosed { link }).await;
    }

    async fn read(&mut self) -> Result<(), LinkError> {
        let body = std::mem::replace(&mut self.body, Body::empty());
        let mut chunks = body.into_data_stream();
        let mut decoder = recordio::Decoder::new(recordio::DEFAULT_MAX_RECORD_BYTES);
        let mut deadline = Some(Instant::now() + self.registration_timeout);
        loop {
            let chunk = match deadline {
                Some(deadline) => timeout_at(deadline, chunks.next()).await.map_err(|_| self.late())?,
                None => chunks.next().await,
            };
            let Some(chunk) = chunk.transpose()? else { return Ok(decoder.finish()?) };
            let was_within_record = decoder.is_within_record();
            decoder.push(&chunk);
            let mut records = 0;
            while let Some(record) = decoder.next_record()? {
                records += 1;
                self.record(record).await?;
            }
            if !self.share.resize(decoder.buffered()) {
                return Err(LinkError::NoRoom);
            }
            if !decoder.is_within_record() {
                deadline = (!self.registered).then_some(deadline).flatten();
            } else if records > 0 || !was_within_record {
                deadline = Some(Instant::now() + self.registration_timeout * RECORD_PATIENCE);
            }
        }
    }

    async fn record(&mut self, record: Bytes) -> Result<(), LinkError> {
        let (link, peer, registered) = (self.id, self.peer, self.registered);
        let convert =
            move |message, memory| event(link, peer, registered, message).map(|event| (event, memory));
        let decoded = self.decoders.decode(Encoding::Protobuf, record, &self.share, convert).await;
        let (event, memory) = match decoded {
            Ok(decoded) => decoded,
            // If the link ended, the agent would say the same again, for ever, and all else that it says were lost.
            Err(error) if registered && error.is_of_one_message() => {
                (Some(Event::AgentUnreadable { link, why: error.to_string() }), 0)
            }
            Err(error) => return Err(error),
        };
        if let Some(event) = event {
            // The first one is the registration.
            self.registered = true;
            self.driver.tell(event).await.map_err(|_| LinkError::Stopped)?;
        }
        if memory > LARGE {
            // Its memory is given back when the driver has it no more.
            self.driver.read(|_, _| ()).await.map_err(|_| LinkError::Stopped)?;
        }
        Ok(())
    }

    fn late(&self) -> LinkError {
        if self.registered { LinkError::TooSlow } else { LinkError::NotRegistered }
    }
}

/// What an agent's message means to the kernel; `None`: nothing that this version knows. The first one registers it.
pub(crate) fn event(
    link: LinkId,
    peer: SocketAddr,
    registered: bool,
    message: link::AgentMessage,
) -> Result<Option<Event>, LinkError> {
    let message = match (message.message, registered) {
        (Some(Message::Register(register)), false) => {
            let registration = registration(register, peer)?;
            return Ok(Some(Event::AgentRegister { link, registration }));
        }
        (Some(Message::Register(_)), true) | (_, false) => return Err(LinkError::OutOfOrder),
        // A message of a later version.
        (None, true) => return Ok(None),
        (Some(message), true) => message,
    };
    let message = match message {
        Message::Register(_) => return Err(LinkError::OutOfOrder),
        Message::StatusUpdate(update) => {
            let latest_state = update.latest_state.map(task_state).transpose()?;
            let status = TaskStatus::try_from(update.status)?;
            AgentMessage::StatusUpdate {
                framework_id: update.framework_id.try_into()?,
                latest_state: latest_state.unwrap_or(status.state),
                status,
            }
        }
        Message::ShuffleService(service) => AgentMessage::ShuffleService { down: service.down },
        Message::Condition(now) => AgentMessage::Condition(condition(now)),
        Message::Unregister(_) => AgentMessage::Unregister,
        Message::Pong(pong) => AgentMessage::Pong { seq: pong.seq },
        Message::ExecutorTerminated(ended) => AgentMessage::ExecutorTerminated {
            framework_id: ended.framework_id.try_into()?,
            executor_id: ended.executor_id.try_into()?,
            status: ended.status,
        },
        Message::ExecutorMessage(message) => AgentMessage::ExecutorMessage {
            framework_id: message.framework_id.try_into()?,
            executor_id: message.executor_id.try_into()?,
            data: message.data.into(),
        },
    };
    Ok(Some(Event::Agent { link, message }))
}

fn registration(register: link::Register, peer: SocketAddr) -> Result<AgentRegistration, LinkError> {
    let shuffle_service_down = register.shuffle_service_down();
    let condition = register.condition.map(condition).unwrap_or_default();
    // Where the agent is reached: what it says, else where it called from.
    let ip = register.ip.unwrap_or_else(|| peer.ip().to_string());
    let info = agent_from_wire(register.agent_info, ip, register.version)?;
    let (tasks, frameworks) = (register.tasks.len(), register.frameworks.len());
    if tasks > limits::REGISTERED_TASKS || frameworks > limits::REGISTERED_FRAMEWORKS {
        return Err(LinkError::TooMany { tasks, frameworks });
    }
    let tasks = register.tasks.into_iter().map(agent_task).collect::<Result<_, _>>()?;
    let frameworks =
        register.frameworks.into_iter().map(FrameworkInfo::try_from).collect::<Result<_, _>>()?;
    Ok(AgentRegistration { info, frameworks, tasks, shuffle_service_down, condition })
}

/// Of what an agent says for people, so much is kept and no more.
fn condition(condition: link::Condition) -> AgentCondition {
    let troubles = condition.troubles.iter().take(limits::TROUBLES);
    let troubles = troubles.map(|trouble| clipped(&one_line(trouble), limits::TROUBLE).to_owned()).collect();
    AgentCondition { paused: condition.paused, troubles }
}

fn agent_task(task: link::RunningTask) -> Result<AgentTask, LinkError> {
    Ok(AgentTask {
        framework_id: task.framework_id.try_into()?,
        info: TaskInfo::try_from(task.task_info)?,
        latest_state: task_state(task.latest_state)?,
    })
}

fn task_state(number: i32) -> Result<TaskState, LinkError> {
    let state = bellows_wire::v1::TaskState::try_from(number).map_err(|_| LinkError::TaskState(number))?;
    Ok(TaskState::from(state))
}
