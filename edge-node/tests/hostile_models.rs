//! Model files that no exporter would write. Each is loaded and run by a process of its own, because what a backend does
//! with them may be to abort: it must end with an image or with an error, and never by a signal.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{
    FLOAT, Size, Tiny, external, floats, folder_with, generator_through, integers, node, node_with,
    tiny_auditor, tiny_generator,
};
use karat_edge_node::auditor::Auditor;
use karat_edge_node::generator::Generator;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a process says about a generator: nothing where it made its image.
fn told(bytes: &[u8]) -> Result<(), String> {
    let folder = folder_with("generator", bytes);
    let ended = Command::new(env!("CARGO_BIN_EXE_karat-edge"))
        .env("RUST_LOG", "off")
        .env("RUST_BACKTRACE", "0")
        .args(["pixels", "--count", "2", "--batch", "2", "--model"])
        .arg(folder.path())
        .arg("--out")
        .arg(folder.path().join("out"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    match ended.status.code() {
        Some(0) => Ok(()),
        Some(1) if text.lines().any(|line| line.starts_with("error: ")) => Err(text),
        _ => panic!("{}: {text}", ended.status),
    }
}

fn assert_refused(what: &str, bytes: &[u8], reason: &str) {
    match told(bytes) {
        Err(text) => assert!(text.contains(reason), "{what}: {text}"),
        Ok(()) => panic!("{what} was taken"),
    }
}

#[test]
fn a_generator_written_by_hand_is_taken_so_that_the_others_are_refused_for_their_fault() {
    told(&generator_through(
        &[node("Relu", &["sums"], "wide", None)],
        &[],
    ))
    .unwrap();
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_the_constant_that_holds_them() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let add = node("Add", &["sums", "shift"], "wide", None);
        let model = generator_through(&[add], &[floats("shift", &[1], &[value])]);
        let folder = folder_with("generator", &model);
        let error = Generator::load(folder.path(), None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"shift\"") && error.contains("no finite number"),
            "{error}"
        );
    }
    let auditor = tiny_auditor();
    // The first weight of the first matrix: -5 / 1024, as it lies in the file.
    let weight = (-5.0f32 / 1024.0).to_le_bytes();
    let at = auditor.windows(4).position(|four| four == weight).unwrap();
    let mut broken = auditor;
    broken[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = folder_with("auditor", &broken);
    let error = Auditor::load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("\"to_traits\" holds NaN") && error.contains("again"),
        "{error}"
    );
}

#[test]
fn constants_that_are_not_what_they_say_are_refused() {
    let add = || node("Add", &["sums", "shift"], "wide", None);
    let cases = [
        (
            "too few values",
            floats("shift", &[48], &[0.0; 47]),
            "47 values",
        ),
        (
            "too many values",
            floats("shift", &[1], &[0.0; 2]),
            "2 values",
        ),
        (
            "a huge shape",
            floats("shift", &[u64::MAX, 2], &[]),
            "makes no sense",
        ),
        (
            "nine dimensions",
            floats("shift", &[1; 9], &[0.0]),
            "9 dimensions",
        ),
        ("another file", external("shift", &[1]), "in another file"),
        (
            "wild whole numbers",
            integers("shift", &[1], &[1 << 40]),
            "makes sense",
        ),
    ];
    for (what, constant, reason) in cases {
        assert_refused(what, &generator_through(&[add()], &[constant]), reason);
    }
}

#[test]
fn graphs_with_loops_holes_and_foreign_operators_are_refused() {
    let relu = |from: &str, to: &str| node("Relu", &[from], to, None);
    assert_refused(
        "a loop",
        &generator_through(&[relu("wide", "a"), relu("a", "wide")], &[]),
        "not made before it",
    );
    assert_refused(
        "a name made twice",
        &generator_through(&[relu("sums", "wide"), relu("sums", "wide")], &[]),
        "is made twice",
    );
    for operator in [
        "Loop",
        "If",
        "Scan",
        "NonMaxSuppression",
        "com.example.Magic",
        "",
    ] {
        let model = generator_through(&[node(operator, &["sums"], "wide", None)], &[]);
        assert_refused(operator, &model, "is not one that both backends run");
    }
    let many: Vec<Vec<u8>> = (0..5_000)
        .map(|index| match index {
            0 => relu("sums", "r0"),
            4_999 => relu("r4998", "wide"),
            _ => relu(&format!("r{}", index - 1), &format!("r{index}")),
        })
        .collect();
    assert_refused(
        "5,000 nodes",
        &generator_through(&many, &[]),
        "the most is 4096",
    );
}

