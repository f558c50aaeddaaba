//! Writes small ONNX files and model folders, so that tests need no Python and no trained model.
//!
//! Field numbers are those of `onnx.proto3`.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::path::Path;

use sha2::{Digest, Sha256};

pub const FLOAT: u64 = 1;
pub const UINT8: u64 = 2;
/// Sum of the cardinalities of the vocabulary in [`write_folder`].
pub const ONE_HOT: u64 = 5;
pub const LATENT: u64 = 3;
/// Height and width of the images.
pub const SIDE: u64 = 4;

/// A size of a shape: open under a name, or fixed.
#[derive(Clone, Copy)]
pub enum Size {
    Batch,
    Fixed(u64),
}
use Size::{Batch, Fixed};

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }
}

/// An input or output.
pub fn value(name: &str, element: u64, shape: &[Size]) -> Vec<u8> {
    let shape = shape.iter().fold(Message::default(), |shape, size| {
        let dimension = match size {
            Batch => Message::default().bytes(2, b"N"),
            Fixed(size) => Message::default().number(1, *size),
        };
        shape.bytes(1, &dimension.0)
    });
    let tensor = Message::default().number(1, element).bytes(2, &shape.0);
    let r#type = Message::default().bytes(1, &tensor.0);
    Message::default()
        .bytes(1, name.as_bytes())
        .bytes(2, &r#type.0)
        .0
}

/// An operator with at most one attribute that is a number.
pub fn node(
    operator: &str,
    inputs: &[&str],
    output: &str,
    attribute: Option<(&str, u64)>,
) -> Vec<u8> {
    let node = inputs.iter().fold(Message::default(), |node, input| {
        node.bytes(1, input.as_bytes())
    });
    let node = node
        .bytes(2, output.as_bytes())
        .bytes(3, output.as_bytes())
        .bytes(4, operator.as_bytes());
    match attribute {
        None => node.0,
        Some((name, value)) => {
            let attribute = Message::default()
                .bytes(1, name.as_bytes())
                .number(3, value)
                .number(20, 2);
            node.bytes(5, &attribute.0).0
        }
    }
}

/// An operator with attributes that are lists of numbers.
pub fn node_with(
    operator: &str,
    inputs: &[&str],
    output: &str,
    attributes: &[(&str, &[i64])],
) -> Vec<u8> {
    let plain = Message(node(operator, inputs, output, None));
    let with = attributes.iter().fold(plain, |node, (name, values)| {
        let attribute = Message::default().bytes(1, name.as_bytes());
        let attribute = match values {
            [one] if !["pads", "strides", "kernel_shape", "perm", "axes"].contains(name) => {
                attribute.number(3, *one as u64).number(20, 2)
            }
            many => many
                .iter()
                .fold(attribute, |attribute, value| {
                    attribute.number(8, *value as u64)
                })
                .number(20, 7),
        };
        node.bytes(5, &attribute.0)
    });
    with.0
}

/// A constant whose values lie in another file.
pub fn external(name: &str, shape: &[u64]) -> Vec<u8> {
    let entry = Message::default()
        .bytes(1, b"location")
        .bytes(2, b"../../secret");
    Message(constant(name, shape, FLOAT, Vec::new()))
        .bytes(13, &entry.0)
        .number(14, 1)
        .0
}

pub fn floats(name: &str, shape: &[u64], values: &[f32]) -> Vec<u8> {
    constant(
        name,
        shape,
        FLOAT,
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    )
}

pub fn integers(name: &str, shape: &[u64], values: &[i64]) -> Vec<u8> {
    constant(
        name,
        shape,
        7,
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    )
}

fn constant(name: &str, shape: &[u64], element: u64, raw: Vec<u8>) -> Vec<u8> {
    let tensor = shape
        .iter()
        .fold(Message::default(), |tensor, size| tensor.number(1, *size));
    tensor
        .number(2, element)
        .bytes(8, name.as_bytes())
        .bytes(9, &raw)
        .0
}

pub fn model(
    nodes: &[Vec<u8>],
    constants: &[Vec<u8>],
    inputs: &[Vec<u8>],
    outputs: &[Vec<u8>],
) -> Vec<u8> {
    let mut graph = Message::default().bytes(2, b"tiny");
    for (field, parts) in [(1, nodes), (5, constants), (11, inputs), (12, outputs)] {
        graph = parts
            .iter()
            .fold(graph, |graph, part| graph.bytes(field, part));
    }
    let operators = Message::default().bytes(1, b"").number(2, 17);
    Message::default()
        .number(1, 8)
        .bytes(7, &graph.0)
        .bytes(8, &operators.0)
        .0
}

/// What a tiny generator may get wrong.
pub struct Tiny {
    pub latent_name: &'static str,
    pub latent_length: u64,
    pub pixels_name: &'static str,
    pub batch: Size,
    pub operator: &'static str,
    pub scale: f32,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            latent_name: "latent",
            latent_length: LATENT,
            pixels_name: "pixels",
            batch: Batch,
            operator: "Clip",
            scale: 1.0,
        }
    }
}

