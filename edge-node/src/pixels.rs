//! PNG in and out, strict on the way in and reproducible on the way out.
//!
//! An asset is 8-bit RGB without interlace, and nothing but its pixels may decide what a viewer shows: animation,
//! palettes, transparency and colour profiles are refused, so that the picture that was audited is the picture that
//! is seen. All sizes are checked against the limits before memory of that size is taken.

use png::{DecodeOptions, DecodingError, StreamingDecoder, UnfilterRegion};
use thiserror::Error;

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a];
/// Signature, length, name and body of IHDR, without its checksum.
const HEADER_BYTES: usize = 8 + 8 + 13;
const CHANNELS: usize = 3;

/// Chunks that say nothing about how pixels look, or only restate the default. They are skipped.
const HARMLESS_CHUNKS: [&[u8; 4]; 7] = [
    b"sRGB", b"gAMA", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME",
];

/// What a PNG may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PngLimits {
    /// Length of the file in bytes.
    pub max_bytes: usize,
    /// Width in pixels.
    pub max_width: u32,
    /// Height in pixels.
    pub max_height: u32,
}

impl Default for PngLimits {
    /// 256 KiB and 512 x 512 pixels.
    fn default() -> Self {
        Self {
            max_bytes: 256 * 1024,
            max_width: 512,
            max_height: 512,
        }
    }
}

/// Size of an image as its header states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PngHeader {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// A decoded image: rows from the top, three bytes a pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

/// Why bytes are not an acceptable PNG, or pixels could not be encoded.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PixelsError {
    /// The file is over its limit.
    #[error("PNG of {found_bytes} bytes; the most is {max_bytes}")]
    TooManyBytes {
        /// Length found.
        found_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Something else than PNG.
    #[error("not a PNG: the first bytes are {first:02x?}")]
    NotPng {
        /// Up to eight bytes from the start.
        first: Vec<u8>,
    },
    /// The file ends early.
    #[error("PNG ends at byte {at}, within {what}")]
    Truncated {
        /// Length found.
        at: usize,
        /// What was being read.
        what: &'static str,
    },
    /// Bytes after the end of the image.
    #[error("{count} bytes after the end of the PNG")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The image is larger than allowed.
    #[error("PNG of {width} x {height} pixels; the most is {max_width} x {max_height}")]
    TooLarge {
        /// Width found.
        width: u32,
        /// Height found.
        height: u32,
        /// Widest allowed.
        max_width: u32,
        /// Highest allowed.
        max_height: u32,
    },
    /// The header is no header.
    #[error("PNG header: {reason}")]
    Header {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not 8-bit RGB without interlace.
    #[error(
        "PNG with colour type {colour_type}, bit depth {bit_depth}, interlace {interlace}; assets are 8-bit RGB (2, 8, 0)"
    )]
    Format {
        /// PNG colour type.
        colour_type: u8,
        /// Bits a sample.
        bit_depth: u8,
        /// PNG interlace method.
        interlace: u8,
    },
    /// A chunk that could change what a viewer shows, or is out of place.
    #[error("PNG chunk {name:?} at byte {at}: {reason}")]
    Chunk {
        /// Name of the chunk.
        name: String,
        /// Where it starts.
        at: usize,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The compressed data holds more than the image.
    #[error("PNG data inflates to more than the {expected_bytes} bytes of its image")]
    InflatesTooLarge {
        /// Bytes that the header asks for.
        expected_bytes: usize,
    },
    /// The compressed data holds less than the image.
    #[error("PNG data inflates to {found_bytes} bytes; its image needs {expected_bytes}")]
    TooFewPixels {
        /// Bytes found.
        found_bytes: usize,
        /// Bytes that the header asks for.
        expected_bytes: usize,
    },
    /// A checksum or the compressed data is damaged.
    #[error("PNG is damaged: {reason}")]
    Damaged {
        /// What the decoder says.
        reason: String,
    },
    /// Pixels to encode do not match their size.
    #[error("{found_bytes} bytes of pixels for {width} x {height}; expected {expected_bytes}")]
    PixelBytes {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes found.
        found_bytes: usize,
        /// Bytes expected.
        expected_bytes: u64,
    },
    /// The encoder failed.
    #[error("PNG could not be encoded: {reason}")]
    Encode {
        /// What the encoder says.
        reason: String,
    },
}

