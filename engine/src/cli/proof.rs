//! `karat proof`: the Merkle proof of an asset, checked against the root that the chain returns.

use clap::Args;
use karat_proto::{convert, v1};
use karat_settlement::proof::CommittedAt;
use karat_settlement::{BatchToCommit, Leaf, LeafKind, ProofDocument};

use super::{Backend, CliError, Common, describe, hexadecimal};

/// Which asset.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints JSON that OpenZeppelin's standard Merkle tree accepts (deploy/contracts/check-proof.mjs).\n\nExample: karat proof 17 > proof.json"
)]
pub struct ProofArgs {
    /// Its number
    asset: u64,
}

/// Runs the command.
pub async fn run(common: &Common, args: ProofArgs) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    let request = v1::GetProofRequest { asset: args.asset };
    let found = backend.ledger.get_proof(request).await?.into_inner();
    let batch = found.batch.clone().unwrap_or_default();
    let document = document(&found, &batch).map_err(|refused| {
        CliError::Failed(format!("the engine's answer is malformed: {refused}"))
    })?;
    let leaf = document
        .check()
        .map_err(|error| CliError::No(format!("the proof does not hold: {error}")))?;
    if found.chain_root.is_empty() {
        return Err(CliError::No(format!(
            "batch {} is {} and not on the chain yet; try again when it is committed",
            batch.number,
            describe::stage(batch.stage)
        )));
    }
    if found.chain_root != batch.root {
        return Err(CliError::No(format!(
            "the chain holds root {} for batch {}, the proof leads to {}",
            hexadecimal(&found.chain_root),
            batch.number,
            hexadecimal(&batch.root)
        )));
    }
    let json = serde_json::to_value(&document)
        .map_err(|error| CliError::Failed(format!("write the proof: {error}")))?;
    super::print_json(&json);
    if !common.json {
        eprintln!(
            "asset {} version {} owner {}: proved against the chain's root of batch {} ({})",
            leaf.asset,
            leaf.version,
            hexadecimal(&leaf.owner),
            batch.number,
            describe::stage(batch.stage)
        );
    }
    Ok(())
}

fn document(
    found: &v1::GetProofResponse,
    batch: &v1::Batch,
) -> Result<ProofDocument, convert::Refused> {
    let payload_digest = karat_content::digest_from_cid(&batch.payload_cid)
        .map_err(|error| convert::Refused::new(karat_proto::Code::Malformed, error.to_string()))?;
    let leaf = Leaf {
        asset: found.asset,
        owner: convert::account_or_nobody(&found.owner, "owner")?.0,
        version: found.version,
        metadata: convert::digest(&found.metadata, "metadata")?,
        collection: found.collection,
        kind: u8::try_from(found.kind)
            .ok()
            .and_then(LeafKind::from_number)
            .ok_or_else(|| {
                convert::Refused::new(karat_proto::Code::Malformed, "kind is no leaf kind")
            })?,
    };
    let siblings = found
        .proof
        .iter()
        .map(|hash| convert::digest(hash, "proof"))
        .collect::<Result<Vec<_>, _>>()?;
    let committed = BatchToCommit {
        number: batch.number,
        parent: convert::digest(&found.parent, "parent")?,
        root: convert::digest(&batch.root, "root")?,
        payload_digest,
        log_head: convert::digest(&found.log_head, "log_head")?,
        first_sequence: batch.first_sequence,
        last_sequence: batch.last_sequence,
    };
    let committed_at = match batch.transaction.is_empty() {
        true => None,
        false => Some(CommittedAt {
            transaction: convert::digest(&batch.transaction, "transaction")?,
            block: batch.chain_block,
        }),
    };
    let contract = convert::account(&found.contract, "contract")?.0;
    Ok(ProofDocument::new(
        &leaf,
        &siblings,
        &committed,
        committed_at,
        contract,
        found.chain_id,
    ))
}
