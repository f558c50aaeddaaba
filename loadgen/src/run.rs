//! The commands of this program, from arguments to report.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use karat_proto::Account;
use karat_proto::realm::{RealmChannel, RealmName};
use tokio::task::LocalSet;

use crate::args::{CompareArgs, EchoArgs, FloorArgs, LoadArgs, Mode, RunArgs};
use crate::client::{Load, connect, drive};
use crate::error::LoadError;
use crate::floor::Floor;
use crate::kafka::KafkaTarget;
use crate::live::Live;
use crate::plan::Plan;
use crate::records::Records;
use crate::report::histograms::Histograms;
use crate::report::{Report, Settings};
use crate::scenario::{Action, ScenarioFile};
use crate::setup::{Ready, prepare, pretend};
use crate::truth::events::{self, Ours};
use crate::watchers::SlowWatchers;
use crate::wire::Wire;
use crate::{compare, truth};

/// What `--with-floor` stands for.
const FLOOR_SECONDS_MAX: u64 = 10;

/// A run's result, with what is kept beside the report.
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// Every acknowledged command.
    pub records: Records,
    /// Whole histograms, for `.hgrm` files.
    pub histograms: Histograms,
}

/// `karat-load run`.
///
/// # Errors
/// When the run could not begin.
pub fn run(args: &RunArgs) -> Result<Outcome, LoadError> {
    let operator = Account::parse(&args.operator)
        .map_err(|error| LoadError::Arguments(format!("--operator: {error}")))?;
    let realm = args.realm.as_ref();
    let kafka = KafkaTarget::parse(
        &args.target,
        &args.topic_prefix,
        &realm.map_or("main".into(), RealmName::to_string),
        &args.kafka_properties,
    )?;
    let mut load = args.load.clone();
    if kafka.is_some() {
        if load.mode != Mode::Submit {
            return Err(LoadError::Arguments(
                "a kafka:// target is a way to travel by itself: leave --mode out".into(),
            ));
        }
        load.mode = Mode::Kafka;
    }
    let load = &load;
    let file = scenario(load)?;
    let plan = Plan::new(load, &file, false)?;
    let run = args.run_id.unwrap_or_else(fresh_run_id);
    let floor_seconds = match args.with_floor {
        true => FLOOR_SECONDS_MAX,
        false => args.floor_seconds,
    };
    on_one_thread(async {
        let (engine, channel, wire) = match kafka {
            Some(target) => {
                let wire = on_kafka(target, run)?;
                (&args.engine, connect(&args.engine, realm).await?, wire)
            }
            None => {
                let channels = connect_all(&args.target, realm, load).await?;
                (&args.target, channels[0].clone(), Wire::Grpc(channels))
            }
        };
        let verdict = args.verdict;
        let ready = prepare(channel.clone(), load, &file, operator, verdict, run).await?;
        // After setup, so that a target which cannot be loaded is known at once; before the run, on the same warm process.
        let floor = match floor_seconds {
            0 => None,
            seconds => Some(Box::new(
                floor_beside(&wire, &short(load, seconds)).await?.report,
            )),
        };
        let Ready {
            world,
            streams,
            accounts,
            contested,
            edge,
        } = ready;
        let whole = Load {
            plan,
            run,
            streams,
            contested,
            edge,
            live: live(&args.target, load, &file),
        };
        let watchers = SlowWatchers::open(engine, realm, args.slow_watchers).await?;
        let driven = drive(&wire, whole).await?;
        let watched = watchers.finish().await;
        let mut problems = driven.problems.clone();
        let mut checked = None;
        let mut events = None;
        // A dead target cannot be asked; its commands without outcome are named already, and `check` asks it again.
        if driven.broken.is_none() {
            if !driven.records.is_empty() {
                let ours = Ours {
                    world: &world,
                    accounts: &accounts,
                    run,
                };
                let records = &driven.records;
                events = Some(
                    events::check(channel.clone(), &ours, records, &mut problems)
                        .await
                        .0,
                );
            }
            let assets = truth::promised(&driven.holdings, &driven.contested);
            let balances: Vec<_> = driven
                .holdings
                .iter()
                .zip(&accounts)
                .flat_map(|(holdings, accounts)| {
                    accounts.iter().copied().zip(holdings.changes().to_vec())
                })
                .collect();
            let seed = load.seed;
            let deposit = world.deposit;
            let check =
                truth::check(channel, &assets, &balances, deposit, seed, &mut problems).await;
            checked = Some(check);
        }
        let mut settings = settings(&args.target, load, &file, run)?;
        settings.verdict = format!("{:?}", args.verdict).to_lowercase();
        settings.slow_watchers = args.slow_watchers;
        settings.realm = realm.map(RealmName::to_string);
        let mut report = Report::new("run", settings, &driven, problems);
        report.books.checked = checked;
        report.books.events = events;
        report.books.world = Some(world);
        report.watched = (watched.watchers > 0).then_some(watched);
        report.floor = floor;
        let histograms = Histograms::of(&driven.recorder, &load.ack);
        Ok(Outcome {
            report,
            records: driven.records,
            histograms,
        })
    })
}

/// `karat-load floor`.
///
/// # Errors
/// When this machine gives no port, thread or timer, or nothing answers at the target.
pub fn floor(args: &FloorArgs) -> Result<Outcome, LoadError> {
    on_one_thread(drive_floor(&args.load, args.target.clone()))
}

/// The client against an echo that is there already.
///
/// # Errors
/// When it cannot be reached.
pub fn against_echo(args: &LoadArgs, echo: &Floor) -> Result<Outcome, LoadError> {
    on_one_thread(drive_floor(args, Some(echo.target())))
}

