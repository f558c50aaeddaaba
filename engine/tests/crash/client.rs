//! Clients over gRPC: the load, the watcher, and what is done after a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use karat_proto::v1::event::Kind as Happened;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::v1::{AckLevel, AssetState, TransferCause};
use karat_proto::{limits, v1};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::book::{Book, id_of};
use super::model::Draw;
use super::random::Random;
use super::scene::Scene;

/// The engine went away in the middle: killed, as it should be.
#[derive(Debug)]
pub struct Lost;

impl From<tonic::Status> for Lost {
    /// A killed engine is a broken transport. Everything else is an answer of a living one, and must not be there.
    fn from(status: tonic::Status) -> Lost {
        let broken = matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
        ) || status.message().contains("h2 protocol error");
        assert!(broken, "{status:?}");
        Lost
    }
}

/// What came over Watch, over all restarts.
pub struct Watched {
    pub seen_sequence: u64,
    pub events: u64,
    pub hash: blake3::Hasher,
    /// Draws that the model has not taken.
    pub draws: Vec<Draw>,
    last: (u64, u32),
}

impl Default for Watched {
    fn default() -> Watched {
        Watched {
            seen_sequence: 0,
            events: 0,
            hash: blake3::Hasher::new(),
            draws: Vec::new(),
            last: (0, 0),
        }
    }
}

impl Watched {
    /// Takes a message: its events follow on and lie in what is said to be seen.
    pub fn take(&mut self, message: &v1::WatchResponse) {
        for event in &message.events {
            let place = (event.sequence, event.index);
            let follows = if event.sequence == self.last.0 {
                event.index == self.last.1 + 1
            } else {
                event.sequence > self.last.0 && event.index == 0
            };
            assert!(follows, "event {place:?} came after {:?}", self.last);
            assert!(
                event.sequence > self.seen_sequence && event.sequence <= message.seen_sequence,
                "event {place:?} is outside {}..={}",
                self.seen_sequence + 1,
                message.seen_sequence
            );
            self.last = place;
            self.note(event);
        }
        assert!(
            message.seen_sequence > self.seen_sequence,
            "Watch went back"
        );
        self.seen_sequence = message.seen_sequence;
    }

    fn note(&mut self, event: &v1::Event) {
        self.events += 1;
        self.hash.update(&event.encode_to_vec());
        if let Some(Happened::Transferred(moved)) = &event.kind
            && moved.cause() == TransferCause::Claim
        {
            self.draws.push(Draw {
                sequence: event.sequence,
                asset: moved.asset,
                to: moved.to.clone(),
            });
        }
    }
}

/// Everything that clients share.
#[derive(Default)]
pub struct Clients {
    pub book: Mutex<Book>,
    pub scene: Mutex<Scene>,
    pub watched: Mutex<Watched>,
    waiting: AtomicU64,
}

/// Commands without answer at which a stream pauses.
const WAITING_MAX: u64 = 512;
/// Nothing that an engine answers takes so long.
const ANSWER_MAX: Duration = Duration::from_secs(300);

pub async fn connect(address: &str) -> Result<Channel, Lost> {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .map_err(|_| Lost)
}

pub fn ledger(channel: &Channel) -> LedgerClient<Channel> {
    LedgerClient::new(channel.clone()).max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
}

pub fn operator(channel: &Channel) -> OperatorClient<Channel> {
    OperatorClient::new(channel.clone())
}

impl Clients {
    /// Takes an answer into the book, and into the beliefs when it is news.
    fn answered(&self, reached: AckLevel, outcome: &v1::Outcome) {
        let mut book = self.book.lock();
        if !book.answered(reached, outcome) || outcome.code != 0 {
            return;
        }
        let sent = &book.sent[&id_of(&outcome.id)];
        if let Some(told) = &sent.told {
            self.scene.lock().accepted(&sent.command, told);
        }
    }

    /// Makes commands and notes them as sent.
    fn make(&self, random: &mut Random, count: u64) -> Vec<v1::Command> {
        let mut scene = self.scene.lock();
        let commands: Vec<v1::Command> = (0..count).map(|_| scene.next_command(random)).collect();
        drop(scene);
        let mut book = self.book.lock();
        commands.iter().for_each(|command| book.sending(command));
        commands
    }

    /// As [`Clients::make`], and one that is refused when its bytes are stored already.
    pub fn make_with_orphan(&self, random: &mut Random, count: u64) -> Vec<v1::Command> {
        let mut commands = self.make(random, count);
        let orphan = self.scene.lock().refused_mint(random);
        self.book.lock().sending(&orphan);
        commands.push(orphan);
        commands
    }

