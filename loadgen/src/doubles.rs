//! A run whose assets are to be accepted: all of them have one image, and a target that compares assets of a collection
//! would send all but the first to people.

use karat_proto::realm::RealmChannel;
use karat_proto::v1;
use karat_proto::v1::operator_client::OperatorClient;

use crate::error::LoadError;

const STEP: &str = "let assets with the same image pass";

/// Switches the comparison off in the target's policy, and says so.
pub(crate) async fn let_pass(channel: &RealmChannel) -> Result<(), LoadError> {
    let failed = |cause: String| LoadError::Setup { step: STEP, cause };
    let mut operator = OperatorClient::new(channel.clone());
    let asked = channel.ask(|| {
        let mut operator = operator.clone();
        async move { operator.get_policy(v1::GetPolicyRequest {}).await }
    });
    let policy = match asked.await {
        Ok(answer) => answer.into_inner().policy.unwrap_or_default(),
        // A target without policies compares nothing.
        Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(()),
        Err(status) => return Err(LoadError::in_setup(STEP, &status)),
    };
    if policy.near_duplicate_below_ppm == 0 {
        return Ok(());
    }
    let was = policy.near_duplicate_below_ppm;
    let changed = v1::Policy {
        version: policy.version + 1,
        near_duplicate_below_ppm: 0,
        ..policy
    };
    let request = v1::SetPolicyRequest {
        policy: Some(changed),
    };
    let outcome = operator
        .set_policy(request)
        .await
        .map_err(|status| LoadError::in_setup(STEP, &status))?
        .into_inner()
        .outcome
        .unwrap_or_default();
    if outcome.code != 0 {
        return Err(failed(outcome.message));
    }
    eprintln!(
        "every asset of this run has the same image: the target no longer looks for near-duplicates (it did below {was} \
         ppm; `karat realm set-policy --near-duplicate-below-ppm {was}` brings that back)"
    );
    Ok(())
}
