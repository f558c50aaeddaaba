//! From findings to a verdict.

use karat_proto::command::{Decision, Finding, Policy, Verdict};
use karat_proto::limits::FINDINGS_MAX;

use crate::Job;
use crate::findings::{Consequence, consequence_of};

/// What the agents saw of one version of an asset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything found.
    pub findings: Vec<Finding>,
    /// The auditor's score, parts per million; 0 when there were no pixels to score, which a finding then says.
    pub corruption_ppm: u32,
}

/// The gravest finding decides. The policy's thresholds have become findings before ([`crate::findings`] 301 and 302).
pub fn decide(findings: &[Finding]) -> Decision {
    match findings.iter().map(consequence_of).max() {
        None | Some(Consequence::Note) => Decision::Accept,
        Some(Consequence::Review) => Decision::Review,
        Some(Consequence::Reject) => Decision::Reject,
    }
}

/// The verdict on a job. Keeps the gravest findings where there are more than a verdict may have.
pub fn verdict(job: &Job, policy: &Policy, report: Report) -> Verdict {
    let Report {
        mut findings,
        corruption_ppm,
    } = report;
    let decision = decide(&findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(consequence_of(finding)));
    findings.truncate(FINDINGS_MAX);
    Verdict {
        asset: job.asset,
        version: job.version,
        policy_version: policy.version,
        decision,
        corruption_ppm,
        findings,
    }
}
