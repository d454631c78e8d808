//! Behaviours one by one, and random sequences of events.
mod accept;
mod agents;
mod bounds;
mod calls;
mod frameworks;
mod hostile;
mod lies;
mod notes;
mod offers;
mod random;
mod slices;
mod support;
