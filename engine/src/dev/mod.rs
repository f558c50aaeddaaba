//! The demonstration: the whole system in one process, with an edge node and a small crowd that speak gRPC to it as anybody
//! else would.

mod books;
mod crowd;
mod progress;
mod setup;
mod summary;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use karat_edge_node::ladder::LadderConfig;
use karat_edge_node::node::{self, NodeConfig, NodeFigures};
use karat_edge_node::signature::ModelTrust;
use parking_lot::Mutex;
use tokio::sync::watch as signal;
use tonic::transport::{Channel, Endpoint};

use crate::cli::{CliError, Common, DevArgs, interrupted, opened_text, start_error};
use crate::config::Config;
use crate::realm_log::LogPlace;
use crate::service::{Mode, Service};
use crate::verifier::ModelFolders;

use books::Books;
use crowd::CrowdFigures;
use progress::{Picture, Progress};
use setup::Setup;
use summary::{BooksState, Summary};

/// How often the picture is drawn.
const DRAW: Duration = Duration::from_millis(500);
/// How long the edge node and the crowd get to end.
const END_WAIT: Duration = Duration::from_secs(10);

/// Runs until Ctrl-C, or with `--assets` until that many new assets have ended.
///
/// # Errors
/// When something cannot be started, a part fails, or the books of a run with `--assets` do not close.
pub async fn run(common: &Common, args: DevArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let mut config = Config::default();
    config.data.dir = common
        .data
        .clone()
        .unwrap_or_else(|| PathBuf::from("karat-data"));
    config.data.models_dir.clone_from(&args.models);
    config.gateway.listen.set_port(args.port);
    if let Some(log) = &args.log {
        use_log(&mut config, log)?;
    }
    let models =
        ModelFolders::find(&args.models, &config.models.trust()).map_err(CliError::Usage)?;
    let service = Service::start(config, Mode::Full)
        .await
        .map_err(|error| start_error(&error))?;
    let address = format!("http://{}", service.address);
    let core = service.gateway.core.clone();
    let edge_dir = core.folder.edge();
    let channel = connect(&address).await?;
    let setup = setup::prepare(
        &core.view,
        channel.clone(),
        core.roles.operator,
        &models.generators,
        &models.auditors,
        &edge_dir,
    )
    .await?;
    print_opening(common, &service, &address);
    let run = Run::start(&service, setup, &args, &address, edge_dir)?;
    let mut progress = Progress::new(common.json);
    let ended = watch(common, &args, &service, &run, &mut progress, started).await;
    let summary = run.end(&service, started).await;
    let books = summary.1;
    let summary = summary.0;
    if common.json {
        sayln!("{:#}", summary.to_json(&books));
    } else {
        say!("{}", summary.to_text(&books));
    }
    service
        .stop()
        .await
        .map_err(|error| CliError::Failed(error.to_string()))?;
    ended?;
    match summary.books() {
        BooksState::Closed => Ok(()),
        BooksState::GoOn if args.assets.is_none() => Ok(()),
        BooksState::GoOn => Err(CliError::No(
            "stopped before every asset had ended; started again on the same folder, it goes on with them".into(),
        )),
        BooksState::Open => Err(CliError::No("not every asset is accounted for".into())),
    }
}

/// `kafka://BROKERS` as the log; the topic follows from the realm.
fn use_log(config: &mut Config, log: &str) -> Result<(), CliError> {
    match LogPlace::parse(log).map_err(CliError::Usage)? {
        LogPlace::Topic {
            brokers,
            topic: None,
        } => {
            config.log.kind = "kafka".into();
            config.log.kafka.brokers = brokers;
        }
        _ => {
            return Err(CliError::Usage(format!(
                "--log {log}: it must look like kafka://HOST:PORT; without it the log is a journal in the data folder"
            )));
        }
    }
    config
        .check()
        .map_err(|error| CliError::Usage(error.to_string()))
}

