//! Findings by number: what an agent saw, what its `measure` means and what it leads to.
//!
//! Numbers are never reused; a retired one keeps its line. 100-199 integrity, 200-299 policy, 300-399 parity,
//! 400-499 re-execution, 500-599 similarity, 900-999 the inspection itself, under the agent that was at work.

use karat_proto::command::{AgentKind, Finding};

/// What a finding leads to by itself. A verdict follows its gravest finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consequence {
    /// Nothing: it is written down.
    Note,
    /// People must look.
    Review,
    /// The asset is rejected.
    Reject,
}

macro_rules! findings {
    ($($name:ident = $number:literal, $consequence:ident, $measure:literal, $sentence:literal;)*) => {
        /// Every kind of finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum FindingCode {
            $(#[doc = $sentence] #[doc = concat!("Measure: ", $measure, ".")] $name = $number,)*
        }

        impl FindingCode {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [FindingCode] = &[$(FindingCode::$name),*];

            /// The kind with this number.
            pub fn from_number(number: u16) -> Option<FindingCode> {
                match number {
                    $($number => Some(FindingCode::$name),)*
                    _ => None,
                }
            }

            /// The name, as it stands in metrics, JSON and documents.
            pub fn name(self) -> &'static str {
                match self {
                    $(FindingCode::$name => stringify!($name),)*
                }
            }

            /// What `measure` means.
            pub fn measure(self) -> &'static str {
                match self {
                    $(FindingCode::$name => $measure,)*
                }
            }

            /// A sentence for people.
            pub fn sentence(self) -> &'static str {
                match self {
                    $(FindingCode::$name => $sentence,)*
                }
            }

            /// What it leads to.
            pub fn consequence(self) -> Consequence {
                match self {
                    $(FindingCode::$name => Consequence::$consequence,)*
                }
            }
        }
    };
}

findings! {
    ContentMissing = 101, Review, "how often it was looked for", "The content is not in the content store.";
    ContentUnreadable = 102, Review, "how often it was read", "The content store cannot read the content.";
    SizeMismatch = 103, Reject, "bytes found", "The content is not as long as the command says.";
    DigestMismatch = 104, Reject, "first 32 bits of the digest found", "The content has another digest than the command names.";
    NotPng = 105, Reject, "bytes of content", "The content is not a PNG.";
    PngTruncated = 106, Reject, "byte at which it ends", "The PNG ends early.";
    PngTooLarge = 107, Reject, "bytes, or pixels of the longer side", "The PNG is larger than allowed.";
    PngFormat = 108, Reject, "colour type * 65536 + bit depth * 256 + interlace", "The PNG is not 8-bit RGB without interlace.";
    PngChunk = 109, Reject, "byte at which the chunk starts", "The PNG holds a chunk that could change what is shown.";
    PngBomb = 110, Reject, "bytes that its header asks for", "The PNG inflates to more than its image.";
    PngDamaged = 111, Reject, "bytes of content", "The PNG is damaged.";
    WrongDimensions = 112, Reject, "width * 65536 + height", "The image has another size than the models make.";
    LineageHashMismatch = 113, Reject, "parent version", "The lineage hash does not follow from the lineage.";

    CollectionUnknown = 201, Review, "collection", "The collection is not known to the agents.";
    TraitCount = 202, Reject, "traits found", "The asset has not one value for each trait of its collection.";
    TraitValue = 203, Reject, "trait index", "A trait has a value that its collection does not have.";
    TraitsExcluded = 204, Reject, "place in the collection's list of exclusions", "Two values meet that exclude each other.";
    ValueNeverDrawn = 205, Review, "trait index", "A trait has a value of weight 0, which no draw gives.";

    CorruptionHigh = 301, Reject, "corruption score, parts per million", "The auditor takes the image for corrupt.";
    CorruptionUnsure = 302, Review, "corruption score, parts per million", "The auditor is not sure that the image is sound.";
    TraitContradicted = 303, Reject, "trait index * 16777216 + confidence in parts per million", "The auditor is sure that the image shows another trait value.";
    TraitDoubtful = 304, Review, "trait index * 16777216 + confidence in parts per million", "The auditor reads another trait value, but is not sure.";
    TraitsUnreadable = 305, Review, "how many traits", "The auditor does not know some of the collection's traits or values.";
    AuditorFailed = 306, Review, "0", "The auditor could not score this image.";
    AuditorUnavailable = 307, Review, "how often it was tried", "The auditor cannot be loaded.";
    TraitUnclear = 308, Note, "trait index * 16777216 + confidence in parts per million", "The auditor reads another trait value, but so unsurely that it says nothing.";

    PixelsReproduced = 401, Note, "0", "Generated again from lineage: the very same file.";
    NotReexecutable = 402, Note, "1 model not at hand, 2 variant unknown, 3 traits outside the model's vocabulary", "It could not be generated again here.";
    ExactMismatch = 403, Reject, "pixels that differ; 4294967295 when the sizes do", "An exact variant makes another image from this lineage.";
    WithinTolerance = 404, Note, "mean difference of a sample, thousandths of a step of 255", "Generated again from lineage: the same image within the tolerance.";
    BeyondTolerance = 405, Review, "mean difference of a sample, thousandths of a step of 255", "Generated again from lineage: another image than this.";
    OtherEncoding = 406, Review, "bytes of the file made again", "Generated again from lineage: the same pixels in another file.";
    GenerationFailed = 407, Review, "0", "The model refuses or fails to generate from this lineage.";

    NearDuplicate = 501, Review, "distance of the embeddings, millionths of a deviation", "Another asset of the collection looks almost the same.";
    ContentDouble = 502, Review, "the other asset's number, its low 32 bits", "Another asset of the collection has the very same content.";
    LikeAsset = 503, Note, "the other asset's number, its low 32 bits", "The asset that it looks like.";
    CollectionDrifted = 511, Review, "drift of the last window, millionths", "What the collection's assets look like has drifted further than the policy allows.";

    AgentPanicked = 901, Review, "how often", "The agent broke down on this asset.";
    AgentStalled = 902, Review, "how often", "The agent did not come to an end with this asset.";
}

