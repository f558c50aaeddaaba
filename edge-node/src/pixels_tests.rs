use png::{DeflateCompression, Filter};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

const LIMITS: PngLimits = PngLimits {
    max_bytes: 256 * 1024,
    max_width: 512,
    max_height: 512,
};

/// A shaded disc on a gradient: the kind of picture that is encoded here.
fn disc(side: u32) -> Vec<u8> {
    let mut rgb = Vec::new();
    for y in 0..side {
        for x in 0..side {
            let (dx, dy) = (x as i32 * 2 - side as i32, y as i32 * 2 - side as i32);
            let inside = dx * dx + dy * dy < (side * side) as i32 / 2;
            let shade = ((x * 3 + y * 5) % 256) as u8;
            rgb.extend(if inside {
                [200, shade, 40]
            } else {
                [20, 20 + shade / 8, 60]
            });
        }
    }
    rgb
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name);
    bytes.extend(body);
    let checksum = crc32(&bytes[4..]);
    bytes.extend(checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

fn header(width: u32, height: u32, rest: [u8; 5]) -> Vec<u8> {
    let mut body = width.to_be_bytes().to_vec();
    body.extend(height.to_be_bytes());
    body.extend(rest);
    chunk(b"IHDR", &body)
}

/// A PNG whose data was deflated from `filtered`, whatever the header says.
fn png_with_data(width: u32, height: u32, filtered: &[u8]) -> Vec<u8> {
    // Stored blocks: no compressor is needed to write them.
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = filtered.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend((block.len() as u16).to_le_bytes());
        zlib.extend((!(block.len() as u16)).to_le_bytes());
        zlib.extend(block);
    }
    let (a, b) = filtered.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    zlib.extend((b << 16 | a).to_be_bytes());
    [
        &SIGNATURE[..],
        &header(width, height, [8, 2, 0, 0, 0]),
        &chunk(b"IDAT", &zlib),
        &chunk(b"IEND", &[]),
    ]
    .concat()
}

#[test]
fn the_same_pixels_give_the_same_bytes_in_every_build() {
    let png = encode_png(64, 64, &disc(64)).unwrap();
    assert_eq!(png, encode_png(64, 64, &disc(64)).unwrap());
    // A change here changes the content id of every asset: nodes of both kinds must not run together.
    assert_eq!(
        hex::encode(Sha256::digest(&png)),
        "3904d6c9b08c57af79d12d56da0defa19fc15e4b10f938b2d146e40ec1abbc0b"
    );
}

#[test]
fn an_encoded_image_holds_nothing_but_header_data_and_end() {
    let png = encode_png(64, 64, &disc(64)).unwrap();
    let mut names = Vec::new();
    let mut at = 8;
    while at < png.len() {
        names.push(String::from_utf8(png[at + 4..at + 8].to_vec()).unwrap());
        at += 12 + read_u32(&png, at) as usize;
    }
    names.dedup();
    assert_eq!(names, ["IHDR", "IDAT", "IEND"]);
}

#[test]
fn images_written_with_every_filter_and_level_decode_to_their_pixels() {
    let rgb = disc(37);
    for filter in [
        Filter::NoFilter,
        Filter::Sub,
        Filter::Up,
        Filter::Avg,
        Filter::Paeth,
        Filter::Adaptive,
    ] {
        for compression in [
            DeflateCompression::Level(1),
            DeflateCompression::Level(9),
            DeflateCompression::NoCompression,
        ] {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 37, 37);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.set_filter(filter);
            encoder.set_deflate_compression(compression);
            encoder
                .add_text_chunk("Title".into(), "disc".into())
                .unwrap();
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&rgb).unwrap();
            writer.finish().unwrap();
            assert_eq!(
                decode_png(&bytes, LIMITS).unwrap().rgb,
                rgb,
                "{filter:?} {compression:?}"
            );
        }
    }
}

#[test]
fn what_is_not_a_png_is_said_to_be_none() {
    for bytes in [&b""[..], b"GIF89a", b"\x89PNX\x0d\x0a\x1a\x0a"] {
        assert!(matches!(
            decode_png(bytes, LIMITS),
            Err(PixelsError::NotPng { .. })
        ));
    }
}

