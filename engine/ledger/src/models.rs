//! Models: registered, approved, retired. Only assets of an approved generator are minted.

use crate::apply::{Applied, Step};
use crate::state::Ledger;
use karat_proto::command::ModelRole;
use karat_proto::event::EventKind;
use karat_proto::{Code, Digest, limits};
use std::collections::BTreeMap;

/// Models that a realm knows at most, retired ones included.
pub const MODELS_MAX: usize = 4096;

/// A model's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Known.
    Registered,
    /// May mint.
    Approved,
    /// May not mint any more, for good.
    Retired,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its digest.
    pub digest: Digest,
    /// Name and version, for people.
    pub name: String,
    /// What it does.
    pub role: ModelRole,
    /// Where it stands.
    pub state: ModelState,
    /// Sequence of its registration.
    pub registered_sequence: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Models {
    pub(crate) by_digest: BTreeMap<Digest, Model>,
}

impl Models {
    pub(crate) fn new() -> Models {
        Models {
            by_digest: BTreeMap::new(),
        }
    }

    /// Whether assets made by this model may enter.
    pub(crate) fn check_generator(&self, digest: &Digest) -> Result<(), Code> {
        let model = self.by_digest.get(digest).ok_or(Code::UnknownModel)?;
        match (model.state, model.role) {
            (ModelState::Retired, _) => Err(Code::ModelRetired),
            (ModelState::Approved, ModelRole::Generator) => Ok(()),
            _ => Err(Code::ModelNotApproved),
        }
    }
}

impl Ledger {
    pub(crate) fn register_model(
        &mut self,
        step: &mut Step<'_>,
        digest: &Digest,
        name: &str,
        role: ModelRole,
    ) -> Applied {
        if name.len() > limits::NAME_BYTES_MAX {
            return Err(Code::TextTooLong.into());
        }
        if self.models.by_digest.contains_key(digest) {
            return Err(Code::ModelExists.into());
        }
        if self.models.by_digest.len() >= MODELS_MAX {
            return Err(Code::RealmFull.into());
        }
        self.models.by_digest.insert(
            *digest,
            Model {
                digest: *digest,
                name: name.to_owned(),
                role,
                state: ModelState::Registered,
                registered_sequence: step.sequence,
            },
        );
        step.emit(EventKind::ModelRegistered {
            digest: *digest,
            name: name.to_owned(),
            role,
        });
        Ok(0)
    }

    pub(crate) fn promote_model(&mut self, step: &mut Step<'_>, digest: &Digest) -> Applied {
        let model = self
            .models
            .by_digest
            .get_mut(digest)
            .ok_or(Code::UnknownModel)?;
        match model.state {
            ModelState::Registered => model.state = ModelState::Approved,
            ModelState::Approved => return Err(Code::ModelExists.into()),
            ModelState::Retired => return Err(Code::ModelRetired.into()),
        }
        step.emit(EventKind::ModelPromoted { digest: *digest });
        Ok(0)
    }

    /// Assets that the model made before stay as they are; their verdicts decide about them.
    pub(crate) fn retire_model(&mut self, step: &mut Step<'_>, digest: &Digest) -> Applied {
        let model = self
            .models
            .by_digest
            .get_mut(digest)
            .ok_or(Code::UnknownModel)?;
        if model.state == ModelState::Retired {
            return Err(Code::ModelRetired.into());
        }
        model.state = ModelState::Retired;
        step.emit(EventKind::ModelRetired { digest: *digest });
        Ok(0)
    }
}
