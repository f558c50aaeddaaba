//! The chain that a realm settles to: opened, funded, with the contract deployed once.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use karat_settlement::chain::client::{ChainError, Deployment};
use karat_settlement::chain::embedded::EmbeddedChainError;
use karat_settlement::chain::signer::{Signer, SignerError};
use karat_settlement::{ChainClient, EmbeddedChain, EmbeddedChainConfig, RpcTransport};
use thiserror::Error;

use crate::config::SettlementConfig;
use crate::data_folder::DataFolder;

/// What the embedded chain gives the settler: 10^24 wei, a million coins, enough for 10^11 batches at its lowest fee.
const FUNDED_WEI: u128 = 1_000_000_000_000_000_000_000_000;
/// How long a deployment may take; the embedded chain mines at once.
const DEPLOY_WAIT_MS: u64 = 30_000;

/// Why the chain is not there.
#[derive(Debug, Error)]
pub enum ChainSetupError {
    /// The settler's key.
    #[error("settler key {}: {reason}", path.display())]
    Key {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is none.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The embedded chain.
    #[error(transparent)]
    Embedded(#[from] EmbeddedChainError),
    /// The client.
    #[error(transparent)]
    Client(#[from] ChainError),
}

/// A chain with the settlement contract.
pub struct Chain {
    /// Speaks to the contract.
    pub client: ChainClient,
    /// The embedded chain itself, which is told when to mine empty blocks.
    pub embedded: Arc<EmbeddedChain>,
    /// Signs commits.
    pub signer: Signer,
}

impl Chain {
    /// Opens the embedded chain and deploys the contract if it is not there.
    ///
    /// # Errors
    /// When the folder is damaged or in use, or the deployment fails.
    pub async fn open(
        folder: &DataFolder,
        config: &SettlementConfig,
    ) -> Result<Chain, ChainSetupError> {
        let secret = load_or_make_key(&folder.submitter())?;
        let signer = Signer::from_bytes(&secret)?;
        // The contract's address follows from the deployer's first transaction, so its account does nothing else.
        let deployer =
            Signer::from_bytes(&blake3::derive_key("karat settlement deployer", &secret))?;
        let chain_config = EmbeddedChainConfig {
            chain_id: config.chain_id,
            funded: vec![
                (signer.address(), FUNDED_WEI),
                (deployer.address(), FUNDED_WEI),
            ],
            ..EmbeddedChainConfig::default()
        };
        let embedded = Arc::new(EmbeddedChain::open(&folder.chain(), chain_config)?);
        let transport: Arc<dyn RpcTransport> = embedded.clone();
        let deployment = Deployment {
            name: "Karat".into(),
            symbol: "KRT".into(),
            base_uri: "karat:asset/".into(),
            admin: deployer.address(),
            settler: signer.address(),
            royalty_receiver: deployer.address(),
            royalty_basis_points: 0,
        };
        let client =
            ChainClient::deploy_once(transport, &deployer, &deployment, DEPLOY_WAIT_MS).await?;
        Ok(Chain {
            client,
            embedded,
            signer,
        })
    }
}

/// The settler's key: made once from the system's randomness, readable by its owner only.
fn load_or_make_key(dir: &Path) -> Result<[u8; 32], ChainSetupError> {
    let path = dir.join("settler.key");
    let failed = |reason: String| ChainSetupError::Key {
        path: path.clone(),
        reason,
    };
    if let Ok(text) = fs::read_to_string(&path) {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key)
            .map_err(|_| failed("must hold 64 hex digits".into()))?;
        return Ok(key);
    }
    fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
    let key: [u8; 32] = rand::random();
    let partial = dir.join("settler.key.partial");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options
        .open(&partial)
        .map_err(|error| failed(error.to_string()))?;
    file.write_all(hex::encode(key).as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&partial, &path))
        .and_then(|()| fs::File::open(dir)?.sync_all())
        .map_err(|error| failed(error.to_string()))?;
    Ok(key)
}
