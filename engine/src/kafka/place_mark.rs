//! Places in a log as JSON.

use karat_sequencer::{IngressOffset, KafkaPlace};
use serde::{Deserialize, Serialize};

/// A place in the log as JSON, in manifests and in files beside snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceMark {
    block_offset: i64,
    /// The last sequence before the place.
    pub sequence: u64,
    hash: String,
    time_ms: u64,
    epoch: u64,
    realm: String,
    ingress: Vec<(String, i32, i64)>,
}

impl From<&KafkaPlace> for PlaceMark {
    fn from(place: &KafkaPlace) -> PlaceMark {
        let ingress = place.ingress.iter();
        PlaceMark {
            block_offset: place.block_offset,
            sequence: place.sequence,
            hash: hex::encode(place.hash),
            time_ms: place.time_ms,
            epoch: place.epoch,
            realm: place.realm.clone(),
            ingress: ingress
                .map(|one| (one.topic.clone(), one.partition, one.offset))
                .collect(),
        }
    }
}

impl PlaceMark {
    /// The place; `None` if its hash is none.
    pub fn place(&self) -> Option<KafkaPlace> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.hash, &mut hash).ok()?;
        let ingress = self.ingress.iter().cloned();
        Some(KafkaPlace {
            block_offset: self.block_offset,
            sequence: self.sequence,
            hash,
            time_ms: self.time_ms,
            epoch: self.epoch,
            realm: self.realm.clone(),
            ingress: ingress
                .map(|(topic, partition, offset)| IngressOffset {
                    topic,
                    partition,
                    offset,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_json() {
        let place = KafkaPlace {
            block_offset: 41,
            sequence: 1_000,
            hash: [7; 32],
            time_ms: 5,
            epoch: 3,
            realm: "main".into(),
            ingress: vec![IngressOffset {
                topic: "karat.main.commands".into(),
                partition: 2,
                offset: 9,
            }],
        };
        let text = serde_json::to_string(&PlaceMark::from(&place)).unwrap();
        let mark: PlaceMark = serde_json::from_str(&text).unwrap();
        assert_eq!(mark.place(), Some(place));
        let damaged = PlaceMark {
            hash: "7".into(),
            ..mark
        };
        assert_eq!(damaged.place(), None);
    }
}
