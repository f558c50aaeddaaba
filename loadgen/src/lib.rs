//! Loads Karat honestly and says what came of it.
//!
//! An open loop: arrivals are scheduled first ([`schedule`]), latency is measured from the intended time ([`recorder`]), so
//! a stall of the target, or of this program, is in the figures of everything that it delayed. Every command is entered
//! in [`books`] before it is sent and crossed out by its one outcome; at the end what the outcomes promised is compared
//! with the target's events and with what it says it holds ([`truth`]). The same client drives an echo service in this process ([`floor`]), so
//! that a figure can stand beside what the transport alone costs.
//!
//! The way of a run: [`args`] → [`scenario`] and [`plan`] → [`setup`] → [`client`], [`wire`] ([`lanes`] of gRPC or
//! [`kafka`]) and [`driver`] (schedule, players, books, recorder), slow [`watchers`] beside them → [`truth`] → [`report`].

pub mod args;
pub mod books;
pub mod check;
pub mod client;
pub mod compare;
pub mod contests;
mod doubles;
pub mod driver;
pub mod error;
pub mod floor;
pub mod kafka;
pub mod lanes;
pub mod live;
pub mod plan;
pub mod recorder;
pub mod records;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod setup;
pub mod table;
pub mod timer;
pub mod truth;
pub mod turns;
pub mod watchers;
pub mod wire;
