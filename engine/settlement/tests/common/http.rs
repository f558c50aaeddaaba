//! Plain JSON-RPC over HTTP to a node on this machine, for running the conformance suite against one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use async_trait::async_trait;
use karat_settlement::{RpcError, RpcTransport};
use serde_json::{Value, json};

/// A node at `host:port`. A connection a request; good enough for a test, nothing more.
pub struct HttpNode(pub String);

#[async_trait]
impl RpcTransport for HttpNode {
    async fn request(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let unreachable = |error: std::io::Error| RpcError::Unreachable {
            method: method.to_owned(),
            reason: error.to_string(),
        };
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let mut stream = TcpStream::connect(&self.0).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(unreachable)?;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.0,
            body.len()
        );
        stream.write_all(head.as_bytes()).map_err(unreachable)?;
        stream.write_all(body.as_bytes()).map_err(unreachable)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(unreachable)?;
        let bad = |reason: &str| RpcError::BadAnswer {
            method: method.to_owned(),
            reason: reason.to_owned(),
        };
        // Whatever the transfer encoding, the body is the text from the first to the last brace.
        let (_, text) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| bad("no body"))?;
        let (start, end) = (text.find('{'), text.rfind('}'));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(bad("no JSON"));
        };
        let text = if answer.to_lowercase().contains("transfer-encoding: chunked") {
            unchunked(text)
        } else {
            text[start..=end].to_owned()
        };
        let mut answer: Value =
            serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
        if answer["error"].is_object() {
            let error = &mut answer["error"];
            return Err(RpcError::Node {
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
                data: Some(error["data"].take()).filter(|data| !data.is_null()),
            });
        }
        Ok(answer["result"].take())
    }
}

fn unchunked(text: &str) -> String {
    let mut rest = text;
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || after.len() < size {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}
