//! Content in memory, for tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{Collected, ContentError, ContentStore, Digest, OBJECT_BYTES_MAX, digest_of};

/// A content store that forgets everything when it is dropped. Holds all that it is given: for tests.
#[derive(Debug, Default)]
pub struct MemoryContent {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Digest, Object>,
    /// Puts so far; tells what was put while a collection runs.
    puts: u64,
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    last_put: u64,
}

impl MemoryContent {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl ContentStore for MemoryContent {
    fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(ContentError::TooLarge {
                bytes: bytes.len() as u64,
                max: OBJECT_BYTES_MAX as u64,
            });
        }
        let digest = digest_of(bytes);
        let mut state = self.state.write();
        state.puts += 1;
        let last_put = state.puts;
        state
            .objects
            .entry(digest)
            .or_insert_with(|| Object {
                bytes: Bytes::copy_from_slice(bytes),
                last_put,
            })
            .last_put = last_put;
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Option<Bytes>, ContentError> {
        Ok(self
            .state
            .read()
            .objects
            .get(digest)
            .map(|object| object.bytes.clone()))
    }

    fn contains(&self, digest: &Digest) -> Result<bool, ContentError> {
        let mut state = self.state.write();
        state.puts += 1;
        let last_put = state.puts;
        let found = state.objects.get_mut(digest);
        Ok(found.map(|object| object.last_put = last_put).is_some())
    }

    fn flush(&self) -> Result<(), ContentError> {
        Ok(())
    }

    fn digests(&self) -> Result<Vec<Digest>, ContentError> {
        Ok(self.state.read().objects.keys().copied().collect())
    }

    fn collect(&self, keep: &dyn Fn(&Digest) -> bool) -> Result<Collected, ContentError> {
        let (puts_before, digests) = {
            let state = self.state.read();
            (
                state.puts,
                state.objects.keys().copied().collect::<Vec<_>>(),
            )
        };
        // `keep` may ask this store, so it is not called under the lock.
        let candidates: Vec<Digest> = digests.into_iter().filter(|digest| !keep(digest)).collect();
        let mut collected = Collected::default();
        let mut state = self.state.write();
        for digest in candidates {
            if state
                .objects
                .get(&digest)
                .is_some_and(|object| object.last_put <= puts_before)
                && let Some(object) = state.objects.remove(&digest)
            {
                collected.objects_dropped += 1;
                collected.bytes_dropped += object.bytes.len() as u64;
            }
        }
        Ok(collected)
    }
}
