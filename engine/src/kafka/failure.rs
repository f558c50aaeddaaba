//! What a producer that publishes in order remembers of its deliveries.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::producer::{DeliveryResult, ProducerContext};

/// The first message that was not delivered, and why.
#[derive(Default)]
pub(super) struct Failure(Mutex<Option<String>>);

impl Failure {
    /// Why, if a message was not delivered since this was asked last.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

impl ClientContext for Failure {}

impl ProducerContext for Failure {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().get_or_insert_with(|| error.to_string());
        }
    }
}
