//! The door: a command's form, its content and its rate are checked here, before the queue.

use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_content::{ContentError, ContentStore};
use karat_edge_node::pixels::{PngLimits, check_png_header};
use karat_proto::convert::{self, Refused};
use karat_proto::v1::command::Kind;
use karat_proto::{Code, Command, limits, v1};
use karat_sequencer::Prepared;

/// What a PNG may be at the door.
pub fn png_limits() -> PngLimits {
    PngLimits {
        max_bytes: limits::CONTENT_BYTES_MAX,
        max_width: limits::IMAGE_SIDE_MAX,
        max_height: limits::IMAGE_SIDE_MAX,
    }
}

/// As [`admit`], of a command in its bytes. Those of a frequent kind that are what encoding it gives go into the log as they
/// are; `encoded` should hold nothing else in memory, since it may wait in the queue.
///
/// # Errors
/// As [`admit`], and when the bytes are no command; with the command's id, which is empty then.
pub fn admit_encoded(
    content: &dyn ContentStore,
    encoded: Bytes,
    hashing: &mut Duration,
) -> Result<Prepared<Command>, (Bytes, Refused)> {
    if let Some(command) = convert::read_frequent(&encoded) {
        return Ok(Prepared {
            body: encoded,
            command,
        });
    }
    let wire = convert::wire_command(encoded).map_err(|refused| (Bytes::new(), refused))?;
    let id = wire.id.clone();
    admit(content, wire, hashing).map_err(|refused| (id, refused))
}

/// Checks one command that came from outside and prepares it for the log: its content is stored, its bytes are encoded.
/// `hashing` grows by the time that its content's digest took.
///
/// # Errors
/// With the code and the field that is wrong; nothing but unnamed content was stored then.
pub fn admit(
    content: &dyn ContentStore,
    mut wire: v1::Command,
    hashing: &mut Duration,
) -> Result<Prepared<Command>, Refused> {
    match wire.kind.as_mut() {
        Some(Kind::Mint(mint)) => {
            store_content(
                content,
                &mut mint.content,
                &mut mint.digest,
                &mut mint.size,
                hashing,
            )?;
        }
        Some(Kind::Revise(revise)) => {
            store_content(
                content,
                &mut revise.content,
                &mut revise.digest,
                &mut revise.size,
                hashing,
            )?;
        }
        Some(
            Kind::Genesis(_)
            | Kind::Verdict(_)
            | Kind::BatchSealed(_)
            | Kind::BatchCommitted(_)
            | Kind::BatchFinal(_)
            | Kind::Tick(_),
        ) => {
            return Err(Refused::new(
                Code::NotAllowed,
                "only the engine itself enters commands of this kind",
            ));
        }
        _ => {}
    }
    let (body, command) = convert::encode_command(wire)?;
    Ok(Prepared { body, command })
}

/// Puts content bytes into the store and leaves their digest and size in the command; without bytes, the digest must
/// name content that is stored already.
fn store_content(
    store: &dyn ContentStore,
    content: &mut Bytes,
    digest: &mut Bytes,
    size: &mut u32,
    hashing: &mut Duration,
) -> Result<(), Refused> {
    let bytes = std::mem::take(content);
    if bytes.is_empty() {
        let named = convert::digest(digest, "digest (or content)")?;
        if store
            .contains(&named)
            .map_err(|error| unavailable(&error))?
        {
            return Ok(());
        }
        return Err(Refused::new(
            Code::ContentMissing,
            format!("no content with digest {} is stored", hex::encode(named)),
        ));
    }
    check_png_header(&bytes, png_limits())
        .map_err(|error| Refused::new(Code::ContentRefused, error.to_string()))?;
    let began = Instant::now();
    let found = karat_content::digest_of(&bytes);
    *hashing += began.elapsed();
    if !digest.is_empty() && digest[..] != found {
        return Err(Refused::new(
            Code::DigestMismatch,
            format!(
                "digest says {}, the bytes have {}",
                hex::encode(&digest[..]),
                hex::encode(found)
            ),
        ));
    }
    if *size != 0 && *size as usize != bytes.len() {
        return Err(Refused::new(
            Code::DigestMismatch,
            format!("size says {size}, the content has {} bytes", bytes.len()),
        ));
    }
    store.put(&bytes).map_err(|error| unavailable(&error))?;
    *digest = Bytes::copy_from_slice(&found);
    // At most CONTENT_BYTES_MAX, which the header check has seen to.
    *size = bytes.len() as u32;
    Ok(())
}

fn unavailable(error: &ContentError) -> Refused {
    Refused::new(Code::Unavailable, format!("content store: {error}"))
}

/// A token bucket: so many commands a second, with one second's worth of burst.
#[derive(Debug)]
pub struct RateLimit {
    a_second: u64,
    tokens: f64,
    last: Instant,
}

impl RateLimit {
    /// A limit of `a_second` commands; 0 for none.
    pub fn new(a_second: u64, now: Instant) -> RateLimit {
        RateLimit {
            a_second,
            tokens: a_second as f64,
            last: now,
        }
    }

    /// Takes `commands` tokens.
    ///
    /// # Errors
    /// With the milliseconds until there are enough.
    pub fn take(&mut self, commands: usize, now: Instant) -> Result<(), u32> {
        if self.a_second == 0 {
            return Ok(());
        }
        let rate = self.a_second as f64;
        let grown = self.tokens + now.saturating_duration_since(self.last).as_secs_f64() * rate;
        self.tokens = grown.min(rate);
        self.last = now;
        let wanted = commands as f64;
        if wanted <= self.tokens {
            self.tokens -= wanted;
            return Ok(());
        }
        Err(((wanted - self.tokens) / rate * 1000.0).ceil() as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::RateLimit;

    #[test]
    fn a_rate_limit_lets_a_second_of_burst_through_and_says_when_there_is_more() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1000, start);
        assert_eq!(limit.take(1000, start), Ok(()));
        assert_eq!(limit.take(100, start), Err(100));
        assert_eq!(limit.take(100, start + Duration::from_millis(100)), Ok(()));
        assert_eq!(RateLimit::new(0, start).take(usize::MAX, start), Ok(()));
    }
}
