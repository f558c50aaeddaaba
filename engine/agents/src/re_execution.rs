//! The re-execution agent: a sample of assets is generated again from lineage and compared.

use karat_edge_node::pixels::Pixels;
use karat_proto::command::{AgentKind, Content, Finding};
use karat_proto::limits::PPM;
use karat_proto::{AssetId, Digest};

use crate::findings::FindingCode;
use crate::oracle::{OracleError, Regenerated};

/// Whether this version of this asset is in the sample: the same on every engine, and spread evenly.
pub fn is_sampled(asset: AssetId, version: u32, sample_ppm: u32) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"karat.sample.v1");
    hasher.update(&asset.to_be_bytes());
    hasher.update(&version.to_be_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first) % u64::from(PPM) < u64::from(sample_ppm)
}

/// Compares what the lineage gives with what the asset is.
pub(crate) fn judge(
    made: Result<Regenerated, OracleError>,
    content: &Content,
    pixels: &Pixels,
) -> Finding {
    let (code, measure) = match made {
        Err(error) => {
            tracing::warn!(%error, "a lineage could not be run again");
            (FindingCode::GenerationFailed, 0)
        }
        Ok(Regenerated::ModelAbsent) => (FindingCode::NotReexecutable, 1),
        Ok(Regenerated::VariantUnknown) => (FindingCode::NotReexecutable, 2),
        Ok(Regenerated::TraitsUnmapped) => (FindingCode::NotReexecutable, 3),
        Ok(Regenerated::Image {
            exact,
            tolerance_milli,
            width,
            height,
            rgb,
            png,
        }) => {
            let same_size = (width, height) == (pixels.width, pixels.height);
            let same_pixels = same_size && rgb == pixels.rgb;
            let digest: Digest = karat_content::digest_of(&png);
            if digest == content.digest {
                (FindingCode::PixelsReproduced, 0)
            } else if same_pixels {
                let length = u32::try_from(png.len()).unwrap_or(u32::MAX);
                (FindingCode::OtherEncoding, length)
            } else if exact {
                let differing = if same_size {
                    pixels_differing(&rgb, &pixels.rgb)
                } else {
                    u32::MAX
                };
                (FindingCode::ExactMismatch, differing)
            } else {
                let difference = if same_size {
                    mean_difference_milli(&rgb, &pixels.rgb)
                } else {
                    u32::MAX
                };
                if difference <= tolerance_milli {
                    (FindingCode::WithinTolerance, difference)
                } else {
                    (FindingCode::BeyondTolerance, difference)
                }
            }
        }
    };
    code.by(AgentKind::ReExecution, measure)
}

fn pixels_differing(one: &[u8], other: &[u8]) -> u32 {
    let differing = one
        .chunks_exact(3)
        .zip(other.chunks_exact(3))
        .filter(|(one, other)| one != other)
        .count();
    u32::try_from(differing).unwrap_or(u32::MAX)
}

/// Mean absolute difference of a sample, thousandths of a step. Both have the same length and are not empty.
fn mean_difference_milli(one: &[u8], other: &[u8]) -> u32 {
    let sum: u64 = one
        .iter()
        .zip(other)
        .map(|(one, other)| u64::from(one.abs_diff(*other)))
        .sum();
    // At most 255 * 1000, and the sum of 3 MiB of samples stays far below 64 bits.
    u32::try_from(sum * 1_000 / (one.len().max(1) as u64)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_even_and_grows_with_the_share() {
        let sampled = |ppm| {
            (0..20_000u64)
                .filter(|asset| is_sampled(*asset, 1, ppm))
                .count()
        };
        assert_eq!((sampled(0), sampled(1_000_000)), (0, 20_000));
        // 2 % of 20,000 are 400; six standard deviations are 119.
        assert!(sampled(20_000).abs_diff(400) < 119);
        let both = (0..20_000u64)
            .filter(|asset| is_sampled(*asset, 1, 20_000) && !is_sampled(*asset, 1, 500_000))
            .count();
        assert_eq!(both, 0);
    }

    fn made(exact: bool, rgb: Vec<u8>, png: &[u8]) -> Result<Regenerated, OracleError> {
        Ok(Regenerated::Image {
            exact,
            tolerance_milli: 2_000,
            width: 2,
            height: 1,
            rgb,
            png: png.to_vec(),
        })
    }

    #[test]
    fn each_comparison_has_its_finding() {
        let pixels = Pixels {
            width: 2,
            height: 1,
            rgb: vec![10; 6],
        };
        let content = Content {
            digest: karat_content::digest_of(b"file"),
            size: 4,
        };
        let mut near = vec![10; 6];
        near[0] = 16;
        let larger = Ok(Regenerated::Image {
            exact: true,
            tolerance_milli: 0,
            width: 3,
            height: 1,
            rgb: vec![10; 9],
            png: vec![],
        });
        let cases = [
            (
                made(true, vec![10; 6], b"file"),
                FindingCode::PixelsReproduced,
                0,
            ),
            (
                made(true, vec![10; 6], b"other"),
                FindingCode::OtherEncoding,
                5,
            ),
            (
                made(true, near.clone(), b"other"),
                FindingCode::ExactMismatch,
                1,
            ),
            (larger, FindingCode::ExactMismatch, u32::MAX),
            // One sample of six is off by 6 steps.
            (
                made(false, near, b"other"),
                FindingCode::WithinTolerance,
                1_000,
            ),
            (
                made(false, vec![13; 6], b"other"),
                FindingCode::BeyondTolerance,
                3_000,
            ),
            (
                Ok(Regenerated::ModelAbsent),
                FindingCode::NotReexecutable,
                1,
            ),
            (
                Err(OracleError("no".into())),
                FindingCode::GenerationFailed,
                0,
            ),
        ];
        for (made, code, measure) in cases {
            let finding = judge(made, &content, &pixels);
            assert_eq!((finding.code, finding.measure), (code as u16, measure));
        }
    }
}
