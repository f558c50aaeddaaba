//! The Ledger service for who serves many commands a second: the same messages on the wire as in [`crate::v1`], but a
//! request's commands stay encoded until somebody looks at them, and an answer is encoded straight from its outcomes.

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, message};

use crate::code::Code;
use crate::convert::outcome_to_wire;
use crate::event::Outcome;
use crate::ids::CommandId;
use crate::v1;

#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/served/karat.v1.rs"));
}

pub use generated::ledger_server;

/// [`v1::SubmitRequest`] with its commands as they came: a message and its bytes look alike on the wire.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SubmitRequest {
    /// As in [`v1::SubmitRequest`].
    #[prost(enumeration = "v1::AckLevel", tag = "1")]
    pub ack: i32,
    /// Each an encoded [`v1::Command`], or whatever somebody sent in its place.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub commands: Vec<Bytes>,
}

/// [`v1::SubmitResponse`], encoded. It is written and never read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubmitResponse {
    encoded: Vec<u8>,
}

/// Key of the field that tells the level that was reached: number 1, a number.
const ACK_KEY: u8 = 1 << 3;
/// Key of an outcome: field number 2, a message.
const OUTCOME_KEY: u8 = 2 << 3 | 2;
/// Keys of an outcome's fields: id (bytes), sequence and subject (numbers).
const ID_KEY: u8 = 1 << 3 | 2;
const SEQUENCE_KEY: u8 = 2 << 3;
const SUBJECT_KEY: u8 = 5 << 3;
/// An accepted outcome with key and length: 20 bytes of an id and of what stands before it, two numbers with their keys.
const ACCEPTED_BYTES_MAX: usize = 20 + 2 * 11;

impl SubmitResponse {
    /// The answer with the outcomes of one request's commands, in their order.
    pub fn new(ack: v1::AckLevel, ids: &[CommandId], outcomes: &[Outcome]) -> SubmitResponse {
        let mut encoded = Vec::with_capacity(2 + ids.len() * ACCEPTED_BYTES_MAX);
        put_ack(ack, &mut encoded);
        for (id, outcome) in ids.iter().zip(outcomes) {
            if outcome.code == Code::Accepted && !outcome.replayed && outcome.winner.is_none() {
                put_accepted(id, outcome, &mut encoded);
            } else {
                message::encode(2, &outcome_to_wire(id, outcome), &mut encoded);
            }
        }
        SubmitResponse { encoded }
    }
}

impl From<v1::SubmitResponse> for SubmitResponse {
    fn from(response: v1::SubmitResponse) -> SubmitResponse {
        SubmitResponse {
            encoded: response.encode_to_vec(),
        }
    }
}

fn put_ack(ack: v1::AckLevel, encoded: &mut Vec<u8>) {
    if ack != v1::AckLevel::Unspecified {
        encoded.push(ACK_KEY);
        put_number(ack as i32 as u64, encoded);
    }
}

/// The outcome of a command that was accepted the first time: nothing but its id, sequence and subject.
fn put_accepted(id: &CommandId, outcome: &Outcome, encoded: &mut Vec<u8>) {
    let begun = encoded.len();
    // The length, in one byte because there are fewer than 128, is known at the end.
    encoded.extend_from_slice(&[OUTCOME_KEY, 0, ID_KEY, id.0.len() as u8]);
    encoded.extend_from_slice(&id.0);
    for (key, number) in [
        (SEQUENCE_KEY, outcome.sequence),
        (SUBJECT_KEY, outcome.subject),
    ] {
        if number != 0 {
            encoded.push(key);
            put_number(number, encoded);
        }
    }
    encoded[begun + 1] = (encoded.len() - begun - 2) as u8;
}

#[inline]
fn put_number(mut number: u64, encoded: &mut Vec<u8>) {
    while number >= 0x80 {
        encoded.push(number as u8 | 0x80);
        number >>= 7;
    }
    encoded.push(number as u8);
}

impl Message for SubmitResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        #[allow(deprecated)] // The only way for a message of one's own to say that it is not read.
        Err(DecodeError::new("a response is read as karat.v1's"))
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    fn clear(&mut self) {
        self.encoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::{SubmitRequest, SubmitResponse};
    use crate::code::Code;
    use crate::convert::outcome_to_wire;
    use crate::event::{Outcome, Winner};
    use crate::ids::CommandId;
    use crate::v1::{self, AckLevel};

    fn outcome() -> impl Strategy<Value = Outcome> {
        let winner = (any::<[u8; 16]>(), any::<u64>()).prop_map(|(id, sequence)| Winner {
            id: CommandId(id),
            sequence,
        });
        let number = || prop_oneof![Just(0), any::<u64>(), 0..1000_u64];
        let code = prop_oneof![4 => Just(Code::Accepted), 1 => Just(Code::Paused)];
        let winner = prop_oneof![4 => Just(None), 1 => winner.prop_map(Some)];
        (number(), code, any::<bool>(), number(), winner).prop_map(
            |(sequence, code, replayed, subject, winner)| Outcome {
                sequence,
                code,
                replayed,
                subject,
                winner,
            },
        )
    }

    proptest! {
        #[test]
        fn an_answer_reads_as_the_outcomes_that_it_was_made_of(
            answered in vec((any::<[u8; 16]>(), outcome()), 0..20),
            ack in prop_oneof![Just(AckLevel::Unspecified), Just(AckLevel::Sequenced), Just(AckLevel::Settled)],
        ) {
            let ids: Vec<_> = answered.iter().map(|(id, _)| CommandId(*id)).collect();
            let outcomes: Vec<_> = answered.into_iter().map(|(_, outcome)| outcome).collect();
            let wire = v1::SubmitResponse {
                ack: ack.into(),
                outcomes: ids.iter().zip(&outcomes).map(|(id, one)| outcome_to_wire(id, one)).collect(),
            };
            let answer = SubmitResponse::new(ack, &ids, &outcomes);
            prop_assert_eq!(answer.encode_to_vec(), wire.encode_to_vec());
            prop_assert_eq!(SubmitResponse::from(wire), answer);
        }

        #[test]
        fn a_request_keeps_the_bytes_of_its_commands(ids in vec(any::<[u8; 16]>(), 0..8), ack in 0..5_i32) {
            let command = |id: &[u8; 16]| v1::Command { id: Bytes::copy_from_slice(id), ..Default::default() };
            let commands: Vec<_> = ids.iter().map(command).collect();
            let request = v1::SubmitRequest { ack, commands: commands.clone() };
            let read = SubmitRequest::decode(&request.encode_to_vec()[..]);
            let encoded = commands.iter().map(|command| command.encode_to_vec().into()).collect();
            prop_assert_eq!(read, Ok(SubmitRequest { ack, commands: encoded }));
        }
    }
}