/// `karat-load compare`: the table.
///
/// # Errors
/// When a file is no result.
pub fn compare(args: &CompareArgs) -> Result<String, LoadError> {
    let read = |paths: &[std::path::PathBuf]| {
        let reports = paths.iter().map(|path| Report::read(path));
        reports.collect::<Result<Vec<_>, _>>()
    };
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    Ok(compare::render("A", &a, "B", &b))
}

/// `karat-load echo`: serves until the program is stopped.
///
/// # Errors
/// When the address cannot be had.
pub fn echo(args: &EchoArgs) -> Result<(), LoadError> {
    let floor = Floor::start_at(args.listen)?;
    println!("{}", floor.target());
    floor.wait();
    Ok(())
}

/// The floor of a run that travels like this: an echo for gRPC, a topic that nobody reads for Kafka.
async fn floor_beside(wire: &Wire, args: &LoadArgs) -> Result<Outcome, LoadError> {
    match wire {
        Wire::Grpc(_) => drive_floor(args, None).await,
        #[cfg(feature = "kafka")]
        Wire::Kafka(connection) => {
            let run = fresh_run_id();
            let topic = crate::kafka::floor::FloorTopic::make(connection, run).await?;
            let wire = Wire::KafkaFloor(topic);
            let driven = drive_nowhere(&wire, args, "a topic that nobody reads", run).await;
            if let Wire::KafkaFloor(topic) = wire {
                topic.delete().await?;
            }
            driven
        }
        #[cfg(feature = "kafka")]
        Wire::KafkaFloor(_) => Err(LoadError::Arguments("a floor has no floor".into())),
    }
}

async fn drive_floor(args: &LoadArgs, target: Option<String>) -> Result<Outcome, LoadError> {
    let own = match &target {
        Some(_) => None,
        None => Some(Floor::start()?),
    };
    let address = target.or(own.as_ref().map(Floor::target));
    let channels = connect_all(&address.unwrap_or_default(), None, args).await?;
    drive_nowhere(&Wire::Grpc(channels), args, "echo", fresh_run_id()).await
}

/// Drives something that accepts everything and keeps nothing.
async fn drive_nowhere(
    wire: &Wire,
    args: &LoadArgs,
    target: &str,
    run: u64,
) -> Result<Outcome, LoadError> {
    let file = scenario(args)?;
    let plan = Plan::new(args, &file, true)?;
    let ready = pretend(args, &file, run)?;
    let load = Load {
        plan,
        run,
        streams: ready.streams,
        contested: ready.contested,
        edge: ready.edge,
        live: live(target, args, &file),
    };
    let driven = drive(wire, load).await?;
    let problems = driven.problems.clone();
    let settings = settings(target, args, &file, run)?;
    Ok(Outcome {
        report: Report::new("floor", settings, &driven, problems),
        histograms: Histograms::of(&driven.recorder, &args.ack),
        records: driven.records,
    })
}

fn scenario(args: &LoadArgs) -> Result<Rc<ScenarioFile>, LoadError> {
    let file = ScenarioFile::load(&args.scenario)?;
    if args.mode == Mode::Edge && file.does(|action| action != Action::Mint) {
        return Err(LoadError::Arguments(format!(
            "an edge node only mints, and scenario {} does more: say --scenario mint",
            file.name
        )));
    }
    Ok(Rc::new(file))
}

#[cfg(feature = "kafka")]
fn on_kafka(target: KafkaTarget, run: u64) -> Result<Wire, LoadError> {
    Ok(Wire::Kafka(crate::kafka::Connection::open(target, run)?))
}

#[cfg(not(feature = "kafka"))]
fn on_kafka(target: KafkaTarget, _: u64) -> Result<Wire, LoadError> {
    Err(LoadError::Arguments(format!(
        "this build of karat-load has no Kafka client for {}: `cargo build --release -p karat-loadgen --features kafka` \
         makes one that has (it wants make and bash beside the C compiler)",
        target.brokers
    )))
}

async fn connect_all(
    target: &str,
    realm: Option<&RealmName>,
    args: &LoadArgs,
) -> Result<Vec<RealmChannel>, LoadError> {
    let mut channels = Vec::new();
    for _ in 0..args.connections {
        channels.push(connect(target, realm).await?);
    }
    Ok(channels)
}

fn live(target: &str, args: &LoadArgs, file: &ScenarioFile) -> Option<Live> {
    if args.quiet {
        return None;
    }
    let title = format!(
        "karat-load  {target}  {}  {}/s {}",
        file.name, args.rate, args.arrivals
    );
    Live::start(title, args.warm_up_seconds + args.seconds)
}

fn short(args: &LoadArgs, seconds: u64) -> LoadArgs {
    LoadArgs {
        seconds: args.seconds.min(seconds),
        ..args.clone()
    }
}

fn settings(
    target: &str,
    args: &LoadArgs,
    file: &ScenarioFile,
    run: u64,
) -> Result<Settings, LoadError> {
    let window = args.window_a_stream()? * args.lanes()?;
    Ok(Settings::new(target, args, &file.name, window, run))
}

pub(crate) fn on_one_thread<T>(
    work: impl Future<Output = Result<T, LoadError>>,
) -> Result<T, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| LoadError::Machine {
            what: "a runtime",
            cause,
        })?;
    let result = LocalSet::new().block_on(&runtime, work);
    // Connections that are still open must not hold the program.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Nanoseconds since the epoch: two runs of one program never share them, and nothing secret hangs on it.
fn fresh_run_id() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
