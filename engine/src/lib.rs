//! karat-engine