/// Cheap check at the door: length, signature, size and format, from the first 29 bytes. [`decode_png`] does the rest.
pub fn check_png_header(bytes: &[u8], limits: PngLimits) -> Result<PngHeader, PixelsError> {
    if bytes.len() > limits.max_bytes {
        return Err(PixelsError::TooManyBytes {
            found_bytes: bytes.len(),
            max_bytes: limits.max_bytes,
        });
    }
    let start = &bytes[..bytes.len().min(SIGNATURE.len())];
    if start.is_empty() || !SIGNATURE.starts_with(start) {
        return Err(PixelsError::NotPng {
            first: start.to_vec(),
        });
    }
    let Some(header) = bytes.get(SIGNATURE.len()..HEADER_BYTES) else {
        return Err(PixelsError::Truncated {
            at: bytes.len(),
            what: "the header",
        });
    };
    if read_u32(header, 0) != 13 || header[4..8] != *b"IHDR" {
        return Err(PixelsError::Header {
            reason: "the first chunk is not IHDR with 13 bytes",
        });
    }
    let (width, height) = (read_u32(header, 8), read_u32(header, 12));
    let [bit_depth, colour_type, compression, filter, interlace] =
        [16, 17, 18, 19, 20].map(|at| header[at]);
    if width == 0 || height == 0 {
        return Err(PixelsError::Header {
            reason: "width and height must not be 0",
        });
    }
    if width > limits.max_width || height > limits.max_height {
        let PngLimits {
            max_width,
            max_height,
            ..
        } = limits;
        return Err(PixelsError::TooLarge {
            width,
            height,
            max_width,
            max_height,
        });
    }
    if compression != 0 || filter != 0 {
        return Err(PixelsError::Header {
            reason: "unknown compression or filter method",
        });
    }
    if (colour_type, bit_depth, interlace) != (2, 8, 0) {
        return Err(PixelsError::Format {
            colour_type,
            bit_depth,
            interlace,
        });
    }
    Ok(PngHeader { width, height })
}

/// Decodes a whole PNG: every checksum is checked, every byte is accounted for, and the data must inflate to exactly
/// the image that the header states.
pub fn decode_png(bytes: &[u8], limits: PngLimits) -> Result<Pixels, PixelsError> {
    let PngHeader { width, height } = check_png_header(bytes, limits)?;
    check_chunks(bytes)?;
    let row_bytes = width as usize * CHANNELS;
    let filtered = inflate(bytes, (row_bytes + 1) * height as usize)?;
    let rgb = unfilter(&filtered, row_bytes)?;
    Ok(Pixels { width, height, rgb })
}

