//! The images that a run sends as an edge node.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::args::{LoadArgs, Mode};
use crate::error::LoadError;
use crate::lanes::EdgeSide;
use crate::scenario::{CONTENT, MintForm};

/// Images that an edge node sends, one after another.
const IMAGES: usize = 64;

/// Images that differ from the run's in bits which no eye and no auditor sees, so that each is content of its own.
pub(super) fn edge_side(args: &LoadArgs, form: &MintForm) -> Result<EdgeSide, LoadError> {
    if args.mode != Mode::Edge {
        return Ok(EdgeSide::default());
    }
    let failed = |cause: String| LoadError::Setup {
        step: "images for the edge node",
        cause,
    };
    let mut reader = png::Decoder::new(std::io::Cursor::new(CONTENT))
        .read_info()
        .map_err(|error| failed(error.to_string()))?;
    let (width, height) = (reader.info().width, reader.info().height);
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let mut pixels = vec![0; reader.output_buffer_size().unwrap_or_default()];
    reader
        .next_frame(&mut pixels)
        .map_err(|error| failed(error.to_string()))?;
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let mut images = Vec::with_capacity(IMAGES);
    for _ in 0..IMAGES {
        let mut changed = pixels.clone();
        for _ in 0..16 {
            let place = random.random_range(0..changed.len());
            changed[place] ^= 1;
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&changed))
            .map_err(|error| failed(error.to_string()))?;
        images.push(bytes.into());
    }
    Ok(EdgeSide {
        account: form.creator.clone(),
        model: form.model.clone(),
        images,
    })
}