async fn connect(address: &str) -> Result<Channel, CliError> {
    Endpoint::from_shared(address.to_owned())
        .map_err(|error| CliError::Usage(error.to_string()))?
        .connect()
        .await
        .map_err(|error| CliError::Failed(format!("connect to {address}: {error}")))
}

fn print_opening(common: &Common, service: &Service, address: &str) {
    let folder = service.gateway.core.folder.root().display().to_string();
    let text = format!(
        "{}settlement contract 0x{} on chain {}\nlook at it:  karat status   karat asset list --collection 1   karat \
         asset show 1   karat proof 1\n             (all with --server {address}; when nothing runs: --data {folder})\n",
        opened_text(service),
        hex::encode(service.gateway.settlement.client().contract()),
        service.gateway.settlement.client().chain_id(),
    );
    if common.json {
        eprint!("{text}");
    } else {
        say!("{text}");
    }
}

/// The parts of a run beside the engine.
struct Run {
    node: JoinHandle<Result<(), String>>,
    crowd: Option<JoinHandle<Result<(), String>>>,
    node_figures: Arc<NodeFigures>,
    crowd_figures: Arc<CrowdFigures>,
    books: Arc<Mutex<Books>>,
    books_task: tokio::task::JoinHandle<()>,
    /// The last sequence that the books have seen.
    books_at: signal::Receiver<u64>,
    first_settled: Arc<Mutex<Option<Instant>>>,
    stop: signal::Sender<bool>,
    node_over: signal::Receiver<bool>,
}

impl Run {
    fn start(
        service: &Service,
        setup: Setup,
        args: &DevArgs,
        address: &str,
        edge_dir: PathBuf,
    ) -> Result<Run, CliError> {
        let core = &service.gateway.core;
        let from_sequence = core.view.applied_seq() + 1;
        let (stop, stopped) = signal::channel(false);
        let (over, node_over) = signal::channel(false);
        let node_figures = Arc::new(NodeFigures::default());
        let node_config = NodeConfig {
            target: address.to_owned(),
            realm: None,
            name: "dev-edge".into(),
            account: setup.creator,
            collection: setup.collection,
            secret: setup.secret.clone(),
            model_dir: setup.generator.clone(),
            model_trust: ModelTrust::default(),
            variant: None,
            best_variant: None,
            ladder: LadderConfig::default(),
            assets_a_second: args.rate,
            assets_max: args.assets,
            spool_dir: edge_dir.join("spool"),
            spool_assets_max: 1024,
            micro_batch_max: 8,
            micro_batch_wait: Duration::ZERO,
            spoil_ppm: args.spoil_ppm,
        };
        let (figures, stops) = (node_figures.clone(), stopped.clone());
        let node = on_own_thread("karat-edge", async move {
            let ended = node::run(node_config, figures, stops).await;
            let _ = over.send(true);
            ended
                .map(|_| ())
                .map_err(|error| format!("edge node: {error}"))
        })?;
        let crowd_figures = Arc::new(CrowdFigures::default());
        let books = Arc::new(Mutex::new(Books::new(setup.collection)));
        let mut crowd = None;
        if !args.no_crowd {
            let (figures, address) = (crowd_figures.clone(), address.to_owned());
            crowd = Some(on_own_thread("karat-crowd", async move {
                let channel = connect(&address).await.map_err(|error| error.to_string())?;
                crowd::run(channel, setup, from_sequence, figures, stopped)
                    .await
                    .map_err(|status| format!("crowd: {}", status.message()))
            })?);
        }
        let first_settled = Arc::new(Mutex::new(None));
        let (kept, first) = (books.clone(), first_settled.clone());
        let mut reader = core.events(from_sequence, true, DRAW);
        let (seen, books_at) = signal::channel(from_sequence - 1);
        let books_task = tokio::spawn(async move {
            while let Ok(Some(blocks)) = reader.next(4096).await {
                let mut books = kept.lock();
                blocks
                    .iter()
                    .flat_map(|block| &block.events)
                    .for_each(|event| books.take(event));
                if first.lock().is_none() && books.tally().settled > 0 {
                    *first.lock() = Some(Instant::now());
                }
                if let Some(last) = blocks.last() {
                    seen.send_replace(last.last_sequence);
                }
            }
        });
        Ok(Run {
            node,
            crowd,
            node_figures,
            crowd_figures,
            books,
            books_task,
            books_at,
            first_settled,
            stop,
            node_over,
        })
    }

