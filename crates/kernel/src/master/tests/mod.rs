//! Behaviours one by one, and random sequences of events.
mod accept;
mod agents;
mod calls;
mod frameworks;
mod offers;
mod random;
mod support;
