//! Published state as messages.

use bytes::Bytes;
use karat_ledger::AssetView;
use karat_proto::v1;

use crate::view::View;

/// An asset as clients see it.
pub fn asset_to_wire(view: &View, asset: &AssetView) -> v1::Asset {
    let (settlement, batch) = settlement_of(view, asset);
    v1::Asset {
        asset: asset.id,
        collection: asset.collection,
        owner: if asset.owner.is_nobody() {
            Bytes::new()
        } else {
            Bytes::copy_from_slice(&asset.owner.0)
        },
        version: asset.version,
        state: karat_proto::convert::state_to_wire(asset.state).into(),
        digest: Bytes::copy_from_slice(&asset.content.digest),
        cid: karat_content::cid_of(&asset.content.digest),
        size: asset.content.size,
        traits: Bytes::copy_from_slice(asset.traits.as_slice()),
        metadata: Bytes::copy_from_slice(&asset.metadata),
        minted_sequence: asset.minted_sequence,
        last_sequence: asset.last_sequence,
        settlement: settlement.into(),
        batch,
    }
}

/// Where an asset stands in settlement, and the batch that holds its latest due form (0 for none or one too old to be in
/// memory).
fn settlement_of(view: &View, asset: &AssetView) -> (v1::SettlementState, u64) {
    let due = asset.settle_sequence;
    if due == 0 {
        return (v1::SettlementState::NotDue, 0);
    }
    let batches = view.batches.read();
    let batch = batches.holding(due).map_or(0, |batch| batch.number);
    if due <= view.settled_seq() {
        (v1::SettlementState::Settled, batch)
    } else if batch != 0 {
        (v1::SettlementState::Batched, batch)
    } else {
        (v1::SettlementState::Unsettled, 0)
    }
}
