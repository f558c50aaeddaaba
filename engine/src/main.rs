//! karat
fn main() {}