/// What makes no sense to an operator: some of it is refused before a backend sees it, the rest by the backend; on neither
/// way does the process die.
#[test]
fn attributes_and_shapes_that_make_no_sense_end_in_an_error_and_not_in_an_abort() {
    let to_image = integers("square", &[4], &[-1, 3, 4, 4]);
    let to_flat = integers("flat", &[2], &[-1, 48]);
    let through = |middle: Vec<u8>, constants: &[Vec<u8>]| {
        let nodes = [
            node("Reshape", &["sums", "square"], "picture", None),
            middle,
            node("Reshape", &["changed", "flat"], "wide", None),
        ];
        let mut all = vec![to_image.clone(), to_flat.clone()];
        all.extend_from_slice(constants);
        generator_through(&nodes, &all)
    };
    let kernel = floats("kernel", &[3, 3, 3, 3], &[0.0; 81]);
    let conv = |attributes: &[(&str, &[i64])]| {
        through(
            node_with("Conv", &["picture", "kernel"], "changed", attributes),
            std::slice::from_ref(&kernel),
        )
    };
    told(&conv(&[("pads", &[1, 1, 1, 1])])).unwrap();
    let plain = |operator: &str, attributes: &[(&str, &[i64])]| {
        through(
            node_with(operator, &["picture"], "changed", attributes),
            &[],
        )
    };
    let with = |operator: &str, constant: Vec<u8>| {
        through(
            node(operator, &["picture", "other"], "changed", None),
            &[constant],
        )
    };
    let cases = [
        ("no groups", conv(&[("group", &[0])])),
        (
            "two groups of three",
            conv(&[("group", &[2]), ("pads", &[1, 1, 1, 1])]),
        ),
        ("no stride", conv(&[("strides", &[0, 0])])),
        ("a stride of -1", conv(&[("strides", &[-1, -1])])),
        ("three strides", conv(&[("strides", &[1, 1, 1])])),
        ("pads of a billion", conv(&[("pads", &[1 << 30; 4])])),
        ("negative pads", conv(&[("pads", &[-3, -3, -3, -3])])),
        ("one pad", conv(&[("pads", &[1])])),
        ("a huge dilation", conv(&[("dilations", &[4096, 4096])])),
        ("another kernel", conv(&[("kernel_shape", &[5, 5])])),
        ("no kernel", conv(&[("kernel_shape", &[])])),
        ("blocks of 0", plain("DepthToSpace", &[("blocksize", &[0])])),
        (
            "blocks of 2 in 3 channels",
            plain("DepthToSpace", &[("blocksize", &[2])]),
        ),
        (
            "blocks of 5 in 4 pixels",
            plain("SpaceToDepth", &[("blocksize", &[5])]),
        ),
        ("no block size", plain("DepthToSpace", &[])),
        (
            "a large pool",
            plain("MaxPool", &[("kernel_shape", &[9, 9])]),
        ),
        ("a pool without a kernel", plain("AveragePool", &[])),
        (
            "an axis twice",
            plain("Transpose", &[("perm", &[0, 0, 0, 0])]),
        ),
        (
            "an axis too many",
            plain("Transpose", &[("perm", &[0, 1, 2, 3, 4])]),
        ),
        (
            "an axis outside",
            plain("Transpose", &[("perm", &[0, 1, 2, 9])]),
        ),
        ("a softmax nowhere", plain("Softmax", &[("axis", &[17])])),
        ("flat nowhere", plain("Flatten", &[("axis", &[-9])])),
        ("an unknown type", plain("Cast", &[("to", &[99])])),
        ("a text", plain("Cast", &[("to", &[8])])),
        ("no type", plain("Cast", &[])),
        (
            "a mean over nothing",
            plain("ReduceMean", &[("axes", &[7])]),
        ),
        ("other sizes", with("Add", floats("other", &[7], &[0.0; 7]))),
        ("other types", with("Add", integers("other", &[1], &[1]))),
        (
            "no product",
            with("MatMul", floats("other", &[9, 2], &[0.0; 18])),
        ),
        (
            "a scalar product",
            with("MatMul", floats("other", &[], &[0.0])),
        ),
        (
            "a shape that does not fit",
            with("Reshape", integers("other", &[2], &[-1, 7])),
        ),
        (
            "two open sizes",
            with("Reshape", integers("other", &[2], &[-1, -1])),
        ),
        (
            "a negative size",
            with("Reshape", integers("other", &[2], &[-1, -5])),
        ),
        (
            "a float for a shape",
            with("Reshape", floats("other", &[2], &[1.0, 48.0])),
        ),
        (
            "pads that are too few",
            with("Pad", integers("other", &[3], &[0, 0, 1])),
        ),
        (
            "pads that take more than all",
            with("Pad", integers("other", &[8], &[-9; 8])),
        ),
        (
            "many pads",
            with("Pad", integers("other", &[8], &[4_000_000; 8])),
        ),
        (
            "a squeeze of 4",
            with("Squeeze", integers("other", &[1], &[2])),
        ),
        (
            "a squeeze outside",
            with("Squeeze", integers("other", &[1], &[8])),
        ),
        (
            "a split slope",
            with("PRelu", floats("other", &[5], &[0.0; 5])),
        ),
        (
            "a size of its own",
            with("Resize", floats("other", &[4], &[1e9; 4])),
        ),
        (
            "no inputs",
            through(node("Concat", &[], "changed", None), &[]),
        ),
        (
            "one input of two",
            through(node("Gemm", &["picture"], "changed", None), &[]),
        ),
        (
            "a left out input",
            through(node("Conv", &["picture", ""], "changed", None), &[]),
        ),
        (
            "nothing to normalise with",
            through(
                node("BatchNormalization", &["picture"], "changed", None),
                &[],
            ),
        ),
        (
            "a slice from nothing",
            through(node("Slice", &["picture"], "changed", None), &[]),
        ),
        (
            "an axis too far",
            through(
                node_with(
                    "Concat",
                    &["picture", "picture"],
                    "changed",
                    &[("axis", &[9])],
                ),
                &[],
            ),
        ),
        (
            "a constant of nothing",
            through(node("Constant", &[], "changed", None), &[]),
        ),
        ("other numbers", with("Clip", integers("other", &[1], &[1]))),
        (
            "bounds of four values",
            with("Clip", floats("other", &[4], &[0.0; 4])),
        ),
        (
            "a power of a list",
            with("Pow", floats("other", &[3], &[0.5; 3])),
        ),
    ];
    let taken: Vec<&str> = cases
        .iter()
        .inspect(|(what, _)| println!("{what}"))
        .filter(|(_, model)| told(model).is_ok())
        .map(|(what, _)| *what)
        .collect();
    println!("taken: {taken:?}");
    // None of these is a generator of the interface; a backend may read one more kindly than its author meant it.
    assert!(taken.len() < 12, "{taken:?}");
}

#[test]
fn files_with_a_few_bytes_changed_never_end_a_process_by_a_signal() {
    let whole = tiny_generator(&Tiny::default());
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..120 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.next_u32() % 3 {
            let place = random.next_u32() as usize % bytes.len();
            bytes[place] = random.next_u32() as u8;
        }
        refused += usize::from(told(&bytes).is_err());
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn interfaces_of_other_types_and_shapes_are_refused() {
    let tiny = |change: fn(&mut Tiny)| {
        let mut tiny = Tiny::default();
        change(&mut tiny);
        tiny_generator(&tiny)
    };
    assert_refused(
        "a fixed batch",
        &tiny(|tiny| tiny.batch = Size::Fixed(1)),
        "must be open",
    );
    assert_refused(
        "a long latent",
        &tiny(|tiny| tiny.latent_length = 64),
        "must be Float32",
    );
    // Floats in place of bytes.
    let mut floats_out = tiny_generator(&Tiny::default());
    let cast_to = floats_out
        .windows(4)
        .rposition(|four| four == [b't', b'o', 0x18, 2])
        .unwrap();
    floats_out[cast_to + 3] = FLOAT as u8;
    assert_refused("floats for pixels", &floats_out, "");
}
