//! One batch through all agents, with panics contained.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use karat_edge_node::pixels::Pixels;
use karat_proto::command::{AgentKind, CollectionSpec, Policy};

use crate::config::Rules;
use crate::decision::{Report, decide};
use crate::findings::FindingCode;
use crate::oracle::{Oracle, OracleError, OracleSource, Reading};
use crate::run_queue::RunQueue;
use crate::similarity::embedding::Embedding;
use crate::similarity::{Seen, Similarity};
use crate::stats::Figures;
use crate::{AgentHost, Job, integrity, parity, policy, re_execution};

/// How one job of a batch ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Every agent looked at it.
    Report(Report),
    /// Something is not there yet; the finding is for when it stays away.
    LookAgain(AgentKind, FindingCode),
    /// The agent panicked on it, or on the batch it was in.
    BrokeDown(AgentKind),
    /// Another job's panic took the models away before its turn.
    Again,
}

/// What a worker tells its supervisor while it works.
#[derive(Default)]
pub(crate) struct Progress {
    /// Rises with everything that is finished.
    pub(crate) steps: AtomicU64,
    stage: AtomicU8,
    /// How the worker's thread fares for the processor; set when the thread begins, where the system tells.
    pub(crate) run_queue: OnceLock<RunQueue>,
}

impl Progress {
    fn enter(&self, agent: AgentKind) {
        self.stage.store(agent as u8, Relaxed);
        self.steps.fetch_add(1, Relaxed);
    }

    /// The agent at work.
    pub(crate) fn stage(&self) -> AgentKind {
        [
            AgentKind::Integrity,
            AgentKind::Policy,
            AgentKind::Parity,
            AgentKind::ReExecution,
            AgentKind::Similarity,
        ]
        .into_iter()
        .find(|agent| *agent as u8 == self.stage.load(Relaxed))
        .unwrap_or(AgentKind::Integrity)
    }
}

/// What every worker shares.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) host: Arc<dyn AgentHost>,
    pub(crate) source: Arc<dyn OracleSource>,
    pub(crate) rules: Rules,
    pub(crate) figures: Arc<Figures>,
    pub(crate) similarity: Arc<Similarity>,
}

/// One worker's tools.
pub(crate) struct Bench {
    around: Surroundings,
    progress: Arc<Progress>,
    oracle: Option<Box<dyn Oracle>>,
    panics: u64,
}

/// A job on its way through the agents.
struct Work<'a> {
    job: &'a Job,
    collection: Option<Arc<CollectionSpec>>,
    pixels: Option<Pixels>,
    /// What the auditor made of the pixels, if it is comparable with what is remembered.
    embedding: Option<Embedding>,
    report: Report,
    /// Set when it ended before all agents had looked.
    end: Option<End>,
}

impl Bench {
    pub(crate) fn new(
        around: Surroundings,
        progress: Arc<Progress>,
        oracle: Option<Box<dyn Oracle>>,
    ) -> Bench {
        Bench {
            around,
            progress,
            oracle,
            panics: 0,
        }
    }

    /// Takes every job through the agents. Returns an end for each, and how many panics were contained: after one,
    /// this bench must not be used again.
    pub(crate) fn inspect(&mut self, policy: &Policy, jobs: &[Arc<Job>]) -> (Vec<End>, u64) {
        match self.contained(AgentKind::Parity, Bench::open) {
            None => {
                return (
                    self.all(jobs, || End::BrokeDown(AgentKind::Parity)),
                    self.panics,
                );
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the auditor cannot be loaded");
                let end = || End::LookAgain(AgentKind::Parity, FindingCode::AuditorUnavailable);
                return (self.all(jobs, end), self.panics);
            }
            Some(Ok(())) => {}
        }
        let mut works: Vec<Work> = jobs.iter().map(|job| self.check(job)).collect();
        self.read(&mut works, policy);
        self.run_again(&mut works, policy);
        self.compare_with_others(&mut works, policy);
        let ends = works
            .into_iter()
            .map(|work| work.end.unwrap_or(End::Report(work.report)));
        (ends.collect(), self.panics)
    }

    /// Loads the models, unless they are.
    pub(crate) fn open(&mut self) -> Result<(), OracleError> {
        if self.oracle.is_none() {
            self.oracle = Some(self.around.source.open()?);
        }
        Ok(())
    }

