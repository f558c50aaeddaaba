//! Where in the topic a sequence is: some blocks' places, and the places at which leaders changed.

use parking_lot::Mutex;

/// The most places kept; beyond, every other one is forgotten and half as many are noted. 65,536 x 16 bytes is 1 MiB.
const PLACES_MAX: usize = 65_536;

#[derive(Default)]
struct Content {
    /// First sequence and offset of blocks that count and of markers before them, rising.
    places: Vec<(u64, i64)>,
    /// Every so many blocks are noted.
    stride: u64,
    blocks: u64,
    /// Offset and epoch of each rise of the epoch.
    epochs: Vec<(i64, u64)>,
}

/// What is known of a topic's content. Shared by the writer and its readers.
#[derive(Default)]
pub(super) struct Index(Mutex<Content>);

impl Index {
    /// Notes a block that counts, or a marker that is a link of the chain.
    pub(super) fn note(&self, first_sequence: u64, epoch: u64, offset: i64) {
        let mut content = self.0.lock();
        content.raise(epoch, offset);
        content.stride = content.stride.max(1);
        if content.blocks.is_multiple_of(content.stride) {
            content.places.push((first_sequence, offset));
        }
        content.blocks += 1;
        if content.places.len() > PLACES_MAX {
            let mut kept = 0;
            content.places.retain(|_| {
                kept += 1;
                kept % 2 == 1
            });
            content.stride *= 2;
        }
    }

    /// Notes a marker.
    pub(super) fn note_epoch(&self, epoch: u64, offset: i64) {
        self.0.lock().raise(epoch, offset);
    }

    /// An offset at or before the block that holds `sequence`, and at or before the markers right before that block; `None` if
    /// nothing is known of one.
    pub(super) fn offset_before(&self, sequence: u64) -> Option<i64> {
        let content = self.0.lock();
        let upto = |sequence: u64| {
            let places = &content.places;
            places.partition_point(|(first_sequence, _)| *first_sequence <= sequence)
        };
        let last = upto(sequence).checked_sub(1)?;
        // Markers have the first sequence of the block behind them.
        let first_sequence = content.places[last].0;
        let first = first_sequence.checked_sub(1).map_or(0, upto);
        content.places.get(first).map(|(_, offset)| *offset)
    }

    /// Whether a block of this epoch at this offset comes from a leader that had been replaced.
    pub(super) fn is_void(&self, epoch: u64, offset: i64) -> bool {
        let content = self.0.lock();
        let before = content.epochs.partition_point(|(at, _)| *at < offset);
        before
            .checked_sub(1)
            .is_some_and(|index| content.epochs[index].1 > epoch)
    }
}

impl Content {
    fn raise(&mut self, epoch: u64, offset: i64) {
        if self.epochs.last().is_none_or(|(_, last)| *last < epoch) {
            self.epochs.push((offset, epoch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_found_at_or_before_its_block_however_many_there_are() {
        let index = Index::default();
        let count = 3 * PLACES_MAX as u64;
        for block in 0..count {
            index.note(block * 10 + 1, 1, block as i64);
        }
        assert_eq!(index.offset_before(0), None);
        for sequence in [1, 10, 11, 4_711, count * 10, count * 20] {
            let holds = ((sequence - 1) / 10).min(count - 1) as i64;
            let found = index.offset_before(sequence).unwrap_or(-1);
            assert!(found <= holds && found + 8 > holds, "{sequence}: {found}");
        }
    }

    #[test]
    fn a_block_is_read_from_the_markers_before_it_on() {
        let index = Index::default();
        for (first_sequence, epoch, offset) in
            [(1, 1, 0), (1, 1, 1), (4, 2, 2), (4, 3, 3), (4, 3, 4)]
        {
            index.note(first_sequence, epoch, offset);
        }
        let found = [1, 3, 4, 9].map(|sequence| index.offset_before(sequence));
        assert_eq!(found, [Some(0), Some(0), Some(2), Some(2)]);
        assert_eq!(index.offset_before(0), None);
    }

    #[test]
    fn only_what_comes_after_a_higher_epoch_is_void() {
        let index = Index::default();
        index.note(1, 1, 0);
        index.note_epoch(3, 5);
        assert!(!index.is_void(1, 4));
        assert!(index.is_void(1, 6));
        assert!(index.is_void(2, 9));
        assert!(!index.is_void(3, 9));
    }
}
