//! The integrity agent: the content is the one that the command names, and a whole PNG of the models' size.

use karat_edge_node::pixels::{Pixels, PixelsError, PngLimits, check_png_header, decode_png};
use karat_proto::command::{AgentKind, Finding};
use karat_proto::limits::{CONTENT_BYTES_MAX, IMAGE_SIDE_MAX};
use karat_proto::lineage::lineage_hash;

use crate::Job;
use crate::findings::FindingCode;
use crate::oracle::Vocabulary;

const LIMITS: PngLimits = PngLimits {
    max_bytes: CONTENT_BYTES_MAX,
    max_width: IMAGE_SIDE_MAX,
    max_height: IMAGE_SIDE_MAX,
};

/// Checks the bytes against the command and decodes them. Without findings there are pixels.
pub(crate) fn inspect(job: &Job, bytes: &[u8], size: &Vocabulary) -> Result<Pixels, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut found = |code: FindingCode, measure: u32| {
        findings.push(code.by(AgentKind::Integrity, measure));
    };
    let length = narrow(bytes.len());
    if length != job.content.size {
        found(FindingCode::SizeMismatch, length);
    }
    let digest = karat_content::digest_of(bytes);
    if digest != job.content.digest {
        let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        found(FindingCode::DigestMismatch, first);
    }
    let lineage = &job.lineage;
    let hash = lineage_hash(
        &lineage.model,
        &lineage.variant,
        &lineage.seed,
        job.traits.as_slice(),
        job.parent_version,
    );
    if hash != lineage.hash {
        found(FindingCode::LineageHashMismatch, job.parent_version);
    }
    // The header first: an image of the wrong size is not worth inflating.
    let pixels = match check_png_header(bytes, LIMITS) {
        Ok(header) if (header.width, header.height) != (size.width, size.height) => {
            found(
                FindingCode::WrongDimensions,
                header.width << 16 | header.height,
            );
            None
        }
        Ok(_) => match decode_png(bytes, LIMITS) {
            Ok(pixels) => Some(pixels),
            Err(error) => {
                let (code, measure) = code_of(&error, length);
                found(code, measure);
                None
            }
        },
        Err(error) => {
            let (code, measure) = code_of(&error, length);
            found(code, measure);
            None
        }
    };
    match pixels {
        Some(pixels) if findings.is_empty() => Ok(pixels),
        _ => Err(findings),
    }
}

fn code_of(error: &PixelsError, length: u32) -> (FindingCode, u32) {
    match error {
        PixelsError::TooManyBytes { found_bytes, .. } => {
            (FindingCode::PngTooLarge, narrow(*found_bytes))
        }
        PixelsError::TooLarge { width, height, .. } => {
            (FindingCode::PngTooLarge, *width.max(height))
        }
        PixelsError::NotPng { .. } => (FindingCode::NotPng, length),
        PixelsError::Truncated { at, .. } => (FindingCode::PngTruncated, narrow(*at)),
        PixelsError::Format {
            colour_type,
            bit_depth,
            interlace,
        } => (
            FindingCode::PngFormat,
            u32::from(*colour_type) << 16 | u32::from(*bit_depth) << 8 | u32::from(*interlace),
        ),
        PixelsError::Chunk { at, .. } => (FindingCode::PngChunk, narrow(*at)),
        PixelsError::InflatesTooLarge { expected_bytes } => {
            (FindingCode::PngBomb, narrow(*expected_bytes))
        }
        _ => (FindingCode::PngDamaged, length),
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
