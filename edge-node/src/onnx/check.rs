//! What must hold of an ONNX file before a backend sees it.
//!
//! Backends are written for files that an exporter made. Some abort the process on others: a group of 0, a loop in the
//! graph, a pad of a billion. So the file is walked once, and what is not plainly a feed-forward network of finite numbers
//! is refused by name: operators that not every backend runs the same way, graphs within graphs, weights in other files,
//! tensors whose size is not their shape's, numbers that are not finite. Field numbers are those of `onnx.proto3`.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use thiserror::Error;

use super::protobuf::{Damaged, Field, Reader, Value};
use super::tensor::{Tensor, read_tensor};

/// Operators that both backends run.
pub const OPERATORS: [&str; 52] = [
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Div",
    "Elu",
    "Erf",
    "Exp",
    "Flatten",
    "Floor",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "Identity",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "MatMul",
    "Max",
    "MaxPool",
    "Min",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "SpaceToDepth",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
];
/// Most nodes and most constants of a graph.
pub const PARTS_MOST: usize = 4_096;
/// Most inputs or outputs of a node, and most attributes.
const EDGES_MOST: usize = 64;
/// Most numbers of an attribute that is no tensor.
const NUMBERS_MOST: usize = 64;
/// Numbers of attributes like pads, strides and groups.
const GEOMETRY: RangeInclusive<i64> = -4_096..=4_096;
/// Values of whole-number constants (shapes, pads, axes; the ends of slices may be "to the end").
const WHOLE_MOST: i64 = 1 << 24;
/// Largest factor of a resize.
const SCALE_MOST: f32 = 64.0;
/// Versions of the operator set.
const OPSETS: RangeInclusive<i64> = 7..=21;
/// Longest name of a tensor or node, in bytes.
const NAME_BYTES_MOST: usize = 1_024;

const MODEL_GRAPH: u64 = 7;
const MODEL_OPSET: u64 = 8;
const MODEL_TRAINING: u64 = 20;
const MODEL_FUNCTIONS: u64 = 25;
const GRAPH_NODE: u64 = 1;
const GRAPH_CONSTANT: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const GRAPH_SPARSE: u64 = 15;
const NODE_INPUT: u64 = 1;
const NODE_OUTPUT: u64 = 2;
const NODE_OPERATOR: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const NODE_DOMAIN: u64 = 7;
const VALUE_NAME: u64 = 1;
const ATTRIBUTE_NAME: u64 = 1;
const ATTRIBUTE_FLOAT: u64 = 2;
const ATTRIBUTE_INTEGER: u64 = 3;
const ATTRIBUTE_TENSOR: u64 = 5;
const ATTRIBUTE_FLOATS: u64 = 7;
const ATTRIBUTE_INTEGERS: u64 = 8;
/// Texts and their lists, the documentation and the kind: nothing in them can be too large.
const ATTRIBUTE_HARMLESS: [u64; 5] = [4, 9, 13, 20, 21];

/// A file that no backend gets.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum OnnxError {
    /// The bytes are no protobuf message.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// There is no graph, or more than one.
    #[error("not an ONNX file: it holds {found} graphs")]
    Graphs {
        /// Graphs found.
        found: usize,
    },
    /// An operator that not every backend runs.
    #[error(
        "operator {operator:?} is not one that both backends run; export the model with {}",
        OPERATORS.join(", ")
    )]
    Operator {
        /// The operator, with its domain where that is not the standard one.
        operator: String,
    },
    /// A constant or an attribute holds a number that is not finite.
    #[error("{tensor} holds {found}, which is no finite number; train or export the model again")]
    NotFinite {
        /// The constant.
        tensor: String,
        /// What was found, as text.
        found: String,
    },
    /// Something else that is refused.
    #[error("{what}: {reason}")]
    Refused {
        /// Which part of the file.
        what: String,
        /// Why.
        reason: String,
    },
}

pub(super) fn refuse<T>(
    what: impl Into<String>,
    reason: impl Into<String>,
) -> Result<T, OnnxError> {
    Err(OnnxError::Refused {
        what: what.into(),
        reason: reason.into(),
    })
}

/// Walks the file once.
///
/// # Errors
/// With the first thing that is refused.
pub fn check_model(model: &[u8]) -> Result<(), OnnxError> {
    let mut graph = None;
    let mut graphs = 0;
    let mut reader = Reader { bytes: model };
    while let Some(field) = reader.next()? {
        match field.number {
            MODEL_GRAPH => {
                graphs += 1;
                graph = Some(field.bytes()?);
            }
            MODEL_OPSET => check_opset(field.bytes()?)?,
            MODEL_TRAINING => return refuse("the model", "brings a training graph"),
            MODEL_FUNCTIONS => return refuse("the model", "brings functions of its own"),
            _ => {}
        }
    }
    match graph {
        Some(graph) if graphs == 1 => check_graph(graph),
        _ => Err(OnnxError::Graphs { found: graphs }),
    }
}