/// Encodes 8-bit RGB. The same pixels give the same bytes: fixed filter and compression, and no other chunks.
///
/// The bytes depend on the compressor in use; a test pins them, so that an upgrade that would change the content ids
/// of assets cannot pass unseen.
pub fn encode_png(width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>, PixelsError> {
    let expected_bytes = u64::from(width) * u64::from(height) * CHANNELS as u64;
    if rgb.len() as u64 != expected_bytes || expected_bytes == 0 {
        return Err(PixelsError::PixelBytes {
            width,
            height,
            found_bytes: rgb.len(),
            expected_bytes,
        });
    }
    let failed = |error: png::EncodingError| PixelsError::Encode {
        reason: error.to_string(),
    };
    let mut bytes = Vec::with_capacity(rgb.len() / 2 + 128);
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Measured on 64 x 64 relics: 24 us and 8.3 kB; level 6 of the usual compressor needs 350 us for the same size.
    encoder.set_deflate_compression(png::DeflateCompression::FdeflateUltraFast);
    encoder.set_filter(png::Filter::Paeth);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Walks the chunks by their lengths, without looking into them.
fn check_chunks(bytes: &[u8]) -> Result<(), PixelsError> {
    let mut at = SIGNATURE.len();
    let (mut data_seen, mut data_over) = (false, false);
    loop {
        let rest = &bytes[at..];
        if rest.len() < 12 {
            return Err(PixelsError::Truncated {
                at: bytes.len(),
                what: "a chunk",
            });
        }
        let name: [u8; 4] = [rest[4], rest[5], rest[6], rest[7]];
        let length = read_u32(rest, 0) as usize;
        if rest.len() - 12 < length {
            return Err(PixelsError::Truncated {
                at: bytes.len(),
                what: "a chunk",
            });
        }
        let refuse = |reason| {
            Err(PixelsError::Chunk {
                name: name.escape_ascii().to_string(),
                at,
                reason,
            })
        };
        match &name {
            b"IHDR" if at != SIGNATURE.len() => return refuse("a second header"),
            b"IHDR" => {}
            b"IDAT" if data_over => return refuse("image data in two places"),
            b"IDAT" => data_seen = true,
            b"IEND" if !data_seen => return refuse("no image data before the end"),
            b"IEND" if length != 0 => return refuse("the end must be empty"),
            b"IEND" => {
                let count = rest.len() - 12;
                return if count == 0 {
                    Ok(())
                } else {
                    Err(PixelsError::TrailingBytes { count })
                };
            }
            name if HARMLESS_CHUNKS.contains(&name) => data_over = data_seen,
            _ => return refuse("not allowed in an asset; only pixels may decide what is shown"),
        }
        at += 12 + length;
    }
}

/// Inflates the image data into a buffer of its expected size and a little more, never larger.
fn inflate(bytes: &[u8], expected_bytes: usize) -> Result<Vec<u8>, PixelsError> {
    // The compressor may look ahead by a few bytes; one byte over the expected size is already too many.
    const SLACK_BYTES: usize = 64;
    let mut options = DecodeOptions::default();
    options.set_ignore_checksums(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    options.set_skip_ancillary_crc_failures(false);
    let mut decoder = StreamingDecoder::new_with_options(options);
    let mut buffer = vec![0; expected_bytes + SLACK_BYTES];
    let mut region = UnfilterRegion::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let filled_before = region.filled;
        let (used, _) = decoder
            .update(rest, Some(&mut region.as_buf(&mut buffer)))
            .map_err(damaged)?;
        rest = &rest[used..];
        if region.filled > expected_bytes {
            return Err(PixelsError::InflatesTooLarge { expected_bytes });
        }
        if used == 0 && region.filled == filled_before {
            return Err(PixelsError::Damaged {
                reason: "the image data does not end".to_owned(),
            });
        }
    }
    if region.filled < expected_bytes {
        return Err(PixelsError::TooFewPixels {
            found_bytes: region.filled,
            expected_bytes,
        });
    }
    buffer.truncate(expected_bytes);
    Ok(buffer)
}

fn damaged(error: DecodingError) -> PixelsError {
    PixelsError::Damaged {
        reason: error.to_string(),
    }
}

/// Undoes the row filters of PNG (section 9 of the specification), three bytes a pixel.
fn unfilter(filtered: &[u8], row_bytes: usize) -> Result<Vec<u8>, PixelsError> {
    let mut rgb: Vec<u8> = Vec::with_capacity(filtered.len());
    let mut above = vec![0u8; row_bytes];
    let mut row = vec![0u8; row_bytes];
    for line in filtered.chunks_exact(row_bytes + 1) {
        row.copy_from_slice(&line[1..]);
        match line[0] {
            0 => {}
            1 => {
                (CHANNELS..row_bytes).for_each(|i| row[i] = row[i].wrapping_add(row[i - CHANNELS]))
            }
            2 => row
                .iter_mut()
                .zip(&above)
                .for_each(|(byte, up)| *byte = byte.wrapping_add(*up)),
            3 => {
                for i in 0..row_bytes {
                    let left = if i < CHANNELS { 0 } else { row[i - CHANNELS] };
                    let mean = (u16::from(left) + u16::from(above[i])) / 2;
                    row[i] = row[i].wrapping_add(mean as u8);
                }
            }
            4 => {
                for i in 0..row_bytes {
                    let (left, corner) = if i < CHANNELS {
                        (0, 0)
                    } else {
                        (row[i - CHANNELS], above[i - CHANNELS])
                    };
                    row[i] = row[i].wrapping_add(paeth(left, above[i], corner));
                }
            }
            other => {
                return Err(PixelsError::Damaged {
                    reason: format!("unknown row filter {other}"),
                });
            }
        }
        rgb.extend_from_slice(&row);
        std::mem::swap(&mut above, &mut row);
    }
    Ok(rgb)
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let estimate = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (estimate - i16::from(value)).abs();
    if distance(left) <= distance(up) && distance(left) <= distance(corner) {
        left
    } else if distance(up) <= distance(corner) {
        up
    } else {
        corner
    }
}

#[cfg(test)]
#[path = "pixels_tests.rs"]
mod tests;
