//! karat-loadgen
