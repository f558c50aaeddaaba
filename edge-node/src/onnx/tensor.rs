//! Constants of an ONNX file: their shape, and the numbers in them.

use super::check::{OnnxError, refuse};
use super::protobuf::{Damaged, Reader, Value};

/// Most dimensions of a constant.
const DIMENSIONS_MOST: usize = 8;
/// Longest whole-number constant: shapes and axes have a handful of values.
const WHOLE_LENGTH_MOST: usize = 4_096;

const TENSOR_DIMENSIONS: u64 = 1;
const TENSOR_TYPE: u64 = 2;
const TENSOR_SEGMENT: u64 = 3;
const TENSOR_FLOATS: u64 = 4;
const TENSOR_INTEGERS_32: u64 = 5;
const TENSOR_INTEGERS_64: u64 = 7;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW: u64 = 9;
const TENSOR_DOUBLES: u64 = 10;
const TENSOR_EXTERNAL: u64 = 13;
const TENSOR_LOCATION: u64 = 14;

/// How a constant keeps its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Float32,
    Float64,
    Float16,
    /// Signed, of so many bytes.
    Signed(usize),
    /// Unsigned or truth values.
    Bytes,
}

impl Element {
    fn of(number: i64) -> Option<Element> {
        Some(match number {
            1 => Element::Float32,
            2 | 9 => Element::Bytes,
            3 => Element::Signed(1),
            6 => Element::Signed(4),
            7 => Element::Signed(8),
            10 => Element::Float16,
            11 => Element::Float64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Element::Float32 => 4,
            Element::Float64 => 8,
            Element::Float16 => 2,
            Element::Signed(size) => size,
            Element::Bytes => 1,
        }
    }
}

/// A constant.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub name: String,
    element: Element,
    /// Values as they lie in memory.
    raw: &'a [u8],
    /// Values in fields of their type, where the file has them so: 32-bit patterns, 64-bit patterns, whole numbers.
    bits32: Vec<u32>,
    bits64: Vec<u64>,
    whole: Vec<i64>,
}

/// Reads a constant; its values must be as many as its shape says.
pub(super) fn read_tensor<'a>(message: &'a [u8], holder: &str) -> Result<Tensor<'a>, OnnxError> {
    let (mut dimensions, mut element_number) = (Vec::new(), 0);
    let mut tensor = Tensor {
        name: String::new(),
        element: Element::Bytes,
        raw: &[],
        bits32: Vec::new(),
        bits64: Vec::new(),
        whole: Vec::new(),
    };
    let mut reader = Reader { bytes: message };
    while let Some(field) = reader.next()? {
        match field.number {
            TENSOR_DIMENSIONS => field.numbers(&mut dimensions)?,
            TENSOR_TYPE => element_number = field.number()?,
            TENSOR_NAME => tensor.name = String::from_utf8_lossy(field.bytes()?).into_owned(),
            TENSOR_RAW => tensor.raw = field.bytes()?,
            TENSOR_INTEGERS_32 | TENSOR_INTEGERS_64 => field.numbers(&mut tensor.whole)?,
            TENSOR_FLOATS => match field.value {
                Value::Bits32(bits) => tensor.bits32.push(bits),
                Value::Bytes(bytes) => tensor.bits32.extend(patterns(bytes, u32::from_le_bytes)?),
                _ => return Err(Damaged("something else in place of a float").into()),
            },
            TENSOR_DOUBLES => match field.value {
                Value::Bits64(bits) => tensor.bits64.push(bits),
                Value::Bytes(bytes) => tensor.bits64.extend(patterns(bytes, u64::from_le_bytes)?),
                _ => return Err(Damaged("something else in place of a float").into()),
            },
            TENSOR_SEGMENT | TENSOR_EXTERNAL => {
                let reason = "its values are in another file, which no manifest covers; export the model as one file";
                return refuse(format!("constant {:?} of {holder}", tensor.name), reason);
            }
            TENSOR_LOCATION if field.number()? != 0 => {
                let reason = "its values are in another file, which no manifest covers; export the model as one file";
                return refuse(format!("constant {:?} of {holder}", tensor.name), reason);
            }
            _ => {}
        }
    }
    let what = format!("constant {:?} of {holder}", tensor.name);
    let Some(element) = Element::of(element_number) else {
        return refuse(
            what,
            format!("has element type {element_number}, which is not used here"),
        );
    };
    tensor.element = element;
    let expected = expected_count(&dimensions, &what)?;
    let found = tensor.count();
    if found != Some(expected) {
        let found = found.map_or("a broken number of".to_owned(), |found| found.to_string());
        return refuse(
            what,
            format!("has {found} values; its shape needs {expected}"),
        );
    }
    if matches!(element, Element::Signed(_)) && expected > WHOLE_LENGTH_MOST {
        let reason = format!("{expected} whole numbers; the most is {WHOLE_LENGTH_MOST}");
        return refuse(what, reason);
    }
    Ok(tensor)
}

