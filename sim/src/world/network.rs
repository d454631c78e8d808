//! Connections: in order, delayed, and lost with all that is on its way.
use super::{Client, Connection, Happening, ToClient, ToMaster, World};
use bellows_kernel::{
    agent,
    master::{self, LinkId, RequestId},
};
use bellows_model::StreamId;

impl World {
    pub(super) fn connect(&mut self, client: Client) {
        let wanted = match client {
            Client::Agent(number) => {
                self.machines[number].connecting = false;
                self.machines[number].agent.is_some() && self.machines[number].connection.is_none()
            }
            Client::Scheduler(number) => !self.schedulers[number].over,
        };
        if !wanted {
            return;
        }
        if self.master.is_none() {
            return self.reconnect(client);
        }
        self.last += 1;
        let id = self.last;
        let (to_master, to_client) = (self.now, self.now);
        self.connections.insert(id, Connection { client, to_master, to_client });
        match client {
            Client::Agent(number) => {
                self.machines[number].connection = Some(id);
                self.agent_step(number, agent::Event::LinkOpened { link: LinkId(id) });
            }
            Client::Scheduler(number) => {
                self.schedulers[number].connection = Some(id);
                self.send_to_master(id, ToMaster::Subscribe);
            }
        }
    }

    pub(super) fn reconnect(&mut self, client: Client) {
        if let Client::Agent(number) = client
            && std::mem::replace(&mut self.machines[number].connecting, true)
        {
            return;
        }
        self.after(50, 3_000, Happening::Connect(client));
    }

    pub(super) fn send_to_master(&mut self, connection: u64, message: ToMaster) {
        let delay = self.delay();
        let Some(open) = self.connections.get_mut(&connection) else { return };
        open.to_master = open.to_master.max(self.now + delay);
        let when = open.to_master;
        self.at(when, Happening::ToMaster(connection, message));
    }

    pub(super) fn send_to_client(&mut self, connection: u64, message: ToClient) {
        let delay = self.delay();
        let Some(open) = self.connections.get_mut(&connection) else { return };
        open.to_client = open.to_client.max(self.now + delay);
        let when = open.to_client;
        self.at(when, Happening::ToClient(connection, message));
    }

    pub(super) fn arrive_at_master(&mut self, connection: u64, message: ToMaster) {
        let Some(open) = self.connections.get(&connection) else { return };
        let link = LinkId(connection);
        let (request, stream) = (RequestId(connection), StreamId::new(connection.to_string()));
        let event = match (message, open.client) {
            (ToMaster::Register(registration), _) => {
                master::Event::AgentRegister { link, registration: *registration }
            }
            (ToMaster::Agent(message), _) => master::Event::Agent { link, message },
            (ToMaster::Subscribe, Client::Scheduler(number)) => {
                let info = self.schedulers[number].info.clone();
                master::Event::Subscribe { request, stream, info, suppressed_roles: Vec::new() }
            }
            (ToMaster::Call(call), Client::Scheduler(number)) => {
                let Some(framework_id) = self.schedulers[number].id().cloned() else { return };
                master::Event::Call { request, framework_id, stream, call }
            }
            (_, Client::Agent(_)) => unreachable!("invariant: agents make no calls"),
        };
        self.master_step(event);
    }

    pub(super) fn arrive_at_client(&mut self, connection: u64, message: ToClient) {
        let Some(open) = self.connections.get(&connection) else { return };
        match (message, open.client) {
            (ToClient::Command(command), Client::Agent(number)) => {
                self.agent_step(number, agent::Event::Command { link: LinkId(connection), command });
            }
            (ToClient::Event(event), Client::Scheduler(number)) => {
                if self.schedulers[number].connection == Some(connection) {
                    self.scheduler_event(number, event);
                }
            }
            (ToClient::Close, client) => {
                self.connections.remove(&connection);
                self.client_notices(client, connection);
            }
            _ => unreachable!("invariant: commands go to agents, events to schedulers"),
        }
    }

    /// What is on its way is lost, and each side notices in its time.
    pub(super) fn drop_connection(&mut self, connection: u64) {
        if let Some(open) = self.connections.remove(&connection) {
            self.report.dropped_connections += 1;
            self.after(0, 20_000, Happening::MasterNotices(connection));
            self.after(0, 20_000, Happening::ClientNotices(open.client, connection));
        }
    }

    pub(super) fn master_notices(&mut self, connection: u64) {
        self.master_step(master::Event::LinkClosed { link: LinkId(connection) });
        self.master_step(master::Event::StreamClosed { stream: StreamId::new(connection.to_string()) });
    }

    pub(super) fn client_notices(&mut self, client: Client, connection: u64) {
        match client {
            Client::Agent(number) if self.machines[number].connection == Some(connection) => {
                self.machines[number].connection = None;
                self.agent_step(number, agent::Event::LinkClosed { link: LinkId(connection) });
                self.reconnect(client);
            }
            Client::Scheduler(number) if self.schedulers[number].connection == Some(connection) => {
                let scheduler = &mut self.schedulers[number];
                scheduler.lost_connection();
                scheduler.over |= scheduler.mortal;
                if scheduler.over {
                    self.replace_scheduler(number);
                } else {
                    self.reconnect(client);
                }
            }
            _ => {}
        }
    }
}