    /// Stops the parts and sums up.
    async fn end(mut self, service: &Service, started: Instant) -> (Summary, Books) {
        let _ = self.stop.send(true);
        let waiting = tokio::task::spawn_blocking(move || {
            for (name, thread) in [("edge node", Some(self.node)), ("crowd", self.crowd)] {
                match thread.map(JoinHandle::join) {
                    Some(Ok(Err(error))) => tracing::warn!(error, "ended"),
                    Some(Err(_)) => tracing::error!(name, "panicked"),
                    _ => {}
                }
            }
        });
        if tokio::time::timeout(END_WAIT, waiting).await.is_err() {
            tracing::warn!("the edge node or the crowd did not end in time");
        }
        // What the log holds by now must have reached the books.
        let applied = service.gateway.core.view.applied_seq();
        let caught_up = self.books_at.wait_for(|seen| *seen >= applied);
        if tokio::time::timeout(END_WAIT, caught_up).await.is_err() {
            tracing::warn!("the books did not catch up with the log in time");
        }
        self.books_task.abort();
        let books = std::mem::replace(&mut *self.books.lock(), Books::new(0));
        let summary = Summary {
            node: self.node_figures.snapshot(),
            tally: books.tally(),
            status: crate::status::status(&service.gateway),
            gas_an_asset: service.gateway.settlement.gas_an_asset(),
            seconds: started.elapsed().as_secs_f64(),
            first_settled_seconds: self
                .first_settled
                .lock()
                .map(|at| at.duration_since(started).as_secs_f64()),
        };
        (summary, books)
    }

    /// Whether the node has made what it was asked for and nothing more is expected of any asset.
    fn is_over(&self) -> bool {
        let tally = self.books.lock().tally();
        let node = self.node_figures.snapshot();
        *self.node_over.borrow()
            && tally.ended() == tally.minted
            && tally.minted + node.refused_count() >= node.generated
    }
}

/// A client's tasks on a thread and a runtime of their own, as if it were another process.
fn on_own_thread(
    name: &str,
    work: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Result<JoinHandle<Result<(), String>>, CliError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(work)
        })
        .map_err(|error| CliError::Failed(format!("start a thread: {error}")))
}

async fn watch(
    common: &Common,
    args: &DevArgs,
    service: &Service,
    run: &Run,
    progress: &mut Progress,
    started: Instant,
) -> Result<(), CliError> {
    let mut draw = tokio::time::interval(DRAW);
    let interrupt = interrupted();
    tokio::pin!(interrupt);
    loop {
        tokio::select! {
            () = &mut interrupt => return Ok(()),
            cause = service.failure() => return Err(CliError::Failed(cause)),
            _ = draw.tick() => {}
        }
        let over = args.assets.is_some() && run.is_over();
        let node = run.node_figures.snapshot();
        let status = crate::status::status(&service.gateway);
        {
            let books = run.books.lock();
            let crowd = &run.crowd_figures;
            let picture = Picture {
                elapsed: started.elapsed(),
                node: &node,
                tally: books.tally(),
                books: &books,
                status: &status,
                gas_an_asset: service.gateway.settlement.gas_an_asset(),
                crowd: (
                    crowd.sent.load(Ordering::Relaxed),
                    crowd.refused.load(Ordering::Relaxed),
                ),
            };
            progress.draw(&picture, over, common.json);
        }
        if over {
            return Ok(());
        }
        if run.node.is_finished() && args.assets.is_none() {
            return Err(CliError::Failed(
                "the edge node ended; its cause is above".into(),
            ));
        }
    }
}