fn check_opset(message: &[u8]) -> Result<(), OnnxError> {
    let (mut domain, mut version) = (String::new(), 0);
    let mut reader = Reader { bytes: message };
    while let Some(field) = reader.next()? {
        match field.number {
            1 => domain = text(&field)?,
            2 => version = field.number()?,
            _ => {}
        }
    }
    if is_standard(&domain) && !OPSETS.contains(&version) {
        let (least, most) = (OPSETS.start(), OPSETS.end());
        let reason = format!("{version}; must be {least} to {most}; export it with 17");
        return refuse("the operator set", reason);
    }
    Ok(())
}

fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn text(field: &Field<'_>) -> Result<String, OnnxError> {
    let bytes = field.bytes()?;
    if bytes.len() > NAME_BYTES_MOST {
        return refuse(
            "a name",
            format!("{} bytes; the most is {NAME_BYTES_MOST}", bytes.len()),
        );
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Damaged("a name that is not UTF-8").into()),
    }
}

/// Tensors by name: what is known where a node stands, and constants with their few whole numbers.
#[derive(Default)]
struct Known<'a> {
    names: HashSet<String>,
    constants: Vec<Tensor<'a>>,
}

impl<'a> Known<'a> {
    fn add(&mut self, name: String) -> Result<(), OnnxError> {
        if self.names.contains(&name) {
            return refuse(format!("tensor {name:?}"), "is made twice");
        }
        self.names.insert(name);
        Ok(())
    }

    fn constant(&self, name: &str) -> Option<&Tensor<'a>> {
        self.constants.iter().find(|constant| constant.name == name)
    }
}

fn check_graph(graph: &[u8]) -> Result<(), OnnxError> {
    let mut known = Known::default();
    let (mut nodes, mut inputs, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    let mut reader = Reader { bytes: graph };
    while let Some(field) = reader.next()? {
        match field.number {
            GRAPH_NODE => nodes.push(field.bytes()?),
            GRAPH_CONSTANT => known
                .constants
                .push(read_tensor(field.bytes()?, "a constant")?),
            GRAPH_INPUT => inputs.push(value_name(field.bytes()?)?),
            GRAPH_OUTPUT => outputs.push(value_name(field.bytes()?)?),
            GRAPH_SPARSE => return refuse("the graph", "holds a sparse constant"),
            _ => {}
        }
    }
    for (what, found) in [("nodes", nodes.len()), ("constants", known.constants.len())] {
        if found > PARTS_MOST {
            return refuse(
                "the graph",
                format!("{found} {what}; the most is {PARTS_MOST}"),
            );
        }
    }
    for constant in &known.constants {
        check_constant(constant)?;
    }
    for name in known
        .constants
        .iter()
        .map(|one| one.name.clone())
        .collect::<Vec<_>>()
    {
        known.add(name)?;
    }
    for name in inputs {
        known.add(name)?;
    }
    for node in nodes {
        check_node(node, &mut known)?;
    }
    match outputs.iter().find(|name| !known.names.contains(*name)) {
        Some(missing) => refuse(format!("output {missing:?}"), "no node makes it"),
        None => Ok(()),
    }
}

fn value_name(value: &[u8]) -> Result<String, OnnxError> {
    let mut reader = Reader { bytes: value };
    while let Some(field) = reader.next()? {
        if field.number == VALUE_NAME {
            return text(&field);
        }
    }
    refuse("an input or output", "has no name")
}

fn check_constant(constant: &Tensor<'_>) -> Result<(), OnnxError> {
    let what = format!("constant {:?}", constant.name);
    if let Some(found) = constant.not_finite() {
        return Err(OnnxError::NotFinite {
            tensor: what,
            found,
        });
    }
    // "From the beginning" and "to the end" of a slice are written as the outermost numbers.
    let outermost = [i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX)];
    let wild = constant.whole_numbers().into_iter().find(|value| {
        value.unsigned_abs() > WHOLE_MOST.unsigned_abs() && !outermost.contains(value)
    });
    match wild {
        Some(value) => refuse(what, format!("{value}; at most {WHOLE_MOST} makes sense")),
        None => Ok(()),
    }
}