/// The weights of a tiny generator: output `to` gets `weight(from, to)` times input `from`, plus 100.
pub fn weight(from: u64, to: u64) -> f32 {
    ((from * 7 + to * 3) % 11) as f32 - 5.0
}

/// A generator of 4 x 4 pixels: one matrix and a clip.
pub fn tiny_generator(tiny: &Tiny) -> Vec<u8> {
    let (inputs, pixels) = (ONE_HOT + tiny.latent_length, SIDE * SIDE * 3);
    let weights: Vec<f32> = (0..inputs)
        .flat_map(|from| (0..pixels).map(move |to| weight(from, to)))
        .map(|weight| weight * tiny.scale)
        .collect();
    model(
        &[
            node(
                "Concat",
                &["traits", tiny.latent_name],
                "joined",
                Some(("axis", 1)),
            ),
            node("Gemm", &["joined", "weights", "bias"], "sums", None),
            node(tiny.operator, &["sums", "low", "high"], "clipped", None),
            node("Floor", &["clipped"], "floored", None),
            node("Reshape", &["floored", "shape"], "image", None),
            node("Cast", &["image"], tiny.pixels_name, Some(("to", UINT8))),
        ],
        &[
            floats("weights", &[inputs, pixels], &weights),
            floats("bias", &[pixels], &vec![100.0; pixels as usize]),
            floats("low", &[], &[0.0]),
            floats("high", &[], &[255.0]),
            integers("shape", &[4], &[-1, SIDE as i64, SIDE as i64, 3]),
        ],
        &[
            value("traits", FLOAT, &[tiny.batch, Fixed(ONE_HOT)]),
            value(
                tiny.latent_name,
                FLOAT,
                &[tiny.batch, Fixed(tiny.latent_length)],
            ),
        ],
        &[value(
            tiny.pixels_name,
            UINT8,
            &[tiny.batch, Fixed(SIDE), Fixed(SIDE), Fixed(3)],
        )],
    )
}

