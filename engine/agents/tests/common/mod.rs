//! A small renderer in place of the models, and a small ledger in place of the engine.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_agents::findings::FindingCode;
use karat_agents::oracle::{Oracle, OracleError, OracleSource, Reading, Regenerated, Vocabulary};
use karat_agents::similarity::embedding::{Embedding, Reference};
use karat_agents::{AgentHost, AgentsConfig, Job};
use karat_edge_node::pixels::encode_png;
use karat_proto::command::{
    ClaimRule, CollectionSpec, Content, Exclusion, Lineage, PendingRule, Policy, TraitSpec, Traits,
    Verdict,
};
use karat_proto::lineage::lineage_hash;
use karat_proto::{Account, Code, Digest};

pub const SIDE: u32 = 9;
pub const PAINTER: Digest = [7; 32];
pub const COLLECTION: u32 = 1;
/// Distance between the shades of two values.
const STEP: u8 = 40;

/// Blue of the first pixel: what the painter's reader does with such an image.
pub const READ_WELL: u8 = 0;
pub const READ_PANICS: u8 = 1;
pub const READ_WAITS: u8 = 2;
pub const READ_FAILS: u8 = 3;

/// Paints three bands of shades, one for each trait, with grain from the seed. The first pixel carries `mark`.
pub fn paint(traits: &[u8], seed: &Digest, mark: u8) -> Vec<u8> {
    let mut rgb = Vec::new();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let shade = STEP * traits[(y / 3) as usize] + 20;
            let grain = seed[(x + y * SIDE) as usize % 32] % 4;
            rgb.extend([shade + grain, shade, shade + grain]);
        }
    }
    rgb[2] = mark;
    // No two seeds of the tests paint the same file.
    rgb[3] = seed[0];
    rgb
}

pub fn png_of(rgb: &[u8]) -> Vec<u8> {
    encode_png(SIDE, SIDE, rgb).unwrap()
}

/// 32 samples from all over the image; in [`reference`]'s deviations of 10 steps, another shade is 4 away.
pub fn embed(rgb: &[u8]) -> Embedding {
    std::array::from_fn(|place| f32::from(rgb[9 + 7 * place]))
}

/// Around the shades of a painted image, for windows of 8 assets.
pub fn reference() -> Reference {
    Reference {
        model: [9; 32],
        mean: [60.0; 32],
        deviation: [10.0; 32],
        of_variants: vec![],
        traits: collection().traits,
        drift_window: 8,
        drift_alarm_ppm: 4_000_000,
    }
}

/// Opened and closed by a test: an image marked [`READ_WAITS`] is read only when it is open.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.changed.wait(open).unwrap();
        }
    }
}

/// Reads what [`paint`] painted and paints it again.
pub struct Painter {
    pub gate: Arc<Gate>,
}

struct Brush {
    vocabulary: Vocabulary,
    reference: Reference,
    gate: Arc<Gate>,
}

impl OracleSource for Painter {
    fn open(&self) -> Result<Box<dyn Oracle>, OracleError> {
        let traits = collection()
            .traits
            .iter()
            .map(|spec| (spec.name.clone(), spec.values.clone()))
            // Another order than the collection's: traits are found by name.
            .rev()
            .collect();
        Ok(Box::new(Brush {
            reference: reference(),
            vocabulary: Vocabulary {
                width: SIDE,
                height: SIDE,
                traits,
            },
            gate: self.gate.clone(),
        }))
    }
}

impl Brush {
    fn read_one(&self, rgb: &[u8]) -> Result<Reading, OracleError> {
        match rgb[2] {
            READ_PANICS => panic!("a marked image"),
            READ_WAITS => self.gate.pass(),
            READ_FAILS => return Err(OracleError("a marked image".into())),
            _ => {}
        }
        let band = (SIDE * 3) as usize;
        let (mut traits, mut confidence_ppm, mut odd) = (Vec::new(), Vec::new(), 0);
        for first_row in (0..3).rev().map(|trait_index| trait_index * 3) {
            let greens: Vec<u8> = rgb[first_row * band..(first_row + 3) * band]
                .chunks(3)
                .map(|pixel| pixel[1])
                .collect();
            let sum: usize = greens.iter().map(|green| usize::from(*green)).sum();
            let mean = sum / greens.len();
            traits.push((mean.saturating_sub(20) / usize::from(STEP)) as u8);
            odd += greens
                .iter()
                .filter(|green| usize::from(**green).abs_diff(mean) > 10)
                .count() as u32;
            // A shade that is not quite a value's leaves doubt.
            let sure = mean % usize::from(STEP) == 20;
            confidence_ppm.push(if sure { 990_000 } else { 600_000 });
        }
        Ok(Reading {
            traits,
            confidence_ppm,
            corruption_ppm: odd * 1_000_000 / (SIDE * SIDE),
            embedding: Some(embed(rgb)),
        })
    }
}

