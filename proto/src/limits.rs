//! Sizes and counts that both sides share. They are checked at the door and nowhere else.

/// Newest command format this build understands (`Command.format`).
pub const COMMAND_FORMAT: u32 = 1;
/// Most public keys whose signatures a policy takes.
pub const MODEL_KEYS_MAX: usize = 16;
/// Most commands in one `SubmitRequest`.
pub const REQUEST_COMMANDS_MAX: usize = 1024;
/// Most encoded bytes of one command as it is logged (content excluded).
pub const COMMAND_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of an asset's content.
pub const CONTENT_BYTES_MAX: usize = 512 * 1024;
/// Largest width or height of an asset's image, pixels.
pub const IMAGE_SIDE_MAX: u32 = 1024;
/// Most bytes of one gRPC message that is received.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Realms of a group of hosts.
pub const HOST_REALMS_MAX: usize = 1024;
/// Most traits of a collection.
pub const TRAITS_MAX: usize = 16;
/// Most values of one trait.
pub const TRAIT_VALUES_MAX: usize = 64;
/// Most excluded pairs of a collection.
pub const EXCLUSIONS_MAX: usize = 256;
/// Most caps on single trait values of a collection.
pub const VALUE_CAPS_MAX: usize = 256;
/// Most legs of an exchange.
pub const EXCHANGE_LEGS_MAX: usize = 64;
/// Most findings of a verdict.
pub const FINDINGS_MAX: usize = 16;
/// Most bytes of a name (collection, model, variant, realm).
pub const NAME_BYTES_MAX: usize = 64;
/// Most bytes of a free text (reason, reference).
pub const TEXT_BYTES_MAX: usize = 256;
/// Most changes in one settlement batch.
pub const BATCH_CHANGES_MAX: u32 = 65_536;
/// Most claims that can wait in one window of a fair draw.
pub const CLAIMS_A_WINDOW_MAX: usize = 4096;
/// Most rows in one page of a list.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Largest royalty, basis points.
pub const ROYALTY_BASIS_POINTS_MAX: u32 = 10_000;
/// Largest distance of embeddings and largest drift that a policy can name, parts per million of a reference deviation:
/// 16 deviations, far beyond where two images have anything in common.
pub const DISTANCE_PPM_MAX: u32 = 16_000_000;
/// Longest claim window, milliseconds: one day.
pub const CLAIM_WINDOW_MS_MAX: u64 = 86_400_000;
/// Parts per million that make a whole.
pub const PPM: u32 = 1_000_000;

// A full request of full commands must fit in one message together with one asset's content.
const _: () = assert!(CONTENT_BYTES_MAX + COMMAND_BYTES_MAX < MESSAGE_BYTES_MAX);
// Findings and exclusions index traits and values as bytes.
const _: () = assert!(TRAITS_MAX <= 255 && TRAIT_VALUES_MAX <= 255);