/// A node whose inputs were made before it, so that there is no loop.
fn check_node(node: &[u8], known: &mut Known<'_>) -> Result<(), OnnxError> {
    let (mut operator, mut domain) = (String::new(), String::new());
    let (mut inputs, mut outputs, mut attributes) = (Vec::new(), Vec::new(), Vec::new());
    let mut reader = Reader { bytes: node };
    while let Some(field) = reader.next()? {
        match field.number {
            NODE_INPUT => inputs.push(text(&field)?),
            NODE_OUTPUT => outputs.push(text(&field)?),
            NODE_OPERATOR => operator = text(&field)?,
            NODE_ATTRIBUTE => attributes.push(field.bytes()?),
            NODE_DOMAIN => domain = text(&field)?,
            _ => {}
        }
    }
    if !is_standard(&domain) {
        let operator = format!("{domain}.{operator}");
        return Err(OnnxError::Operator { operator });
    }
    if !OPERATORS.contains(&operator.as_str()) {
        return Err(OnnxError::Operator { operator });
    }
    let what = format!(
        "{operator} {:?}",
        outputs.first().map_or("", String::as_str)
    );
    let most = inputs.len().max(outputs.len()).max(attributes.len());
    if outputs.is_empty() || most > EDGES_MOST {
        let reason = format!("needs 1 to {EDGES_MOST} inputs, outputs and attributes");
        return refuse(what, reason);
    }
    // An input without a name is one that is left out.
    let unknown = inputs
        .iter()
        .find(|name| !name.is_empty() && !known.names.contains(*name));
    if let Some(unknown) = unknown {
        return refuse(what, format!("input {unknown:?} is not made before it"));
    }
    for attribute in attributes {
        check_attribute(attribute, &what)?;
    }
    if operator == "Resize" {
        check_resize(&inputs, &what, known)?;
    }
    outputs
        .into_iter()
        .filter(|name| !name.is_empty())
        .try_for_each(|name| known.add(name))
}

fn check_attribute(attribute: &[u8], node: &str) -> Result<(), OnnxError> {
    let (mut name, mut whole, mut floats) = (String::new(), Vec::new(), Vec::new());
    let mut reader = Reader { bytes: attribute };
    while let Some(field) = reader.next()? {
        match field.number {
            ATTRIBUTE_NAME => name = text(&field)?,
            ATTRIBUTE_INTEGER | ATTRIBUTE_INTEGERS => field.numbers(&mut whole)?,
            ATTRIBUTE_FLOAT | ATTRIBUTE_FLOATS => match field.value {
                Value::Bits32(bits) => floats.push(f32::from_bits(bits)),
                Value::Bytes(bytes) => {
                    let (each, rest) = bytes.as_chunks::<4>();
                    if !rest.is_empty() {
                        return Err(Damaged("a list of floats cut short").into());
                    }
                    floats.extend(each.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                }
                _ => return Err(Damaged("something else in place of a float").into()),
            },
            ATTRIBUTE_TENSOR => check_constant(&read_tensor(field.bytes()?, node)?)?,
            number if ATTRIBUTE_HARMLESS.contains(&number) => {}
            _ => {
                return refuse(
                    node,
                    format!("attribute {name:?} holds a graph, tensors or a type"),
                );
            }
        }
    }
    if whole.len() > NUMBERS_MOST || floats.len() > NUMBERS_MOST {
        let reason = format!("attribute {name:?} has more than {NUMBERS_MOST} numbers");
        return refuse(node, reason);
    }
    if let Some(found) = floats.iter().find(|value| !value.is_finite()) {
        return Err(OnnxError::NotFinite {
            tensor: format!("{node}, attribute {name:?}"),
            found: found.to_string(),
        });
    }
    let least = match name.as_str() {
        "group" | "strides" | "dilations" | "kernel_shape" | "blocksize" => 1,
        "pads" | "output_padding" => 0,
        _ => *GEOMETRY.start(),
    };
    match whole
        .iter()
        .find(|value| !(least..=*GEOMETRY.end()).contains(*value))
    {
        Some(value) => {
            let most = GEOMETRY.end();
            refuse(
                node,
                format!("attribute {name:?} is {value}; must be {least} to {most}"),
            )
        }
        None => Ok(()),
    }
}

/// A resize is by constants, and not by much.
fn check_resize(inputs: &[String], node: &str, known: &Known<'_>) -> Result<(), OnnxError> {
    for name in inputs.iter().skip(1).filter(|name| !name.is_empty()) {
        let Some(constant) = known.constant(name) else {
            return refuse(
                node,
                format!("its size {name:?} is no constant of the graph"),
            );
        };
        let scales = constant.floats();
        if let Some(scale) = scales
            .iter()
            .find(|scale| !(0.0..=SCALE_MOST).contains(*scale))
        {
            return refuse(
                node,
                format!("a factor of {scale}; must be 0 to {SCALE_MOST}"),
            );
        }
        let sizes = constant.whole_numbers();
        if let Some(size) = sizes
            .iter()
            .find(|size| !(-1..=*GEOMETRY.end()).contains(*size))
        {
            return refuse(
                node,
                format!("a size of {size}; the most is {}", GEOMETRY.end()),
            );
        }
    }
    Ok(())
}