    /// Runs one agent's work. After a panic the models are dropped, since they may be half changed.
    fn contained<T>(&mut self, agent: AgentKind, work: impl FnOnce(&mut Bench) -> T) -> Option<T> {
        self.progress.enter(agent);
        let result = catch_unwind(AssertUnwindSafe(|| work(self)));
        self.progress.steps.fetch_add(1, Relaxed);
        if result.is_err() {
            self.panics += 1;
            self.oracle = None;
        }
        result.ok()
    }

    fn all(&self, jobs: &[Arc<Job>], end: impl Fn() -> End) -> Vec<End> {
        jobs.iter().map(|_| end()).collect()
    }

    /// Integrity and policy: collection and content, one job at a time.
    fn check<'a>(&mut self, job: &'a Job) -> Work<'a> {
        let mut work = Work {
            job,
            collection: None,
            pixels: None,
            embedding: None,
            report: Report::default(),
            end: None,
        };
        match self.contained(AgentKind::Policy, |bench| bench.check_traits(&mut work)) {
            Some(Ok(())) => {}
            Some(Err(code)) => work.end = Some(End::LookAgain(AgentKind::Policy, code)),
            None => work.end = Some(End::BrokeDown(AgentKind::Policy)),
        }
        if work.end.is_some() {
            return work;
        }
        match self.contained(AgentKind::Integrity, |bench| bench.check_content(&mut work)) {
            Some(Ok(())) => {}
            Some(Err(code)) => work.end = Some(End::LookAgain(AgentKind::Integrity, code)),
            None => work.end = Some(End::BrokeDown(AgentKind::Integrity)),
        }
        work
    }

    fn check_traits(&mut self, work: &mut Work) -> Result<(), FindingCode> {
        let start = Instant::now();
        let Some(collection) = self.around.host.collection(work.job.collection) else {
            return Err(FindingCode::CollectionUnknown);
        };
        let findings = policy::inspect(work.job.traits.as_slice(), &collection);
        self.around
            .figures
            .worked(AgentKind::Policy, 1, findings.len(), start.elapsed());
        work.report.findings.extend(findings);
        work.collection = Some(collection);
        Ok(())
    }

    fn check_content(&mut self, work: &mut Work) -> Result<(), FindingCode> {
        let start = Instant::now();
        // Without an oracle a panic was contained in this batch; the job's turn comes again with a new worker.
        let Some(oracle) = self.oracle.as_ref() else {
            work.end = Some(End::Again);
            return Ok(());
        };
        let bytes = match self.around.host.content(&work.job.content.digest) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(FindingCode::ContentMissing),
            Err(error) => {
                tracing::warn!(asset = work.job.asset, %error, "content cannot be read");
                return Err(FindingCode::ContentUnreadable);
            }
        };
        let findings = match integrity::inspect(work.job, &bytes, oracle.vocabulary()) {
            Ok(pixels) => {
                work.pixels = Some(pixels);
                Vec::new()
            }
            Err(findings) => findings,
        };
        self.around
            .figures
            .worked(AgentKind::Integrity, 1, findings.len(), start.elapsed());
        work.report.findings.extend(findings);
        Ok(())
    }

    /// Parity: all images of the batch at once.
    fn read(&mut self, works: &mut [Work], policy: &Policy) {
        let places: Vec<usize> = (0..works.len())
            .filter(|place| works[*place].end.is_none() && works[*place].pixels.is_some())
            .collect();
        if places.is_empty() {
            return;
        }
        if self.oracle.is_none() {
            places
                .iter()
                .for_each(|place| works[*place].end = Some(End::Again));
            return;
        }
        let read = self.contained(AgentKind::Parity, |bench| {
            bench.judge_readings(works, &places, policy);
        });
        if read.is_none() {
            for place in places {
                works[place].end = Some(End::BrokeDown(AgentKind::Parity));
            }
        }
    }

    fn judge_readings(&mut self, works: &mut [Work], places: &[usize], policy: &Policy) {
        let start = Instant::now();
        let Some(oracle) = self.oracle.as_mut() else {
            return;
        };
        let images: Vec<&[u8]> = places
            .iter()
            .filter_map(|place| works[*place].pixels.as_ref())
            .map(|pixels| pixels.rgb.as_slice())
            .collect();
        let readings = read_all(oracle.as_mut(), &images);
        // Models that were opened again may be others than those that the memory began with.
        let reference = oracle.reference().map(|reference| &reference.model);
        let comparable = reference.is_some() && reference == self.around.similarity.model();
        let mut found = 0;
        for (place, reading) in places.iter().zip(readings) {
            let work = &mut works[*place];
            let findings = match (reading, &work.collection) {
                (Ok(reading), Some(collection)) => {
                    work.report.corruption_ppm = reading.corruption_ppm;
                    work.embedding = reading.embedding.filter(|_| comparable);
                    parity::judge(
                        &reading,
                        oracle.vocabulary(),
                        work.job.traits.as_slice(),
                        collection,
                        policy,
                        &self.around.rules,
                    )
                }
                (Err(error), _) => {
                    tracing::warn!(asset = work.job.asset, %error, "an image cannot be scored");
                    vec![FindingCode::AuditorFailed.by(AgentKind::Parity, 0)]
                }
                (Ok(_), None) => Vec::new(),
            };
            found += findings.len();
            work.report.findings.extend(findings);
        }
        self.around
            .figures
            .worked(AgentKind::Parity, places.len(), found, start.elapsed());
    }

    /// Re-execution: what is sampled and not rejected already.
    fn run_again(&mut self, works: &mut [Work], policy: &Policy) {
        for work in works {
            let sampled = re_execution::is_sampled(
                work.job.asset,
                work.job.version,
                policy.reexecution_sample_ppm,
            );
            let rejected = decide(&work.report.findings) == karat_proto::command::Decision::Reject;
            if work.end.is_some() || work.pixels.is_none() || !sampled || rejected {
                continue;
            }
            if self.oracle.is_none() {
                work.end = Some(End::Again);
                continue;
            }
            let ran = self.contained(AgentKind::ReExecution, |bench| bench.compare(work));
            if ran.is_none() {
                work.end = Some(End::BrokeDown(AgentKind::ReExecution));
            }
        }
    }

    fn compare(&mut self, work: &mut Work) {
        let start = Instant::now();
        let (Some(oracle), Some(pixels), Some(collection)) =
            (self.oracle.as_mut(), &work.pixels, &work.collection)
        else {
            return;
        };
        let traits = work.job.traits.as_slice();
        let made = oracle.regenerate(&work.job.lineage, traits, collection);
        let finding = re_execution::judge(made, &work.job.content, pixels);
        self.around
            .figures
            .worked(AgentKind::ReExecution, 1, 1, start.elapsed());
        work.report.findings.push(finding);
    }
}

