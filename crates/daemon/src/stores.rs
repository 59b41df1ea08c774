//! From settings and secrets to a store.

use std::path::Path;
use std::sync::Arc;

use larder_store::{Durability, Store, StoreOptions};

use crate::config::StoreConfig;
use crate::failure::Failure;
use crate::home::Replica;
use crate::secrets::{Secret, Secrets};

/// Whether the store's root is made if it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Made: a volume begins here.
    Made,
    /// Must be there: a missing root is a disk that is not mounted, or a wrong path.
    Expected,
}

/// The store that `config` names, with the secrets of `state_dir`. It is not reached yet.
///
/// # Errors
/// If the address or the secrets make no sense.
pub fn open(config: &StoreConfig, state_dir: &Path, root: Root) -> Result<Arc<dyn Store>, Failure> {
    let secrets = Secrets::load(state_dir, |name| std::env::var(name).ok())?;
    let options = options(config, secrets, root);
    larder_store::open(&config.address, &options).map_err(Failure::from)
}

fn options(config: &StoreConfig, secrets: Secrets, root: Root) -> StoreOptions {
    let mut options = StoreOptions::from_environment();
    options.create = root == Root::Made;
    options.sftp.identity.clone_from(&config.identity);
    options.sftp.known_hosts.clone_from(&config.known_hosts);
    options.sftp.accept_new = config.accept_new_host_key;
    let text = |secret: Option<Secret>| secret.map(|secret| secret.reveal().to_owned());
    let over = |slot: &mut Option<String>, value: Option<String>| {
        if value.is_some() {
            *slot = value;
        }
    };
    over(
        &mut options.s3.access_key_id,
        text(secrets.s3_access_key_id),
    );
    over(
        &mut options.s3.secret_access_key,
        text(secrets.s3_secret_access_key),
    );
    over(
        &mut options.s3.session_token,
        text(secrets.s3_session_token),
    );
    over(&mut options.webdav.user, text(secrets.webdav_user));
    over(&mut options.webdav.password, text(secrets.webdav_password));
    options
}

/// What trying a store out showed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoreCheck {
    /// The store's address.
    pub address: String,
    /// Whether all steps went well.
    pub works: bool,
    /// Whether what it acknowledged lies on its disk.
    pub synced: bool,
    /// What was tried, in order.
    pub steps: Vec<StepReport>,
}

/// One thing that was tried on a store.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// What.
    pub what: String,
    /// How long it took.
    pub took_secs: f64,
    /// What went wrong.
    pub failure: Option<String>,
}

/// Tries out the store of `replica` with a small object.
///
/// # Errors
/// If the settings or secrets make no sense.
pub async fn check_store(replica: &Replica) -> Result<StoreCheck, Failure> {
    let store = open(&replica.config.store, &replica.dir, Root::Expected)?;
    let check = larder_store::check(&store).await;
    let works = check.is_ok();
    let step = |step: larder_store::CheckStep| StepReport {
        what: step.what.to_owned(),
        took_secs: step.took.as_secs_f64(),
        failure: step.failure,
    };
    Ok(StoreCheck {
        address: check.address,
        works,
        synced: check.durability == Durability::Synced,
        steps: check.steps.into_iter().map(step).collect(),
    })
}
