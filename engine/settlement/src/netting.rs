//! Netting: of all changes in a batch only the last state of each asset is settled.

use crate::leaf::Leaf;

/// One change of one asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The sequence of the command that made it.
    pub sequence: u64,
    /// The asset's state after it.
    pub leaf: Leaf,
}

/// At most one leaf an asset, its latest, sorted by asset. Of two changes with one sequence (an exchange
/// that moves an asset twice) the later in the slice counts.
pub fn net(changes: &[Change]) -> Vec<Leaf> {
    let mut order: Vec<u32> = (0..changes.len() as u32).collect();
    order.sort_unstable_by_key(|&position| {
        let change = &changes[position as usize];
        (change.leaf.asset, change.sequence, position)
    });
    let mut leaves: Vec<Leaf> = Vec::new();
    for position in order {
        let leaf = changes[position as usize].leaf;
        match leaves.last_mut() {
            Some(last) if last.asset == leaf.asset => *last = leaf,
            _ => leaves.push(leaf),
        }
    }
    leaves
}
