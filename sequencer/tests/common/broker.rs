//! A real broker for tests, also of other crates: `deploy/kafka/start.sh` starts one, `KARAT_KAFKA` says where it is.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Where `deploy/kafka/start.sh` puts it.
const DEFAULT: &str = "127.0.0.1:19092";

pub fn address() -> String {
    std::env::var("KARAT_KAFKA").unwrap_or_else(|_| DEFAULT.to_owned())
}

/// Whether a broker answers. Without one the test says that it was skipped; one that was named and is not there is a
/// failure.
pub fn is_there() -> bool {
    let address = address();
    let found = address.to_socket_addrs().is_ok_and(|mut addresses| {
        addresses.any(|one| TcpStream::connect_timeout(&one, Duration::from_secs(5)).is_ok())
    });
    assert!(
        found || std::env::var_os("KARAT_KAFKA").is_none(),
        "KARAT_KAFKA names {address}, and nothing answers there"
    );
    if !found {
        println!("skipped: no Kafka at {address} (set KARAT_KAFKA)");
    }
    found
}
