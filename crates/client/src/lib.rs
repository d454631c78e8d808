//! Clients of the Mesos v1 API: a framework's (scheduler), an executor's, and an operator's.
//!
//! They keep connections, follow the leading master and tell what they hear in order. They never decide what a
//! framework does with an offer or an update.

mod calls;
mod error;
mod executor;
mod http;
mod operator;
mod scheduler;
mod stream;

pub use error::{CallError, Refusal};
pub use executor::{ExecutorClient, ExecutorEvent, ExecutorOptions};
pub use operator::{AgentClient, OperatorClient, OperatorEvents};
pub use scheduler::{SchedulerClient, SchedulerEvent, SchedulerOptions};

use ::http::HeaderValue;
use base64::Engine as _;

/// Principal and secret, sent as HTTP basic authentication. Its `Debug` hides the secret.
#[derive(Clone)]
pub struct Credential {
    pub principal: String,
    pub secret: String,
}

impl Credential {
    fn to_header(&self) -> HeaderValue {
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", self.principal, self.secret));
        let mut header =
            HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is a valid header value");
        header.set_sensitive(true);
        header
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("principal", &self.principal).finish_non_exhaustive()
    }
}
