//! The backend is chosen once, openly, and never silently another one. One test, because it is one process.

use karat_edge_node::runtime::{BackendKind, RuntimeConfig, RuntimeError, backend, init_backend};

#[test]
fn the_backend_is_chosen_once_and_a_library_that_cannot_be_loaded_is_an_error() {
    let missing = RuntimeConfig {
        library: Some("/nowhere/libonnxruntime.so".into()),
    };
    let error = init_backend(&missing).unwrap_err();
    assert!(
        matches!(error, RuntimeError::Library { .. }) && error.to_string().contains("/nowhere"),
        "{error}"
    );

    let built_in = init_backend(&RuntimeConfig::default()).unwrap();
    assert_eq!(built_in.kind(), &BackendKind::Tract);
    assert_eq!(
        init_backend(&RuntimeConfig::default()).unwrap().kind(),
        &BackendKind::Tract
    );
    assert_eq!(backend().unwrap().name(), "tract");

    let error = init_backend(&missing).unwrap_err();
    assert!(
        matches!(error, RuntimeError::AlreadyChosen { .. }),
        "{error}"
    );
}