    /// Sends commands that were noted before and waits for all outcomes.
    pub async fn send_again(
        &self,
        channel: &Channel,
        commands: Vec<v1::Command>,
        ack: AckLevel,
    ) -> Result<(), Lost> {
        if commands.is_empty() {
            return Ok(());
        }
        let mut left = commands.len();
        let requests: Vec<v1::SubmitRequest> = commands
            .chunks(64)
            .map(|some| v1::SubmitRequest {
                ack: ack.into(),
                commands: some.to_vec(),
            })
            .collect();
        let (sender, receiver) = mpsc::channel(requests.len());
        for request in requests {
            // There is room for all.
            let _ = sender.try_send(request);
        }
        let mut answers = ledger(channel)
            .submit(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        while left > 0 {
            let answer = tokio::time::timeout(ANSWER_MAX, answers.message())
                .await
                .expect("an outcome must come")?;
            let answer = answer.ok_or(Lost)?;
            for outcome in &answer.outcomes {
                self.answered(answer.ack(), outcome);
                left -= 1;
            }
        }
        Ok(())
    }

    /// Begins the load. It ends when `stop` is set or the engine goes away.
    pub fn load(
        self: &Arc<Self>,
        channel: &Channel,
        random: &mut Random,
        stop: &Arc<AtomicBool>,
    ) -> Vec<JoinHandle<()>> {
        self.waiting.store(0, Ordering::SeqCst);
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (clients, channel, stop) = (self.clone(), channel.clone(), stop.clone());
            let random = random.fork();
            tasks.push(tokio::spawn(async move {
                let _: Result<(), Lost> = match number {
                    0..4 => clients.stream(channel, random, &stop).await,
                    _ => clients.one_by_one(channel, random, &stop).await,
                };
            }));
        }
        let (clients, channel) = (self.clone(), channel.clone());
        tasks.push(tokio::spawn(async move {
            let _: Result<(), Lost> = clients.watch_until(&channel, u64::MAX).await;
        }));
        tasks
    }

    /// One Submit stream; each request has its own level.
    async fn stream(
        self: &Arc<Self>,
        channel: Channel,
        mut random: Random,
        stop: &AtomicBool,
    ) -> Result<(), Lost> {
        let (sender, receiver) = mpsc::channel(4);
        let mut answers = ledger(&channel)
            .submit(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let clients = self.clone();
        let reading = tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                for outcome in &answer.outcomes {
                    clients.waiting.fetch_sub(1, Ordering::SeqCst);
                    clients.answered(answer.ack(), outcome);
                }
            }
        });
        while !stop.load(Ordering::SeqCst) {
            let (level, count) = match random.between(0, 99) {
                0..=45 => (AckLevel::Sequenced, random.between(1, 16)),
                46..=91 => (AckLevel::Durable, random.between(1, 16)),
                _ => (AckLevel::Settled, 1),
            };
            let commands = self.make(&mut random, count);
            self.waiting.fetch_add(count, Ordering::SeqCst);
            let ack = level.into();
            if sender
                .send(v1::SubmitRequest { ack, commands })
                .await
                .is_err()
            {
                break;
            }
            tokio::time::sleep(Duration::from_micros(random.between(500, 8000))).await;
            while self.waiting.load(Ordering::SeqCst) > WAITING_MAX && !reading.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if reading.is_finished() {
                break;
            }
        }
        drop(sender);
        // A panic in here is a contradiction that was found.
        reading.await.unwrap();
        Ok(())
    }

    /// One command at a time, waited for.
    async fn one_by_one(
        &self,
        channel: Channel,
        mut random: Random,
        stop: &AtomicBool,
    ) -> Result<(), Lost> {
        let mut ledger = ledger(&channel);
        while !stop.load(Ordering::SeqCst) {
            let command = self.make(&mut random, 1).pop();
            let ack = if random.once_in(2) {
                AckLevel::Sequenced
            } else {
                AckLevel::Unspecified
            };
            let request = v1::ExecuteRequest {
                ack: ack.into(),
                command,
            };
            let answer = match ledger.execute(request).await {
                Ok(answer) => answer.into_inner(),
                // Overloaded: its outcome stays unknown, and it is sent again after the restart.
                Err(status) if status.code() == tonic::Code::ResourceExhausted => continue,
                Err(status) => return Err(status.into()),
            };
            self.answered(answer.ack(), &answer.outcome.unwrap());
            tokio::time::sleep(Duration::from_micros(random.between(0, 3000))).await;
        }
        Ok(())
    }

    /// Watches from where the last watcher ended, until `to_sequence` was seen.
    pub async fn watch_until(&self, channel: &Channel, to_sequence: u64) -> Result<(), Lost> {
        let from_sequence = self.watched.lock().seen_sequence + 1;
        if from_sequence > to_sequence {
            return Ok(());
        }
        let request = v1::WatchRequest {
            from_sequence,
            ..Default::default()
        };
        let mut messages = ledger(channel).watch(request).await?.into_inner();
        loop {
            let message = if to_sequence == u64::MAX {
                messages.message().await?
            } else {
                tokio::time::timeout(ANSWER_MAX, messages.message())
                    .await
                    .expect("events must come")?
            };
            let message = message.ok_or(Lost)?;
            let mut watched = self.watched.lock();
            let known = watched.draws.len();
            watched.take(&message);
            let drawn: Vec<Draw> = watched.draws[known..].to_vec();
            let seen_sequence = watched.seen_sequence;
            drop(watched);
            let mut scene = self.scene.lock();
            for event in &message.events {
                if let Some(Happened::Verified(verified)) = &event.kind
                    && verified.state() == AssetState::Rejected
                {
                    scene.ended(verified.asset);
                }
            }
            for draw in &drawn {
                scene.drawn(draw.asset, &draw.to);
            }
            drop(scene);
            if seen_sequence >= to_sequence {
                return Ok(());
            }
        }
    }
}
