//! A model is tried on the built-in backend before it is handed over.
//!
//! That backend panics on some models, and `ort` calls it through functions that cannot unwind: the process would be
//! gone, with the node in it. Here the same code runs where a panic can be caught: analysis, planning and one run on zeros.
//! Sizes are looked at between analysis and planning, because memory that the system does not have ends a process too.
//! It doubles the time of loading (some 50 ms for a model of 2.5 MB).

use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::{Framework, InferenceModelExt, TValue, TVec, Tensor, TractResult};
use tract_onnx::tract_core::model::IntoRunnable;

/// Most values of one tensor within a model, for one image: 64 Mi, 256 MiB of floats.
const VALUES_MOST: usize = 64 * 1024 * 1024;

/// Why the backend must not have this model.
pub(super) fn try_model(bytes: &[u8]) -> Result<(), String> {
    let tried = catch_unwind(AssertUnwindSafe(|| run_once(bytes)));
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "for no stated reason".into());
            Err(format!("it panics on it: {text}"))
        }
    }
}

fn run_once(mut bytes: &[u8]) -> TractResult<()> {
    let model = tract_onnx::onnx()
        .model_for_read(&mut bytes)?
        .into_typed()?;
    for node in &model.nodes {
        for output in &node.outputs {
            let sizes = output.fact.shape.as_concrete();
            let count = sizes.and_then(|sizes| {
                let product = |product: usize, size: &usize| product.checked_mul(*size);
                sizes.iter().try_fold(1, product)
            });
            if count.is_none_or(|count| count > VALUES_MOST) {
                let (name, shape) = (&node.name, &output.fact.shape);
                let text = format!("{name:?} has {shape:?} values; the most is {VALUES_MOST}");
                return Err(tract_onnx::prelude::TractError::msg(text));
            }
        }
    }
    let model = model.into_optimized()?;
    let mut inputs: TVec<TValue> = TVec::new();
    for place in 0..model.inputs.len() {
        let fact = model.input_fact(place)?;
        let shape = fact.shape.as_concrete().unwrap_or_default();
        inputs.push(Tensor::zero_dt(fact.datum_type, shape)?.into());
    }
    let plan = model.into_runnable()?;
    plan.run(inputs)?;
    Ok(())
}