fn expected_count(dimensions: &[i64], what: &str) -> Result<usize, OnnxError> {
    if dimensions.len() > DIMENSIONS_MOST {
        let found = dimensions.len();
        return refuse(
            what,
            format!("{found} dimensions; the most is {DIMENSIONS_MOST}"),
        );
    }
    let product = dimensions.iter().try_fold(1usize, |product, size| {
        product.checked_mul(usize::try_from(*size).ok()?)
    });
    match product {
        Some(count) => Ok(count),
        None => refuse(what, format!("a shape of {dimensions:?} makes no sense")),
    }
}

fn patterns<const N: usize, T>(
    bytes: &[u8],
    read: fn([u8; N]) -> T,
) -> Result<impl Iterator<Item = T>, Damaged> {
    let (each, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() {
        Ok(each.iter().map(move |bytes| read(*bytes)))
    } else {
        Err(Damaged("a list of numbers cut short"))
    }
}

impl Tensor<'_> {
    /// How many values there are; nothing where they are kept in two ways, or the last one is cut.
    fn count(&self) -> Option<usize> {
        let size = self.element.size();
        let in_fields = match self.element {
            Element::Float32 => self.bits32.len(),
            Element::Float64 => self.bits64.len(),
            Element::Float16 | Element::Signed(_) | Element::Bytes => self.whole.len(),
        };
        let others = self.bits32.len() + self.bits64.len() + self.whole.len() - in_fields;
        match (self.raw.len(), in_fields) {
            _ if others > 0 => None,
            (0, count) => Some(count),
            (bytes, 0) if bytes % size == 0 => Some(bytes / size),
            _ => None,
        }
    }

    /// The first value that is not finite, as text.
    pub fn not_finite(&self) -> Option<String> {
        let fault = match self.element {
            Element::Float32 => self
                .floats()
                .into_iter()
                .find(|value| !value.is_finite())
                .map(f64::from),
            Element::Float64 => {
                let raw = self.raw.as_chunks::<8>().0.iter();
                let raw = raw.map(|bytes| f64::from_le_bytes(*bytes));
                let fields = self.bits64.iter().map(|bits| f64::from_bits(*bits));
                raw.chain(fields).find(|value| !value.is_finite())
            }
            Element::Float16 => {
                // The exponent of infinities and of what is no number is all ones.
                let is_wild = |bits: u16| bits & 0x7c00 == 0x7c00;
                let raw = self.raw.as_chunks::<2>().0.iter();
                let raw = raw.map(|bytes| u16::from_le_bytes(*bytes));
                let fields = self.whole.iter().map(|bits| *bits as u16);
                raw.chain(fields)
                    .find(|bits| is_wild(*bits))
                    .map(|_| f64::NAN)
            }
            Element::Signed(_) | Element::Bytes => None,
        };
        fault.map(|value| value.to_string())
    }

    /// Values of a 32-bit float constant.
    pub fn floats(&self) -> Vec<f32> {
        if self.element != Element::Float32 {
            return Vec::new();
        }
        let raw = self.raw.as_chunks::<4>().0.iter();
        let raw = raw.map(|bytes| f32::from_le_bytes(*bytes));
        raw.chain(self.bits32.iter().map(|bits| f32::from_bits(*bits)))
            .collect()
    }

    /// Values of a signed whole-number constant of 4 or 8 bytes.
    pub fn whole_numbers(&self) -> Vec<i64> {
        match self.element {
            Element::Signed(8) => {
                let raw = self.raw.as_chunks::<8>().0.iter();
                let raw = raw.map(|bytes| i64::from_le_bytes(*bytes));
                raw.chain(self.whole.iter().copied()).collect()
            }
            Element::Signed(4) => {
                let raw = self.raw.as_chunks::<4>().0.iter();
                let raw = raw.map(|bytes| i64::from(i32::from_le_bytes(*bytes)));
                raw.chain(self.whole.iter().copied()).collect()
            }
            _ => Vec::new(),
        }
    }
}
