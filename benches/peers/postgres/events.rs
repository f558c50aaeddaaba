//! Rows of commands as Karat's events.

use bytes::Bytes;
use karat_proto::v1;
use karat_proto::v1::command::Kind;
use karat_proto::v1::event::Kind as Changed;
use prost::Message as _;
use tokio_postgres::{Error, Row};
use tonic::Status;

use crate::service::failed;

/// What an accepted command changed, as Karat's events say it.
pub(crate) fn events_of(row: &Row) -> Result<Vec<v1::Event>, Status> {
    let broken = |error: Error| failed(&error);
    let body: &[u8] = row.try_get("body").map_err(broken)?;
    let command = v1::Command::decode(body)
        .map_err(|error| Status::data_loss(format!("a stored command: {error}")))?;
    let subject = row.try_get::<_, i64>("subject").map_err(broken)? as u64;
    let sequence = row.try_get::<_, i64>("sequence").map_err(broken)? as u64;
    let kinds = match command.kind {
        Some(Kind::Claim(claim)) => {
            let cause = v1::TransferCause::Claim;
            vec![transferred(
                subject,
                claim.version,
                Bytes::new(),
                command.actor,
                cause,
            )]
        }
        Some(Kind::Transfer(transfer)) => {
            let cause = v1::TransferCause::Transfer;
            vec![transferred(
                subject,
                transfer.version,
                command.actor,
                transfer.to,
                cause,
            )]
        }
        Some(Kind::Exchange(exchange)) => exchange.legs.into_iter().map(moved).collect(),
        Some(Kind::Mint(mint)) => vec![Changed::Minted(v1::AssetMade {
            asset: subject,
            collection: mint.collection,
            owner: mint.owner,
            version: 1,
            digest: mint.digest,
            size: mint.size,
            traits: mint.traits,
            lineage: mint.lineage,
            ..v1::AssetMade::default()
        })],
        _ => Vec::new(),
    };
    let events = kinds
        .into_iter()
        .enumerate()
        .map(|(index, kind)| v1::Event {
            sequence,
            index: index as u32,
            time_ms: 0,
            kind: Some(kind),
        });
    Ok(events.collect())
}

fn transferred(
    asset: u64,
    version: u32,
    from: Bytes,
    to: Bytes,
    cause: v1::TransferCause,
) -> Changed {
    Changed::Transferred(v1::Transferred {
        asset,
        version,
        from,
        to,
        cause: cause.into(),
    })
}

fn moved(leg: v1::Leg) -> Changed {
    match leg.asset {
        0 => Changed::CurrencyMoved(v1::CurrencyMoved {
            from: leg.from,
            to: leg.to,
            amount: leg.amount,
        }),
        asset => transferred(
            asset,
            leg.version,
            leg.from,
            leg.to,
            v1::TransferCause::Exchange,
        ),
    }
}
