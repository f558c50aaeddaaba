//! Models: registered, approved, retired. Only assets of an approved generator are minted.
//!
//! A model may be signed (`karat_proto::signing`). A signature that is given is always checked: it must be right, and by one
//! of the policy's keys where the policy lists any. Where the policy demands signatures, a model without one by a listed key
//! is neither registered nor promoted; a model that was approved before stays so until it is retired. Registering a known
//! model again with a signature adds the signature, so that a demand can be met after the fact.

use crate::apply::{Applied, Step};
use crate::state::Ledger;
use karat_proto::command::{ModelRole, Policy, RegisterModel};
use karat_proto::event::EventKind;
use karat_proto::signing::{ModelKey, ModelSignature};
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
    /// The key whose signature of it was checked.
    pub signed_by: Option<ModelKey>,
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
        command: &RegisterModel,
    ) -> Applied {
        let RegisterModel {
            digest,
            name,
            role,
            signature,
        } = command;
        let role = *role;
        if name.len() > limits::NAME_BYTES_MAX {
            return Err(Code::TextTooLong.into());
        }
        let Some(realm) = &self.realm else {
            return Err(Code::BadGenesis.into());
        };
        let signed_by = check_signature(&realm.policy, digest, role, name, signature.as_ref())?;
        if let Some(model) = self.models.by_digest.get_mut(digest) {
            let same = model.role == role && model.name == *name;
            let lacks_signature = check_signer(&realm.policy, model.signed_by).is_err();
            return match signed_by {
                Some(key) if same && lacks_signature && model.state != ModelState::Retired => {
                    model.signed_by = Some(key);
                    step.emit(EventKind::ModelSigned {
                        digest: *digest,
                        key,
                    });
                    Ok(0)
                }
                _ => Err(Code::ModelExists.into()),
            };
        }
        if self.models.by_digest.len() >= MODELS_MAX {
            return Err(Code::RealmFull.into());
        }
        self.models.by_digest.insert(
            *digest,
            Model {
                digest: *digest,
                name: name.clone(),
                role,
                state: ModelState::Registered,
                registered_sequence: step.sequence,
                signed_by,
            },
        );
        step.emit(EventKind::ModelRegistered {
            digest: *digest,
            name: name.clone(),
            role,
        });
        if let Some(key) = signed_by {
            step.emit(EventKind::ModelSigned {
                digest: *digest,
                key,
            });
        }
        Ok(0)
    }

    pub(crate) fn promote_model(&mut self, step: &mut Step<'_>, digest: &Digest) -> Applied {
        let Some(realm) = &self.realm else {
            return Err(Code::BadGenesis.into());
        };
        let model = self
            .models
            .by_digest
            .get_mut(digest)
            .ok_or(Code::UnknownModel)?;
        match model.state {
            ModelState::Registered => {}
            ModelState::Approved => return Err(Code::ModelExists.into()),
            ModelState::Retired => return Err(Code::ModelRetired.into()),
        }
        if realm.policy.require_signed_models {
            check_signer(&realm.policy, model.signed_by)?;
        }
        model.state = ModelState::Approved;
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

/// Who signed the model, if anybody did; refuses what the policy does not take and what is no signature of it.
fn check_signature(
    policy: &Policy,
    digest: &Digest,
    role: ModelRole,
    name: &str,
    signature: Option<&ModelSignature>,
) -> Result<Option<ModelKey>, Code> {
    let Some(signature) = signature else {
        return match policy.require_signed_models {
            true => Err(Code::ModelUnsigned),
            false => Ok(None),
        };
    };
    check_signer(policy, Some(signature.key))?;
    match signature.is_of(digest, role, name) {
        true => Ok(Some(signature.key)),
        false => Err(Code::ModelSignatureBad),
    }
}

/// Whether the policy's keys take this signer. While it lists none, anybody is taken: nobody said yet whose word counts.
fn check_signer(policy: &Policy, signer: Option<ModelKey>) -> Result<(), Code> {
    let Some(key) = signer else {
        return Err(Code::ModelUnsigned);
    };
    match policy.model_keys.is_empty() || policy.model_keys.contains(&key) {
        true => Ok(()),
        false => Err(Code::ModelKeyUnknown),
    }
}
