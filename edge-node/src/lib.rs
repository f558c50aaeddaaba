//! Generation at the edge: models, seeds, rarity and pixels.
//!
//! The way of one asset through this crate:
//!
//! 1. [`manifest`] opens a model folder and refuses one whose files are not what the manifest says; [`signature`] refuses
//!    one that the wrong key signed, or none where one is demanded.
//! 2. [`seeds`] turns a committed secret and an index into the asset's seed.
//! 3. [`rarity`] draws the asset's traits from that seed, exactly within weights, caps and exclusions.
//! 4. [`generator`] runs the model in micro-batches through [`runtime`] and encodes with [`pixels`].
//! 5. [`lineage`] binds model, variant, seed, traits and parent into one hash.
//! 6. [`ladder`] decides which variant of the model is used next.
//!
//! [`node`] runs all of it beside a connection to the engine; [`turns`] keeps what computes from holding up what answers.
//!
//! [`auditor`] is the other side: it reads the traits back from pixels and scores corruption.
//! The engine uses the same code to run a generator again and compare.

pub mod auditor;
pub mod generator;
pub mod ladder;
pub mod lineage;
pub mod manifest;
pub mod node;
mod onnx;
pub mod pixels;
pub mod rarity;
pub mod runtime;
pub mod seeds;
pub mod signature;
pub mod turns;
