//! Assets: mint, revise, transfer, burn, redeem, freeze, and when their settled form changes.
//!
//! # Settled form
//!
//! What a settlement leaf says of an asset: owner, version, metadata, kind. It changes, with a `SettlementDue` event, when
//!
//! - a verdict or a person accepts the asset (unless the collection settles pending assets: then it was due at the mint or
//!   the revision, and acceptance changes nothing that a leaf says);
//! - it changes hands while active, or while pending in a collection that settles pending assets;
//! - it is redeemed;
//! - it is burned or rejected, and something was due before. An asset that no leaf ever named needs none that ends it.
//!
//! A revised asset is pending again. Where pending assets do not settle, its settled form stays the one before, with the
//! owner of then, until a verdict accepts the new version.
//!
//! # Ends
//!
//! Rejected, burned and redeemed assets free nothing: they stay counted in the supply and in the caps of their trait values,
//! so that no rarity promise can be stretched by burning. A burned asset belongs to nobody; a rejected one keeps the name of
//! its owner, and its leaf that ends it names nobody.

use crate::apply::{Applied, Refusal, Step};
use crate::batches::Batches;
use crate::state::accounts::NOBODY;
use crate::state::asset::{Asset, is_ended};
use crate::state::{Ledger, asset_at, collection_at};
use karat_proto::command::{Mint, Revise};
use karat_proto::event::{AssetState, EventKind, LeafKind, Made, TransferCause, Winner};
use karat_proto::{Account, AssetId, Code, limits};

impl Ledger {
    pub(crate) fn mint(&mut self, step: &mut Step<'_>, mint: &Mint) -> Applied {
        let collection = self
            .collection_record(mint.collection)
            .ok_or(Code::UnknownCollection)?;
        if collection.creator != step.actor {
            return Err(Code::NotCreator.into());
        }
        self.models.check_generator(&mint.lineage.model)?;
        collection.check_traits(&mint.traits)?;
        if collection.minted >= collection.spec.supply_cap {
            return Err(Code::SupplyCapReached.into());
        }
        collection.check_value_caps(&mint.traits, None)?;
        let settles = collection.spec.pending_rule.settle;

        let owner = self.accounts.intern(&mint.owner);
        let id = self.assets.len() as AssetId + 1;
        self.assets.push(Asset {
            settle_sequence: 0,
            last: step.change(),
            owner_change: Winner {
                id: karat_proto::CommandId([0; 16]),
                sequence: 0,
            },
            owner,
            version: 1,
            collection: mint.collection,
            state: AssetState::Pending,
            frozen_from: None,
            traits: mint.traits,
            metadata: mint.metadata,
            content: mint.content,
            lineage_hash: mint.lineage.hash,
            last_verdict: None,
            minted_sequence: step.sequence,
        });
        self.count_state(None, AssetState::Pending);
        if let Some(collection) = self.collection_record_mut(mint.collection) {
            collection.minted += 1;
            collection.count_values(&mint.traits, None);
        }
        step.emit_made(|| EventKind::Minted {
            asset: id,
            collection: mint.collection,
            owner: mint.owner,
            made: Box::new(Made {
                content: mint.content,
                traits: mint.traits,
                lineage: mint.lineage.clone(),
                metadata: mint.metadata,
            }),
        });
        if settles {
            self.settlement_due(step, id, LeafKind::Held);
        }
        Ok(id)
    }

    /// By the owner or the collection's creator, whatever the state, unless ended or frozen. A review that was open is void.
    pub(crate) fn revise(&mut self, step: &mut Step<'_>, revise: &Revise) -> Applied {
        let id = revise.asset;
        let refuse = |code| Refusal::about(code, id);
        let asset = self.living_asset(id, revise.version)?;
        let collection = self
            .collection_record(asset.collection)
            .ok_or(refuse(Code::UnknownCollection))?;
        let owner = self.accounts.account(asset.owner);
        if step.actor != owner && step.actor != collection.creator {
            return Err(Refusal::lost_to(Code::NotOwner, id, asset.owner_winner()));
        }
        if revise.collection != asset.collection {
            return Err(refuse(Code::UnknownCollection));
        }
        let version = asset
            .version
            .checked_add(1)
            .ok_or(refuse(Code::RealmFull))?;
        self.models
            .check_generator(&revise.lineage.model)
            .map_err(refuse)?;
        collection.check_traits(&revise.traits).map_err(refuse)?;
        collection
            .check_value_caps(&revise.traits, Some(&asset.traits))
            .map_err(refuse)?;
        let settles = collection.spec.pending_rule.settle;

        let change = step.change();
        let Some(asset) = self.asset_record_mut(id) else {
            return Err(refuse(Code::UnknownAsset));
        };
        let old_traits = asset.traits;
        let old_state = asset.state;
        asset.version = version;
        asset.state = AssetState::Pending;
        asset.content = revise.content;
        asset.traits = revise.traits;
        asset.lineage_hash = revise.lineage.hash;
        asset.metadata = revise.metadata;
        asset.last = change;
        self.count_state(Some(old_state), AssetState::Pending);
        if let Some(collection) = self.collection_record_mut(revise.collection) {
            collection.count_values(&revise.traits, Some(&old_traits));
        }
        step.emit_made(|| EventKind::Revised {
            asset: id,
            version,
            made: Box::new(Made {
                content: revise.content,
                traits: revise.traits,
                lineage: revise.lineage.clone(),
                metadata: revise.metadata,
            }),
        });
        if settles {
            self.settlement_due(step, id, LeafKind::Held);
        }
        Ok(id)
    }