#[test]
fn every_truncation_is_refused() {
    let png = encode_png(16, 16, &disc(16)).unwrap();
    for length in 0..png.len() {
        let error = decode_png(&png[..length], LIMITS).unwrap_err();
        let expected = if length == 0 {
            "not a PNG"
        } else {
            "ends at byte"
        };
        assert!(error.to_string().contains(expected), "{length}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let png = encode_png(16, 16, &disc(16)).unwrap();
    for bit in 0..png.len() * 8 {
        let mut damaged = png.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_png(&damaged, LIMITS).is_err(), "bit {bit}");
    }
}

#[test]
fn trailing_bytes_are_refused_and_counted() {
    let mut png = encode_png(16, 16, &disc(16)).unwrap();
    png.extend(b"extra");
    assert_eq!(
        decode_png(&png, LIMITS),
        Err(PixelsError::TrailingBytes { count: 5 })
    );
}

#[test]
fn a_huge_header_is_refused_at_the_door() {
    let png = [&SIGNATURE[..], &header(100_000, 100_000, [8, 2, 0, 0, 0])].concat();
    assert!(matches!(
        check_png_header(&png, LIMITS),
        Err(PixelsError::TooLarge { width: 100_000, .. })
    ));
    assert!(matches!(
        decode_png(&png, LIMITS),
        Err(PixelsError::TooLarge { .. })
    ));
    let zero = [&SIGNATURE[..], &header(0, 5, [8, 2, 0, 0, 0])].concat();
    assert!(matches!(
        check_png_header(&zero, LIMITS),
        Err(PixelsError::Header { .. })
    ));
}

#[test]
fn a_file_over_its_limit_is_refused_before_it_is_read() {
    let limits = PngLimits {
        max_bytes: 10,
        ..LIMITS
    };
    assert_eq!(
        check_png_header(&[0; 11], limits),
        Err(PixelsError::TooManyBytes {
            found_bytes: 11,
            max_bytes: 10
        })
    );
}

#[test]
fn data_that_inflates_to_another_size_is_refused() {
    let right = vec![0u8; 4 * 13];
    assert_eq!(
        decode_png(&png_with_data(4, 4, &right), LIMITS)
            .unwrap()
            .rgb,
        vec![0; 48]
    );
    let short = decode_png(&png_with_data(4, 4, &right[..51]), LIMITS);
    assert_eq!(
        short,
        Err(PixelsError::TooFewPixels {
            found_bytes: 51,
            expected_bytes: 52
        })
    );
    for more in [53, 60, 200, 100_000] {
        let long = decode_png(&png_with_data(4, 4, &vec![0u8; more]), LIMITS);
        assert_eq!(
            long,
            Err(PixelsError::InflatesTooLarge { expected_bytes: 52 }),
            "{more}"
        );
    }
}

#[test]
fn a_bomb_stays_within_the_size_of_its_image() {
    // 60 MB of zeros in about 60 kB, for an image of 4 x 4.
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 4_000, 5_000);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_deflate_compression(DeflateCompression::Level(9));
    encoder.set_filter(Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![0; 60_000_000]).unwrap();
    writer.finish().unwrap();
    let small_header = header(4, 4, [8, 2, 0, 0, 0]);
    bytes[8..8 + small_header.len()].copy_from_slice(&small_header);
    assert!(bytes.len() < LIMITS.max_bytes);
    assert_eq!(
        decode_png(&bytes, LIMITS),
        Err(PixelsError::InflatesTooLarge { expected_bytes: 52 })
    );
}

#[test]
fn chunks_that_could_change_what_is_shown_are_refused() {
    let png = encode_png(8, 8, &disc(8)).unwrap();
    let after_header = 8 + 25;
    for name in [b"acTL", b"PLTE", b"tRNS", b"iCCP", b"bKGD", b"IHDR"] {
        let with = [
            &png[..after_header],
            &chunk(name, &[0; 8]),
            &png[after_header..],
        ]
        .concat();
        assert!(
            matches!(decode_png(&with, LIMITS), Err(PixelsError::Chunk { .. })),
            "{name:?}"
        );
    }
    let with_text = [
        &png[..after_header],
        &chunk(b"tEXt", b"a\0b"),
        &png[after_header..],
    ]
    .concat();
    assert!(decode_png(&with_text, LIMITS).is_ok());
    let no_data = [&png[..after_header], &chunk(b"IEND", &[])].concat();
    assert!(matches!(
        decode_png(&no_data, LIMITS),
        Err(PixelsError::Chunk { .. })
    ));
}

#[test]
fn other_colour_types_are_refused_by_name() {
    for (rest, colour_type) in [
        ([8, 6, 0, 0, 0], 6),
        ([8, 3, 0, 0, 0], 3),
        ([16, 2, 0, 0, 0], 2),
        ([8, 2, 0, 0, 1], 2),
    ] {
        let png = [&SIGNATURE[..], &header(4, 4, rest)].concat();
        let error = check_png_header(&png, LIMITS).unwrap_err();
        assert!(
            matches!(error, PixelsError::Format { colour_type: found, .. } if found == colour_type)
        );
    }
}

#[test]
fn pixels_that_do_not_match_their_size_are_not_encoded() {
    assert!(matches!(
        encode_png(4, 4, &[0; 47]),
        Err(PixelsError::PixelBytes {
            expected_bytes: 48,
            ..
        })
    ));
    assert!(matches!(
        encode_png(0, 4, &[]),
        Err(PixelsError::PixelBytes { .. })
    ));
}

proptest! {
    #[test]
    fn any_pixels_survive_the_way_through_a_png(width in 1u32..20, height in 1u32..20, seed in any::<u64>()) {
        let mut state = seed;
        let rgb: Vec<u8> = (0..width * height * 3).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }).collect();
        let png = encode_png(width, height, &rgb).unwrap();
        prop_assert_eq!(decode_png(&png, LIMITS).unwrap(), Pixels { width, height, rgb });
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_png(&bytes, LIMITS);
        let _ = decode_png(&[&SIGNATURE[..], &header(4, 4, [8, 2, 0, 0, 0]), &chunk(b"IDAT", &bytes), &chunk(b"IEND", &[])].concat(), LIMITS);
    }
}
