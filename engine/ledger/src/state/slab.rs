//! A vector that grows in chunks: an element never moves, so growing never copies what is there.
//!
//! A plain `Vec` of 1,000,000 assets would copy about 200 MB at its next doubling, in the middle of some command, and
//! would hold up to twice what it needs.

/// Elements in a chunk. 1,024 assets are about 220 KB: small enough for a small realm.
const CHUNK: usize = 1024;

/// Append-only, indexed from 0.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    length: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab {
            chunks: Vec::new(),
            length: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn push(&mut self, element: T) {
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(element),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(element);
                self.chunks.push(chunk);
            }
        }
        self.length += 1;
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// Frees it chunk by chunk, and calls `between` after each.
    pub(crate) fn free(self, between: &mut dyn FnMut()) {
        for chunk in self.chunks {
            drop(chunk);
            between();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}