/// The tiny generator with other nodes between its sums (`sums`, 48 of them an image) and the image (`wide`, 48 again).
pub fn generator_through(middle: &[Vec<u8>], constants: &[Vec<u8>]) -> Vec<u8> {
    let (inputs, pixels) = (ONE_HOT + LATENT, SIDE * SIDE * 3);
    let weights: Vec<f32> = (0..inputs)
        .flat_map(|from| (0..pixels).map(move |to| weight(from, to)))
        .collect();
    let mut nodes = vec![
        node("Concat", &["traits", "latent"], "joined", Some(("axis", 1))),
        node("Gemm", &["joined", "weights", "bias"], "sums", None),
    ];
    nodes.extend_from_slice(middle);
    nodes.extend([
        node("Reshape", &["wide", "shape"], "image", None),
        node("Cast", &["image"], "pixels", Some(("to", UINT8))),
    ]);
    let mut all = vec![
        floats("weights", &[inputs, pixels], &weights),
        floats("bias", &[pixels], &vec![100.0; pixels as usize]),
        integers("shape", &[4], &[-1, SIDE as i64, SIDE as i64, 3]),
    ];
    all.extend_from_slice(constants);
    model(
        &nodes,
        &all,
        &[
            value("traits", FLOAT, &[Batch, Fixed(ONE_HOT)]),
            value("latent", FLOAT, &[Batch, Fixed(LATENT)]),
        ],
        &[value(
            "pixels",
            UINT8,
            &[Batch, Fixed(SIDE), Fixed(SIDE), Fixed(3)],
        )],
    )
}

/// Inner size of a slow generator's matrices, and how often each image goes through one.
const SLOW_SIZE: u64 = 1024;
const SLOW_ROUNDS: u64 = 24;

/// As [`tiny_generator`], with the work of some 25 million multiplications an image that change nothing.
pub fn slow_generator(scale: f32) -> Vec<u8> {
    let (inputs, pixels) = (ONE_HOT + LATENT, SIDE * SIDE * 3);
    let weights: Vec<f32> = (0..inputs)
        .flat_map(|from| (0..pixels).map(move |to| weight(from, to) * scale))
        .collect();
    let zeros = |rows: u64, columns: u64| vec![0.0; (rows * columns) as usize];
    let mut nodes = vec![
        node("Concat", &["traits", "latent"], "joined", Some(("axis", 1))),
        node("Gemm", &["joined", "weights", "bias"], "sums", None),
        node("MatMul", &["joined", "widen"], "work0", None),
    ];
    for round in 0..SLOW_ROUNDS {
        let (from, to) = (format!("work{round}"), format!("work{}", round + 1));
        nodes.push(node("MatMul", &[&from, "work"], &to, None));
    }
    let last = format!("work{SLOW_ROUNDS}");
    nodes.extend([
        node("MatMul", &[&last, "narrow"], "nothing", None),
        node("Add", &["sums", "nothing"], "added", None),
        node("Clip", &["added", "low", "high"], "clipped", None),
        node("Floor", &["clipped"], "floored", None),
        node("Reshape", &["floored", "shape"], "image", None),
        node("Cast", &["image"], "pixels", Some(("to", UINT8))),
    ]);
    model(
        &nodes,
        &[
            floats("weights", &[inputs, pixels], &weights),
            floats("bias", &[pixels], &vec![100.0; pixels as usize]),
            floats("widen", &[inputs, SLOW_SIZE], &zeros(inputs, SLOW_SIZE)),
            floats(
                "work",
                &[SLOW_SIZE, SLOW_SIZE],
                &zeros(SLOW_SIZE, SLOW_SIZE),
            ),
            floats("narrow", &[SLOW_SIZE, pixels], &zeros(SLOW_SIZE, pixels)),
            floats("low", &[], &[0.0]),
            floats("high", &[], &[255.0]),
            integers("shape", &[4], &[-1, SIDE as i64, SIDE as i64, 3]),
        ],
        &[
            value("traits", FLOAT, &[Batch, Fixed(ONE_HOT)]),
            value("latent", FLOAT, &[Batch, Fixed(LATENT)]),
        ],
        &[value(
            "pixels",
            UINT8,
            &[Batch, Fixed(SIDE), Fixed(SIDE), Fixed(3)],
        )],
    )
}

/// What [`tiny_generator`] makes of traits and a latent, computed here.
pub fn tiny_pixels(traits: &[u8], latent: &[f32]) -> Vec<u8> {
    let mut inputs = vec![0.0; ONE_HOT as usize];
    inputs[usize::from(traits[0])] = 1.0;
    inputs[2 + usize::from(traits[1])] = 1.0;
    inputs.extend(latent);
    (0..SIDE * SIDE * 3)
        .map(|to| {
            let sum: f32 = inputs
                .iter()
                .enumerate()
                .map(|(from, x)| weight(from as u64, to) * x)
                .sum();
            (sum + 100.0).clamp(0.0, 255.0) as u8
        })
        .collect()
}

