//! `karat`, the operator's binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    karat_engine::cli::main()
}
