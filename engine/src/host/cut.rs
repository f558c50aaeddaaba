//! Requests and answers of a realm that end with it: a realm that moves leaves no stream behind.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::watch as signal;
use tonic::Status;
use tonic::codegen::http;

type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that ends with its realm.
pub struct Cut {
    body: Option<tonic::body::Body>,
    cut: signal::Receiver<bool>,
    ended: Ended,
    /// As what it ends: an answer with a status behind it, a request with an error.
    end: fn() -> Result<Frame<Bytes>, Status>,
}

/// What a stream of a realm that moved ends with.
fn moved() -> Status {
    Status::unavailable(
        "the realm is leaving this process: ask again who has it, and send again what was not answered",
    )
}

fn answer_end() -> Result<Frame<Bytes>, Status> {
    let mut trailers = http::HeaderMap::new();
    moved().add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

impl Cut {
    fn wrap(
        body: tonic::body::Body,
        cut: signal::Receiver<bool>,
        end: fn() -> Result<Frame<Bytes>, Status>,
    ) -> tonic::body::Body {
        let mut waits = cut.clone();
        let ended: Ended = Box::pin(async move {
            // The sender goes with the realm.
            let _ = waits.wait_for(|cut| *cut).await;
        });
        tonic::body::Body::new(Cut {
            body: Some(body),
            cut,
            ended,
            end,
        })
    }

    /// A request's body.
    pub fn request(body: tonic::body::Body, cut: signal::Receiver<bool>) -> tonic::body::Body {
        Cut::wrap(body, cut, || Err(moved()))
    }

    /// An answer's body.
    pub fn answer(body: tonic::body::Body, cut: signal::Receiver<bool>) -> tonic::body::Body {
        Cut::wrap(body, cut, answer_end)
    }
}

impl Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let next = Pin::new(body).poll_frame(context);
        // A stream that always has something to say ends as well.
        let waits = next.is_pending();
        let over = *self.cut.borrow() || (waits && self.ended.as_mut().poll(context).is_ready());
        if over {
            // Everything that the realm has open here goes with it.
            self.body = None;
            return Poll::Ready(Some((self.end)()));
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A body that gives what is sent.
    struct Sent(tokio::sync::mpsc::Receiver<Bytes>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0
                .poll_recv(context)
                .map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    async fn next(body: &mut tonic::body::Body) -> Option<Result<Frame<Bytes>, Status>> {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    #[tokio::test]
    async fn an_open_stream_ends_with_its_realm_and_lets_go_of_what_it_holds() {
        let (cut, cuts) = signal::channel(false);
        for is_answer in [true, false] {
            let _ = cut.send(false);
            let (sender, receiver) = tokio::sync::mpsc::channel(4);
            let inner = tonic::body::Body::new(Sent(receiver));
            let mut body = match is_answer {
                true => Cut::answer(inner, cuts.clone()),
                false => Cut::request(inner, cuts.clone()),
            };
            sender.send(Bytes::from_static(b"one")).await.unwrap();
            let frame = next(&mut body).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "one");
            let waiting = tokio::spawn(async move {
                let end = next(&mut body).await.unwrap();
                (end, next(&mut body).await.is_none())
            });
            cut.send(true).unwrap();
            let (end, is_last) = waiting.await.unwrap();
            assert!(is_last);
            match end {
                Ok(frame) => {
                    assert!(is_answer);
                    let trailers = frame.into_trailers().unwrap();
                    assert_eq!(trailers.get("grpc-status").unwrap(), "14");
                }
                Err(status) => {
                    assert!(!is_answer);
                    assert_eq!(status.code(), tonic::Code::Unavailable);
                }
            }
            assert!(sender.is_closed());
        }
    }
}
