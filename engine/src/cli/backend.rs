//! Where a command's answers come from: a running engine, or a data folder that nobody runs.

use std::time::Duration;

use karat_proto::limits;
use karat_proto::realm::{RealmChannel, RealmName};
use karat_proto::v1::host_client::HostClient;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use tonic::transport::{Endpoint, Error as TransportError};

use super::{CliError, Common};
use crate::data_folder::DataFolder;
use crate::service::{Mode, Service};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A realm that is looked for for longer is mentioned.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// Clients of one engine.
pub struct Backend {
    /// The Ledger service.
    pub ledger: LedgerClient<RealmChannel>,
    /// The Operator service.
    pub operator: OperatorClient<RealmChannel>,
    /// The Host service, which a single engine does not have.
    pub host: HostClient<RealmChannel>,
    /// Kept open while a folder is read.
    _reading: Option<Service>,
}

impl Backend {
    /// Connects to `--server`, and from there to where it says that the realm is; with `--data`, opens that folder for reading
    /// in this process instead.
    ///
    /// # Errors
    /// When the engine cannot be reached, the realm not be found, or the folder not be opened.
    pub async fn open(common: &Common) -> Result<Backend, CliError> {
        let realm = common.realm.clone();
        let Some(dir) = &common.data else {
            return Backend::connect(&common.server, realm, None).await;
        };
        let unreachable = |error: &dyn std::fmt::Display| CliError::Unreachable(error.to_string());
        let folder = DataFolder::open(dir).map_err(|error| unreachable(&error))?;
        let config = folder.noted_config().map_err(|error| unreachable(&error))?;
        let service = Service::start(config, Mode::ReadOnly)
            .await
            .map_err(|error| {
                CliError::Unreachable(format!(
                    "{error}; if an engine runs on the folder, leave --data out and use --server"
                ))
            })?;
        let address = format!("http://{}", service.address);
        Backend::connect(&address, realm, Some(service)).await
    }

    async fn connect(
        server: &str,
        realm: Option<RealmName>,
        reading: Option<Service>,
    ) -> Result<Backend, CliError> {
        let channel = RealmChannel::new(realm, server, endpoint)
            .map_err(|error| CliError::Usage(format!("--server {server}: {error}")))?;
        channel.connect().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(" ({cause})"));
            CliError::Unreachable(format!(
                "no engine answers at {server}{cause}; start one with `karat dev` or `karat serve`, name another with \
                 --server, or read a folder with --data"
            ))
        })?;
        find(&channel).await?;
        Ok(Backend {
            ledger: LedgerClient::new(channel.clone())
                .max_decoding_message_size(limits::MESSAGE_BYTES_MAX),
            operator: OperatorClient::new(channel.clone()),
            host: HostClient::new(channel),
            _reading: reading,
        })
    }
}

fn endpoint(address: &str) -> Result<Endpoint, TransportError> {
    Ok(Endpoint::from_shared(address.to_owned())?.connect_timeout(CONNECT_TIMEOUT))
}

/// Goes to where the realm is, and says so when that takes its time.
async fn find(channel: &RealmChannel) -> Result<(), CliError> {
    let mut found = std::pin::pin!(channel.find());
    tokio::select! {
        found = &mut found => return Ok(found?),
        () = tokio::time::sleep(SAID_AFTER) => {
            eprintln!("karat: the realm is not led anywhere at the moment; waiting for it");
        }
    }
    Ok(found.await?)
}