impl Oracle for Brush {
    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn reference(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn read(&mut self, images: &[&[u8]]) -> Result<Vec<Reading>, OracleError> {
        images.iter().map(|rgb| self.read_one(rgb)).collect()
    }

    fn regenerate(
        &mut self,
        lineage: &Lineage,
        traits: &[u8],
        collection: &CollectionSpec,
    ) -> Result<Regenerated, OracleError> {
        if lineage.model != PAINTER {
            return Ok(Regenerated::ModelAbsent);
        }
        let exact = match lineage.variant.as_str() {
            "exact" => true,
            "rough" => false,
            _ => return Ok(Regenerated::VariantUnknown),
        };
        let Some(mut translated) = self.vocabulary.translate(collection, traits) else {
            return Ok(Regenerated::TraitsUnmapped);
        };
        translated.reverse();
        let rgb = paint(&translated, &lineage.seed, READ_WELL);
        let png = png_of(&rgb);
        Ok(Regenerated::Image {
            exact,
            tolerance_milli: 2_000,
            width: SIDE,
            height: SIDE,
            rgb,
            png,
        })
    }
}

pub fn collection() -> CollectionSpec {
    let spec = |name: &str, weights: &[u32]| TraitSpec {
        name: name.into(),
        values: (0..weights.len()).map(|v| format!("{name}{v}")).collect(),
        weights: weights.to_vec(),
    };
    CollectionSpec {
        name: "bands".into(),
        supply_cap: 1_000_000,
        traits: vec![
            spec("top", &[5, 5, 5, 0]),
            spec("middle", &[5, 5, 5]),
            spec("bottom", &[5, 5]),
        ],
        exclusions: vec![Exclusion {
            first: (0, 2),
            second: (1, 2),
        }],
        value_caps: vec![],
        claim_rule: ClaimRule::First,
        pending_rule: PendingRule::default(),
        seed_commitment: [0; 32],
        royalty_basis_points: 0,
        royalty_receiver: Account::NOBODY,
    }
}

/// A job for content that the host then holds.
pub fn job(host: &Host, asset: u64, traits: &[u8], png: Vec<u8>) -> Job {
    job_of(host, asset, traits, "exact", png)
}

pub fn job_of(host: &Host, asset: u64, traits: &[u8], variant: &str, png: Vec<u8>) -> Job {
    let seed = [asset as u8; 32];
    let digest = karat_content::digest_of(&png);
    let content = Content {
        digest,
        size: png.len() as u32,
    };
    host.state
        .lock()
        .unwrap()
        .content
        .insert(digest, png.into());
    Job {
        asset,
        version: 1,
        collection: COLLECTION,
        content,
        traits: Traits::new(traits).unwrap(),
        lineage: Lineage {
            model: PAINTER,
            variant: variant.into(),
            seed,
            hash: lineage_hash(&PAINTER, variant, &seed, traits, 0),
        },
        parent_version: 0,
        sequence: asset,
        born: Instant::now(),
    }
}

/// An honest asset of the painter.
pub fn honest(host: &Host, asset: u64) -> Job {
    marked(host, asset, READ_WELL)
}

pub fn marked(host: &Host, asset: u64, mark: u8) -> Job {
    let traits = [(asset % 2) as u8, (asset % 3) as u8, (asset % 2) as u8];
    job(
        host,
        asset,
        &traits,
        png_of(&paint(&traits, &[asset as u8; 32], mark)),
    )
}

type Done = Box<dyn FnOnce(Code) + Send>;

#[derive(Default)]
pub struct HostState {
    pub content: HashMap<Digest, Bytes>,
    pub policy: Policy,
    /// The version that the ledger is at; the host's policy may lag behind.
    pub ledger_policy_version: u32,
    /// Verdicts that were accepted, by asset and version.
    pub verdicts: HashMap<(u64, u32), Verdict>,
    /// Answers to give before the ledger's own.
    pub answers: VecDeque<Code>,
    pub submitted: u64,
    /// Given, once there are no more of these, for as long as it is set.
    pub answers_always: Option<Code>,
    /// Set to answer before a submission returns.
    pub answers_at_once: bool,
    /// Set to keep answers back.
    pub keeps_answers: bool,
    pub kept: Vec<(Verdict, Done)>,
    /// Digests whose content panics, fails, and how often content was asked for.
    pub content_panics: HashSet<Digest>,
    pub content_fails: HashSet<Digest>,
    pub looks: u64,
    pub collection_unknown: bool,
    pub submit_panics: u32,
    pub submit_forgets: u32,
    pub policy_panics: u32,
    /// Assets that ended in the ledger.
    pub ended: HashSet<u64>,
}

/// A ledger as far as verdicts go.
pub struct Host {
    pub state: Mutex<HostState>,
}

impl Host {
    pub fn new(policy: Policy) -> Arc<Host> {
        let ledger_policy_version = policy.version;
        let state = HostState {
            policy,
            ledger_policy_version,
            ..HostState::default()
        };
        Arc::new(Host {
            state: Mutex::new(state),
        })
    }