    pub(crate) fn transfer(
        &mut self,
        step: &mut Step<'_>,
        id: AssetId,
        version: u32,
        to: &Account,
    ) -> Applied {
        let asset = self.owned_asset(id, version, &step.actor)?;
        self.check_tradable(id, asset)?;
        if to.is_nobody() || *to == step.actor {
            return Err(Refusal::about(Code::BadReceiver, id));
        }
        let from = step.actor;
        self.hand_over(
            step,
            id,
            (&from, to),
            TransferCause::Transfer,
            step.change(),
        );
        Ok(id)
    }

    /// Allowed before a verdict too: whoever owns an asset may throw it away.
    pub(crate) fn burn(&mut self, step: &mut Step<'_>, id: AssetId, version: u32) -> Applied {
        self.owned_asset(id, version, &step.actor)?;
        let change = step.change();
        let Some(asset) = self.asset_record_mut(id) else {
            return Err(Refusal::about(Code::UnknownAsset, id));
        };
        let old_state = asset.state;
        asset.state = AssetState::Burned;
        asset.owner = NOBODY;
        asset.owner_change = change;
        asset.last = change;
        self.count_state(Some(old_state), AssetState::Burned);
        step.emit_made(|| EventKind::Burned { asset: id });
        self.end_settled_form(step, id);
        Ok(id)
    }

    pub(crate) fn redeem(
        &mut self,
        step: &mut Step<'_>,
        id: AssetId,
        version: u32,
        to: Account,
    ) -> Applied {
        let asset = self.owned_asset(id, version, &step.actor)?;
        if asset.state != AssetState::Active {
            return Err(Refusal::about(Code::NotActive, id));
        }
        if to.is_nobody() {
            return Err(Refusal::about(Code::BadReceiver, id));
        }
        let receiver = self.accounts.intern(&to);
        let change = step.change();
        let Some(asset) = self.asset_record_mut(id) else {
            return Err(Refusal::about(Code::UnknownAsset, id));
        };
        if asset.owner != receiver {
            asset.owner = receiver;
            asset.owner_change = change;
        }
        asset.state = AssetState::Redeemed;
        asset.last = change;
        self.count_state(Some(AssetState::Active), AssetState::Redeemed);
        step.emit(EventKind::Redeemed { asset: id, to });
        self.settlement_due(step, id, LeafKind::Redeemed);
        Ok(id)
    }

    /// Keeps the state beneath. While frozen nothing happens to the asset: players, verdicts and reviews are refused with
    /// `AssetFrozen`. `Unfrozen` names the state it returns to; when that is pending, its agents must look again.
    pub(crate) fn freeze(&mut self, step: &mut Step<'_>, id: AssetId, reason: &str) -> Applied {
        if reason.len() > limits::TEXT_BYTES_MAX {
            return Err(Refusal::about(Code::TextTooLong, id));
        }
        self.unfrozen_asset(id)?;
        let change = step.change();
        let Some(asset) = self.asset_record_mut(id) else {
            return Err(Refusal::about(Code::UnknownAsset, id));
        };
        let old_state = asset.state;
        asset.frozen_from = Some(old_state);
        asset.state = AssetState::Frozen;
        asset.last = change;
        self.count_state(Some(old_state), AssetState::Frozen);
        step.emit(EventKind::Frozen {
            asset: id,
            reason: reason.to_owned(),
        });
        Ok(id)
    }

    pub(crate) fn unfreeze(&mut self, step: &mut Step<'_>, id: AssetId) -> Applied {
        let change = step.change();
        let Some(asset) = self.asset_record_mut(id) else {
            return Err(Refusal::about(Code::UnknownAsset, id));
        };
        if is_ended(asset.state) {
            return Err(Refusal::lost_to(Code::AssetEnded, id, Some(asset.last)));
        }
        let Some(state) = asset.frozen_from.take() else {
            return Err(Refusal::about(Code::NotFrozen, id));
        };
        asset.state = state;
        asset.last = change;
        self.count_state(Some(AssetState::Frozen), state);
        step.emit(EventKind::Unfrozen { asset: id, state });
        Ok(id)
    }