/// A tiny auditor: every output is a plain sum over the pixels.
pub fn tiny_auditor() -> Vec<u8> {
    let pixels = SIDE * SIDE * 3;
    let spread = |outputs: u64| -> Vec<f32> {
        (0..pixels)
            .flat_map(|from| (0..outputs).map(move |to| weight(from, to) / 1024.0))
            .collect()
    };
    model(
        &[
            node("Cast", &["pixels"], "numbers", Some(("to", FLOAT))),
            node("Reshape", &["numbers", "flat"], "row", None),
            node("MatMul", &["row", "to_traits"], "trait_logits", None),
            node("MatMul", &["row", "to_score"], "score", None),
            node("Sigmoid", &["score"], "corruption", None),
            node("MatMul", &["row", "to_embedding"], "embedding", None),
        ],
        &[
            integers("flat", &[2], &[-1, pixels as i64]),
            floats("to_traits", &[pixels, ONE_HOT], &spread(ONE_HOT)),
            floats("to_score", &[pixels, 1], &spread(1)),
            floats("to_embedding", &[pixels, 32], &spread(32)),
        ],
        &[value(
            "pixels",
            UINT8,
            &[Batch, Fixed(SIDE), Fixed(SIDE), Fixed(3)],
        )],
        &[
            value("trait_logits", FLOAT, &[Batch, Fixed(ONE_HOT)]),
            value("corruption", FLOAT, &[Batch, Fixed(1)]),
            value("embedding", FLOAT, &[Batch, Fixed(32)]),
        ],
    )
}

/// Writes a model folder whose manifest fits its files. The first variant is the default.
pub fn write_folder(folder: &Path, role: &str, variants: &[(&str, &[u8])]) {
    let mut manifest = format!(
        r#"
format = 2
name = "tiny"
version = "1"
role = "{role}"
licence = "Apache-2.0"
image_width = {SIDE}
image_height = {SIDE}
latent_length = {LATENT}
seed = 1
default_variant = "{}"

[[traits]]
name = "kind"
values = ["blade", "shield"]
weights = [1, 1]

[[traits]]
name = "material"
values = ["steel", "gold", "wood"]
weights = [1, 1, 1]
"#,
        variants[0].0
    );
    if role == "auditor" {
        let row = |value: &str| vec![value; 32].join(", ");
        manifest += "\n[auditor]\naccept_below_ppm = 200000\nreject_above_ppm = 800000\n";
        manifest += "near_duplicate_ppm = 200000\ndrift_window = 256\ndrift_alarm_ppm = 800000\n";
        let (mean, deviation) = (row("0"), row("1"));
        manifest += &format!("\n[reference]\nmean = [{mean}]\ndeviation = [{deviation}]\n");
    }
    for (index, (name, bytes)) in variants.iter().enumerate() {
        let (sha256, length) = (hex::encode(Sha256::digest(bytes)), bytes.len());
        manifest += &format!(
            r#"
[[variants]]
name = "{name}"
file = "{name}.onnx"
sha256 = "{sha256}"
bytes = {length}
exact = true
ladder = {}
precision = "float32"
cost_us = {}
quality = 0.{}
distance = {index}
backend_tolerance = 0
"#,
            role == "generator",
            100 - index,
            90 - index
        );
        std::fs::write(folder.join(format!("{name}.onnx")), bytes).unwrap();
    }
    std::fs::write(folder.join("manifest.toml"), manifest).unwrap();
}

/// A folder with one variant.
pub fn folder_with(role: &str, bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), role, &[("full", bytes)]);
    folder
}
