//! Spoiling images on purpose, so that a demonstration has something to reject.
//!
//! Which images and how follows from the seed alone, so a repeat of a run spoils the same ones in the same way. Lineage
//! and traits stay what they were: a spoiled asset claims to be a good one.

use karat_proto::limits::PPM;

use crate::pixels::Pixels;

/// Spoils the image if the seed falls into the share of `share_ppm`, and says whether it did.
pub fn spoil(seed: &[u8; 32], share_ppm: u32, image: &mut Pixels) -> bool {
    let mut random = blake3::Hasher::new()
        .update(b"karat.edge.spoil")
        .update(seed)
        .finalize_xof();
    let mut draw = [0; 16];
    random.fill(&mut draw);
    let [a, b, c, d, kind, left, top, colour @ ..] = draw;
    // The remainder prefers small numbers by less than one in 4,000.
    if u32::from_be_bytes([a, b, c, d]) % PPM >= share_ppm {
        return false;
    }
    let (width, height) = (image.width as usize, image.height as usize);
    // A rectangle of half the sides, somewhere.
    let (wide, high) = (width.div_ceil(2), height.div_ceil(2));
    let left = usize::from(left) * (width - wide + 1) / 256;
    let top = usize::from(top) * (height - high + 1) / 256;
    let before = image.rgb.clone();
    match kind % 3 {
        0 => image
            .rgb
            .chunks_exact_mut(3)
            .for_each(|pixel| pixel.rotate_left(1)),
        1 => rows(image, left, top, wide, high, |row| {
            let [red, green, blue, ..] = colour;
            row.chunks_exact_mut(3)
                .for_each(|pixel| pixel.copy_from_slice(&[red, green, blue]));
        }),
        _ => rows(image, left, top, wide, high, |row| random.fill(row)),
    }
    if image.rgb == before {
        // A grey image has no channels to tell apart, a flat one may have the very colour.
        image.rgb.iter_mut().for_each(|value| *value = !*value);
    }
    true
}

fn rows(
    image: &mut Pixels,
    left: usize,
    top: usize,
    wide: usize,
    high: usize,
    mut change: impl FnMut(&mut [u8]),
) {
    let stride = image.width as usize * 3;
    for row in image.rgb.chunks_exact_mut(stride).skip(top).take(high) {
        change(&mut row[left * 3..(left + wide) * 3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(side: u32) -> Pixels {
        Pixels {
            width: side,
            height: side,
            rgb: vec![128; (side * side * 3) as usize],
        }
    }

    fn seed(number: u32) -> [u8; 32] {
        *blake3::hash(&number.to_be_bytes()).as_bytes()
    }

    #[test]
    fn about_the_asked_share_is_spoiled_and_always_the_same_ones() {
        let spoiled: Vec<u32> = (0..4_000)
            .filter(|number| spoil(&seed(*number), 250_000, &mut grey(8)))
            .collect();
        assert!((850..1_150).contains(&spoiled.len()), "{}", spoiled.len());
        let again = (0..4_000).filter(|number| spoil(&seed(*number), 250_000, &mut grey(8)));
        assert!(again.eq(spoiled));
    }

    #[test]
    fn none_and_all_mean_that_and_every_spoiled_image_differs_in_the_same_way_each_time() {
        for number in 0..500 {
            let mut image = grey(1 + number % 9);
            assert!(!spoil(&seed(number), 0, &mut image));
            assert_eq!(image, grey(1 + number % 9));
            assert!(spoil(&seed(number), PPM, &mut image));
            assert_ne!(image, grey(1 + number % 9));
            let mut again = grey(1 + number % 9);
            spoil(&seed(number), PPM, &mut again);
            assert_eq!(image, again);
        }
    }
}
