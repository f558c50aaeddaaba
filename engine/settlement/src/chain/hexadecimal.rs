//! The two hexadecimal forms of JSON-RPC: quantities (no leading zeros) and data (whole bytes).

use ethers_core::types::U256;
use serde_json::Value;

/// `0x`-prefixed hexadecimal of whole bytes.
pub fn data(bytes: impl AsRef<[u8]>) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// `0x`-prefixed number without leading zeros.
pub fn quantity(number: u64) -> String {
    format!("{number:#x}")
}

/// Reads a quantity or reports what is wrong with it.
pub fn parse_quantity(value: &Value) -> Result<U256, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("not a hex string: {value}"))?;
    let digits = text
        .strip_prefix("0x")
        .filter(|digits| (1..=64).contains(&digits.len()))
        .ok_or_else(|| format!("not a hex quantity: {text:?}"))?;
    U256::from_str_radix(digits, 16).map_err(|_| format!("not a hex quantity: {text:?}"))
}

/// Reads a quantity that must fit 64 bits.
pub fn parse_u64(value: &Value) -> Result<u64, String> {
    let number = parse_quantity(value)?;
    u64::try_from(number).map_err(|_| format!("larger than 64 bits: {number:#x}"))
}

/// Reads data of any length.
pub fn parse_data(value: &Value) -> Result<Vec<u8>, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("not a hex string: {value}"))?;
    let digits = text
        .strip_prefix("0x")
        .ok_or_else(|| format!("hex data without 0x: {}", shortened(text)))?;
    hex::decode(digits).map_err(|error| format!("not hex data ({error}): {}", shortened(text)))
}

/// Reads data of exactly `N` bytes.
pub fn parse_bytes<const N: usize>(value: &Value) -> Result<[u8; N], String> {
    let bytes = parse_data(value)?;
    <[u8; N]>::try_from(bytes.as_slice())
        .map_err(|_| format!("{} bytes where {N} are expected", bytes.len()))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
