//! Where a command's answers come from: a running engine, or a data folder that nobody runs.

use karat_proto::limits;
use karat_proto::v1::host_client::HostClient;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::{CliError, Common};
use crate::data_folder::DataFolder;
use crate::service::{Mode, Service};

/// A channel whose requests name their realm.
pub type ToRealm = InterceptedService<Channel, RealmName>;

/// The realm that requests name, if any.
#[derive(Clone)]
pub struct RealmName(Option<MetadataValue<Ascii>>);

impl Interceptor for RealmName {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(name) = &self.0 {
            request.metadata_mut().insert("karat-realm", name.clone());
        }
        Ok(request)
    }
}

/// Clients of one engine.
pub struct Backend {
    /// The Ledger service.
    pub ledger: LedgerClient<ToRealm>,
    /// The Operator service.
    pub operator: OperatorClient<ToRealm>,
    /// The Host service, which a single engine does not have.
    pub host: HostClient<Channel>,
    /// Kept open while a folder is read.
    _reading: Option<Service>,
}

impl Backend {
    /// Connects to `--server`; with `--data`, opens that folder for reading in this process instead.
    ///
    /// # Errors
    /// When the engine cannot be reached or the folder not be opened.
    pub async fn open(common: &Common) -> Result<Backend, CliError> {
        let realm = match &common.realm {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| {
                CliError::Usage(format!("--realm {name}: a realm's name is letters, digits, dots, hyphens and underscores"))
            })?),
        };
        let realm = RealmName(realm);
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
        realm: RealmName,
        reading: Option<Service>,
    ) -> Result<Backend, CliError> {
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
            ledger: LedgerClient::with_interceptor(channel.clone(), realm.clone())
                .max_decoding_message_size(limits::MESSAGE_BYTES_MAX),
            operator: OperatorClient::with_interceptor(channel.clone(), realm),
            host: HostClient::new(channel),
            _reading: reading,
        })
    }
}