    /// The asset, if it is known, not ended and not frozen.
    #[inline]
    pub(crate) fn unfrozen_asset(&self, id: AssetId) -> Result<&Asset, Refusal> {
        let asset = self
            .asset_record(id)
            .ok_or(Refusal::about(Code::UnknownAsset, id))?;
        if is_ended(asset.state) {
            return Err(Refusal::lost_to(Code::AssetEnded, id, Some(asset.last)));
        }
        if asset.state == AssetState::Frozen {
            return Err(Refusal::about(Code::AssetFrozen, id));
        }
        Ok(asset)
    }

    /// ... and has the version that the actor saw.
    #[inline]
    pub(crate) fn living_asset(&self, id: AssetId, version: u32) -> Result<&Asset, Refusal> {
        let asset = self.unfrozen_asset(id)?;
        if asset.version != version {
            return Err(Refusal::lost_to(Code::StaleVersion, id, Some(asset.last)));
        }
        Ok(asset)
    }

    /// ... and belongs to this account.
    #[inline]
    pub(crate) fn owned_asset(
        &self,
        id: AssetId,
        version: u32,
        owner: &Account,
    ) -> Result<&Asset, Refusal> {
        let asset = self.living_asset(id, version)?;
        if !self.accounts.is_numbered(asset.owner, owner) {
            return Err(Refusal::lost_to(Code::NotOwner, id, asset.owner_winner()));
        }
        Ok(asset)
    }

    /// Whether a living, unfrozen asset may change hands.
    #[inline]
    pub(crate) fn may_trade(&self, asset: &Asset) -> bool {
        asset.state == AssetState::Active
            || self
                .collection_record(asset.collection)
                .is_some_and(|collection| collection.spec.pending_rule.trade)
    }

    #[inline]
    pub(crate) fn check_tradable(&self, id: AssetId, asset: &Asset) -> Result<(), Refusal> {
        match self.may_trade(asset) {
            true => Ok(()),
            false => Err(Refusal::about(Code::NotActive, id)),
        }
    }

    /// Gives an asset from its owner to its new one; everything is checked. `winner` is the command that later losers are told.
    pub(crate) fn hand_over(
        &mut self,
        step: &mut Step<'_>,
        id: AssetId,
        (from, to): (&Account, &Account),
        cause: TransferCause,
        winner: Winner,
    ) {
        let receiver = self.accounts.intern(to);
        let Some(asset) = asset_at(&mut self.assets, id) else {
            return;
        };
        asset.owner = receiver;
        asset.owner_change = winner;
        asset.last = step.change();
        step.emit_made(|| EventKind::Transferred {
            asset: id,
            version: asset.version,
            from: *from,
            to: *to,
            cause,
        });
        let settles = asset.state == AssetState::Active
            || collection_at(&self.collections, asset.collection)
                .is_some_and(|collection| collection.spec.pending_rule.settle);
        if settles {
            self.batches.settle(step, id, asset, to, LeafKind::Held);
        }
    }

    /// An asset ended without leaving for the chain: a leaf that ends it is due when one named it before.
    pub(crate) fn end_settled_form(&mut self, step: &mut Step<'_>, id: AssetId) {
        let was_due = self
            .asset_record(id)
            .is_some_and(|asset| asset.settle_sequence != 0);
        if was_due {
            self.settlement_due(step, id, LeafKind::Burned);
        }
    }

    /// An asset's settled form changed: says so, and counts it into the open batch, once a batch.
    pub(crate) fn settlement_due(&mut self, step: &mut Step<'_>, id: AssetId, kind: LeafKind) {
        let Some(asset) = asset_at(&mut self.assets, id) else {
            return;
        };
        let owner = match kind {
            LeafKind::Burned => Account::NOBODY,
            LeafKind::Held | LeafKind::Redeemed => self.accounts.account(asset.owner),
        };
        self.batches.settle(step, id, asset, &owner, kind);
    }
}

impl Batches {
    #[inline]
    fn settle(
        &mut self,
        step: &mut Step<'_>,
        id: AssetId,
        asset: &mut Asset,
        owner: &Account,
        kind: LeafKind,
    ) {
        let before = std::mem::replace(&mut asset.settle_sequence, step.sequence);
        self.count_change(before, step.sequence, step.time_ms);
        step.emit_made(|| EventKind::SettlementDue {
            asset: id,
            collection: asset.collection,
            owner: *owner,
            version: asset.version,
            metadata: asset.metadata,
            kind,
        });
    }
}
