//! What a realm must have before it can be loaded: a model that may mint, and the run's collection.

use bytes::Bytes;
use karat_proto::realm::RealmChannel;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::{Code, v1};
use sha2::Digest as _;

use super::sender::check;
use crate::args::Verdict;
use crate::error::LoadError;
use crate::scenario::TRAITS;

pub(super) fn collection_spec(run: u64, verdict: Verdict) -> v1::CollectionSpec {
    let one_trait = |(name, values): &(&str, &[&str])| v1::TraitSpec {
        name: match verdict {
            Verdict::Accept => (*name).into(),
            Verdict::Review => format!("{name} that no auditor knows"),
        },
        values: values.iter().map(|value| (*value).into()).collect(),
        weights: vec![1; values.len()],
    };
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&run.to_be_bytes());
    v1::CollectionSpec {
        name: format!("load {run:016x}"),
        supply_cap: 1 << 40,
        traits: TRAITS.iter().map(one_trait).collect(),
        // Trading waits for no verdict; settlement does.
        pending_rule: Some(v1::PendingRule {
            trade: true,
            settle: false,
            show: false,
        }),
        seed_commitment: Bytes::copy_from_slice(&karat_proto::lineage::seed_commitment(&secret)),
        ..v1::CollectionSpec::default()
    }
}

/// Digest of the model that is registered when the realm has none: no files belong to it.
pub(super) fn load_model() -> [u8; 32] {
    sha2::Sha256::digest(b"karat-load model").into()
}

/// A generator that may mint: one that is approved already, else the load model.
pub(super) async fn approved_model(channel: &RealmChannel) -> Result<Bytes, LoadError> {
    let operator = OperatorClient::new(channel.clone());
    let listed = channel.ask(|| {
        let mut operator = operator.clone();
        async move { operator.list_models(v1::ListModelsRequest {}).await }
    });
    let models = listed
        .await
        .map_err(|status| LoadError::in_setup("Operator.ListModels", &status))?
        .into_inner()
        .models;
    let approved = models.iter().find(|model| {
        model.role() == v1::ModelRole::Generator && model.stage() == v1::ModelStage::Approved
    });
    if let Some(model) = approved {
        return Ok(model.digest.clone());
    }
    let digest = Bytes::copy_from_slice(&load_model());
    for change in [v1::ModelChange::Register, v1::ModelChange::Promote] {
        let request = v1::ChangeModelRequest {
            change: change.into(),
            digest: digest.clone(),
            name: "karat-load".into(),
            role: v1::ModelRole::Generator.into(),
            ..Default::default()
        };
        let changed = channel.ask(|| {
            let (mut operator, request) = (operator.clone(), request.clone());
            async move { operator.change_model(request).await }
        });
        let answer = changed
            .await
            .map_err(|status| LoadError::in_setup("Operator.ChangeModel", &status))?
            .into_inner();
        let outcome = answer.outcome.unwrap_or_default();
        if outcome.code != Code::ModelExists as u32 {
            check("Operator.ChangeModel", &outcome)?;
        }
    }
    Ok(digest)
}