impl FindingCode {
    /// The finding itself.
    pub fn by(self, agent: AgentKind, measure: u32) -> Finding {
        Finding {
            agent,
            code: self as u16,
            measure,
        }
    }
}

/// What a finding leads to; an unknown number (from a newer build) leads to people.
pub fn consequence_of(finding: &Finding) -> Consequence {
    FindingCode::from_number(finding.code).map_or(Consequence::Review, FindingCode::consequence)
}

/// One line for people: agent, number, name, sentence and measure.
pub fn describe(finding: &Finding) -> String {
    let agent = agent_name(finding.agent);
    match FindingCode::from_number(finding.code) {
        Some(code) => format!(
            "{agent} {} {}: {} ({}: {})",
            finding.code,
            code.name(),
            code.sentence(),
            code.measure(),
            finding.measure
        ),
        None => format!(
            "{agent} {}: not known to this build (measure: {})",
            finding.code, finding.measure
        ),
    }
}

/// The agent's name, as it stands in metrics, JSON and documents.
pub fn agent_name(agent: AgentKind) -> &'static str {
    match agent {
        AgentKind::Integrity => "integrity",
        AgentKind::Policy => "policy",
        AgentKind::Parity => "parity",
        AgentKind::ReExecution => "re-execution",
        AgentKind::Similarity => "similarity",
    }
}

/// `measure` of [`FindingCode::TraitContradicted`], [`FindingCode::TraitDoubtful`] and [`FindingCode::TraitUnclear`].
pub fn trait_measure(trait_index: usize, confidence_ppm: u32) -> u32 {
    // A million takes 20 bits; an index below 256 takes the upper 8.
    (trait_index.min(255) as u32) << 24 | confidence_ppm.min(karat_proto::limits::PPM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_back_to_its_kind_and_has_words() {
        for code in FindingCode::ALL {
            assert_eq!(FindingCode::from_number(*code as u16), Some(*code));
            assert!(!code.measure().is_empty() && code.sentence().ends_with('.'));
        }
        let numbers: Vec<u16> = FindingCode::ALL.iter().map(|code| *code as u16).collect();
        assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn an_unknown_number_goes_to_people_and_is_still_printed() {
        let finding = Finding {
            agent: AgentKind::Parity,
            code: 399,
            measure: 7,
        };
        assert_eq!(consequence_of(&finding), Consequence::Review);
        assert!(describe(&finding).contains("399"));
    }

    #[test]
    fn trait_and_confidence_share_a_measure_without_touching() {
        let measure = trait_measure(15, 1_000_000);
        assert_eq!((measure >> 24, measure & 0x00ff_ffff), (15, 1_000_000));
    }
}