impl Bench {
    /// Similarity: last, since what is rejected is no likeness of anything.
    fn compare_with_others(&mut self, works: &mut [Work], policy: &Policy) {
        let mut compared = false;
        for work in works {
            if work.end.is_some() || work.embedding.is_none() {
                continue;
            }
            compared = true;
            let judged = self.contained(AgentKind::Similarity, |bench| bench.liken(work, policy));
            if judged.is_none() {
                work.end = Some(End::BrokeDown(AgentKind::Similarity));
            }
        }
        if compared {
            let _ = self.contained(AgentKind::Similarity, |bench| {
                bench.around.similarity.write()
            });
        }
    }

    fn liken(&mut self, work: &mut Work, policy: &Policy) {
        let start = Instant::now();
        let (Some(embedding), Some(collection)) = (&work.embedding, &work.collection) else {
            return;
        };
        let findings = self.around.similarity.judge(&Seen {
            job: work.job,
            embedding,
            collection,
            policy,
            so_far: decide(&work.report.findings),
        });
        let figures = &self.around.figures;
        figures.worked(AgentKind::Similarity, 1, findings.len(), start.elapsed());
        figures.found_similar(&findings);
        work.report.findings.extend(findings);
    }
}

/// Reads a batch; where that fails, one by one, so that one bad image does not spoil its neighbours.
fn read_all(oracle: &mut dyn Oracle, images: &[&[u8]]) -> Vec<Result<Reading, OracleError>> {
    match oracle.read(images) {
        Ok(readings) if readings.len() == images.len() => readings.into_iter().map(Ok).collect(),
        _ => images
            .iter()
            .map(|image| {
                let readings = oracle.read(&[image])?;
                let none = || OracleError("the auditor returned no reading".into());
                readings.into_iter().next().ok_or_else(none)
            })
            .collect(),
    }
}
