//! ONNX files: what must hold of them, and fixing their batch. Field numbers are those of `onnx.proto3`.

pub mod check;
mod protobuf;
pub mod shape;
mod tensor;
