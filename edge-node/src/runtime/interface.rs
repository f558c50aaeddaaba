//! The inputs and outputs that a role demands, and whether a model has exactly these.

use ort::value::{Outlet, TensorElementType};

use super::EMBEDDING_LENGTH;
use crate::manifest::{Manifest, Role};

/// A tensor that a role demands: name, type and shape.
pub(super) type Demand = (&'static str, TensorElementType, Vec<i64>);

/// The inputs and outputs of a role.
pub(super) fn demands(manifest: &Manifest, batch: i64) -> (Vec<Demand>, Vec<Demand>) {
    use TensorElementType::{Float32, Uint8};
    let row = |length: usize| vec![batch, length as i64];
    let [height, width] = [manifest.image_height, manifest.image_width].map(i64::from);
    let pixels = ("pixels", Uint8, vec![batch, height, width, 3]);
    match manifest.role {
        Role::Generator => (
            vec![
                ("traits", Float32, row(manifest.one_hot_length())),
                ("latent", Float32, row(manifest.latent_length)),
            ],
            vec![pixels],
        ),
        Role::Auditor => (
            vec![pixels],
            vec![
                ("trait_logits", Float32, row(manifest.one_hot_length())),
                ("corruption", Float32, row(1)),
                ("embedding", Float32, row(EMBEDDING_LENGTH)),
            ],
        ),
    }
}

pub(super) fn check_tensors(
    kind: &str,
    demanded: &[Demand],
    found: &[Outlet],
) -> Result<(), String> {
    let names: Vec<&str> = demanded.iter().map(|(name, ..)| *name).collect();
    if let Some(unknown) = found.iter().find(|outlet| !names.contains(&outlet.name())) {
        let (unknown, known) = (unknown.name(), names.join(", "));
        return Err(format!(
            "unknown {kind} {unknown:?}; its {kind}s must be {known}"
        ));
    }
    for (name, element, shape) in demanded {
        let Some(outlet) = found.iter().find(|outlet| outlet.name() == *name) else {
            return Err(format!("{kind} {name:?} is missing"));
        };
        let expected = format!("{element:?} of {}", shape_text(shape));
        match (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) {
            (Some(found), Some(sizes)) if found == *element && sizes[..] == shape[..] => {}
            (Some(found), Some(sizes)) => {
                let sizes = shape_text(sizes);
                return Err(format!(
                    "{kind} {name:?} is {found:?} of {sizes}; must be {expected}"
                ));
            }
            _ => return Err(format!("{kind} {name:?} is no tensor; must be {expected}")),
        }
    }
    Ok(())
}

/// A shape as a person reads it: the first size is the batch.
fn shape_text(shape: &[i64]) -> String {
    let sizes = shape.iter().skip(1).map(i64::to_string);
    let all: Vec<String> = std::iter::once("batch".to_owned()).chain(sizes).collect();
    format!("[{}]", all.join(", "))
}
