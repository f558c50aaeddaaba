//! Deploying the contract, and what its administrator may change.

use std::sync::Arc;

use ethers_core::abi::{AbiEncode, Tokenizable};
use ethers_core::types::{Address, U256};

use super::{ChainClient, ChainError, Deployment, Receipt};
use crate::chain::contract;
use crate::chain::hexadecimal::data;
use crate::chain::signer::Signer;
use crate::chain::transport::RpcTransport;

impl ChainClient {
    /// Deploys the contract from `deployer`'s account and waits for it to be mined.
    ///
    /// Not repeatable by itself: see [`ChainClient::deploy_once`] for a start-up that may crash.
    pub async fn deploy(
        transport: Arc<dyn RpcTransport>,
        deployer: &Signer,
        deployment: &Deployment,
        wait_ms: u64,
    ) -> Result<(Self, Receipt), ChainError> {
        let client = Self::unconnected(transport, [0; 20]).await?;
        let signed = client
            .sign_next(deployer, None, creation_code(deployment))
            .await?;
        client.send_raw(&signed.raw).await?;
        let receipt = client
            .wait_for_receipt("deployment", &signed.hash, wait_ms)
            .await?;
        let contract = receipt.created.ok_or_else(|| ChainError::Failed {
            call: "deployment",
            transaction: data(signed.hash),
            block: receipt.block,
        })?;
        Ok((Self { contract, ..client }, receipt))
    }

    /// The contract that `deployer`'s first transaction creates: deployed now if its account has sent
    /// nothing yet, found again otherwise. Safe to repeat after a crash at any point; the account must be
    /// used for nothing else before.
    pub async fn deploy_once(
        transport: Arc<dyn RpcTransport>,
        deployer: &Signer,
        deployment: &Deployment,
        wait_ms: u64,
    ) -> Result<Self, ChainError> {
        let address =
            ethers_core::utils::get_contract_address(Address::from(deployer.address()), 0).0;
        match Self::connect(transport.clone(), address).await {
            Err(ChainError::NoContract { .. }) => {
                let (client, _) = Self::deploy(transport, deployer, deployment, wait_ms).await?;
                if client.contract == address {
                    Ok(client)
                } else {
                    Err(ChainError::NoContract {
                        address: data(address),
                        chain_id: client.chain_id,
                    })
                }
            }
            found => found,
        }
    }

    /// Stops commits and redemptions, or lets them go on. `admin` needs the pauser's role.
    pub async fn set_paused(
        &self,
        admin: &Signer,
        paused: bool,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        if paused {
            let call = contract::PauseCall.encode();
            self.send_call("pause", admin, call, wait_ms).await
        } else {
            let call = contract::UnpauseCall.encode();
            self.send_call("unpause", admin, call, wait_ms).await
        }
    }

    /// Sets every token's royalty. `admin` needs the admin's role.
    pub async fn set_default_royalty(
        &self,
        admin: &Signer,
        receiver: [u8; 20],
        basis_points: u16,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        let call = contract::SetDefaultRoyaltyCall {
            receiver: receiver.into(),
            basis_points: basis_points.into(),
        };
        self.send_call("setDefaultRoyalty", admin, call.encode(), wait_ms)
            .await
    }

    /// Moves every token's metadata to another prefix. `admin` needs the admin's role.
    pub async fn set_base_uri(
        &self,
        admin: &Signer,
        base_uri: &str,
        wait_ms: u64,
    ) -> Result<Receipt, ChainError> {
        let call = contract::SetBaseURICall {
            base_uri: base_uri.to_owned(),
        };
        self.send_call("setBaseURI", admin, call.encode(), wait_ms)
            .await
    }
}

/// Creation code with the constructor's arguments behind it.
fn creation_code(deployment: &Deployment) -> Vec<u8> {
    let mut code = contract::SETTLEMENTCONTRACT_BYTECODE.to_vec();
    let arguments = [
        deployment.name.clone().into_token(),
        deployment.symbol.clone().into_token(),
        deployment.base_uri.clone().into_token(),
        Address::from(deployment.admin).into_token(),
        Address::from(deployment.settler).into_token(),
        Address::from(deployment.royalty_receiver).into_token(),
        U256::from(deployment.royalty_basis_points).into_token(),
    ];
    code.extend_from_slice(&ethers_core::abi::encode(&arguments));
    code
}
