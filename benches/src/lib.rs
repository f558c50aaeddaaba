//! karat-benches