    pub fn verdict(&self, asset: u64) -> Option<Verdict> {
        self.state
            .lock()
            .unwrap()
            .verdicts
            .get(&(asset, 1))
            .cloned()
    }

    pub fn verdicts(&self) -> usize {
        self.state.lock().unwrap().verdicts.len()
    }

    pub fn change(&self, change: impl FnOnce(&mut HostState)) {
        change(&mut self.state.lock().unwrap());
    }

    fn apply(state: &mut HostState, verdict: Verdict) -> Code {
        let version = (verdict.asset, verdict.version);
        if state.verdicts.contains_key(&version) {
            return Code::VerdictVoid;
        }
        if verdict.policy_version != state.ledger_policy_version {
            return Code::StalePolicy;
        }
        state.verdicts.insert(version, verdict);
        Code::Accepted
    }

    /// Answers everything that was kept back.
    pub fn answer_kept(&self) {
        let kept = std::mem::take(&mut self.state.lock().unwrap().kept);
        for (verdict, done) in kept {
            let code = Host::apply(&mut self.state.lock().unwrap(), verdict);
            done(code);
        }
    }
}

impl AgentHost for Host {
    fn content(&self, digest: &Digest) -> Result<Option<Bytes>, String> {
        let mut state = self.state.lock().unwrap();
        state.looks += 1;
        if state.content_fails.contains(digest) {
            return Err("pack 3 is damaged at offset 17".into());
        }
        let panics = state.content_panics.contains(digest);
        let bytes = state.content.get(digest).cloned();
        drop(state);
        assert!(!panics, "a content store that breaks down");
        Ok(bytes)
    }

    fn collection(&self, id: u32) -> Option<Arc<CollectionSpec>> {
        let unknown = self.state.lock().unwrap().collection_unknown;
        (id == COLLECTION && !unknown).then(|| Arc::new(collection()))
    }

    fn still_has(&self, collection: u32, asset: u64, _: u32) -> bool {
        collection == COLLECTION && !self.state.lock().unwrap().ended.contains(&asset)
    }

    fn policy(&self) -> Arc<Policy> {
        let mut state = self.state.lock().unwrap();
        let panics = state.policy_panics > 0;
        state.policy_panics = state.policy_panics.saturating_sub(1);
        let policy = Arc::new(state.policy.clone());
        drop(state);
        assert!(!panics, "a host that breaks down");
        policy
    }

    fn submit(&self, verdict: Verdict, done: Done) {
        let mut state = self.state.lock().unwrap();
        state.submitted += 1;
        if state.submit_panics > 0 {
            state.submit_panics -= 1;
            drop(state);
            panic!("a host that breaks down");
        }
        if state.submit_forgets > 0 {
            state.submit_forgets -= 1;
            return;
        }
        if state.keeps_answers {
            state.kept.push((verdict, done));
            return;
        }
        let refused = state.answers.pop_front().or(state.answers_always);
        let code = refused.unwrap_or_else(|| Host::apply(&mut state, verdict));
        let at_once = state.answers_at_once;
        drop(state);
        if at_once {
            return done(code);
        }
        // As an engine does: from another thread.
        std::thread::spawn(move || done(code));
    }
}

/// Waits for something that must happen; minutes are for machines that do something else meanwhile.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// No re-execution, quick waits.
pub fn config() -> AgentsConfig {
    AgentsConfig {
        look_again_ms: 1,
        submit_again_ms: 1,
        submit_again_ms_max: 20,
        ..AgentsConfig::default()
    }
}

pub fn quiet_policy() -> Policy {
    Policy {
        reexecution_sample_ppm: 0,
        ..Policy::default()
    }
}

pub fn codes(verdict: &Verdict) -> Vec<FindingCode> {
    verdict
        .findings
        .iter()
        .filter_map(|finding| FindingCode::from_number(finding.code))
        .collect()
}
