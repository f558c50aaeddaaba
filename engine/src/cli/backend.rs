//! Where a command's answers come from: a running engine, or a data folder that nobody runs.

use karat_proto::limits;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use tonic::transport::{Channel, Endpoint};

use super::{CliError, Common};
use crate::data_folder::DataFolder;
use crate::service::{Mode, Service};

/// Clients of one engine.
pub struct Backend {
    /// The Ledger service.
    pub ledger: LedgerClient<Channel>,
    /// The Operator service.
    pub operator: OperatorClient<Channel>,
    /// Kept open while a folder is read.
    _reading: Option<Service>,
}

impl Backend {
    /// Connects to `--server`; with `--data`, opens that folder for reading in this process instead.
    ///
    /// # Errors
    /// When the engine cannot be reached or the folder not be opened.
    pub async fn open(common: &Common) -> Result<Backend, CliError> {
        let Some(dir) = &common.data else {
            return Backend::connect(&common.server, None).await;
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
        Backend::connect(&address, Some(service)).await
    }

    async fn connect(server: &str, reading: Option<Service>) -> Result<Backend, CliError> {
        let endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(|error| CliError::Usage(format!("--server {server}: {error}")))?
            .connect_timeout(std::time::Duration::from_secs(5));
        let channel = endpoint.connect().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(" ({cause})"));
            CliError::Unreachable(format!(
                "no engine answers at {server}{cause}; start one with `karat dev` or `karat serve`, name another with \
                 --server, or read a folder with --data"
            ))
        })?;
        Ok(Backend {
            ledger: LedgerClient::new(channel.clone())
                .max_decoding_message_size(limits::MESSAGE_BYTES_MAX),
            operator: OperatorClient::new(channel),
            _reading: reading,
        })
    }
}
