//! Finding others on the local network by mDNS, if the user wants that.
//!
//! Everyone there hears this replica's id and its addresses, and nothing else: neither of which
//! volume it is, nor how the machine is called. What is heard is believed by nobody: whoever has the
//! id of a member is called, and proves it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use iroh::{Endpoint, EndpointId};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use larder_model::ReplicaId;

use crate::Shared;
use crate::error::{PeerError, Result};

/// The service under which replicas are found.
const SERVICE: &str = "larder";
/// How often it is asked who is there, and looked which of them are members by now.
const CADENCE: Duration = Duration::from_secs(5);
/// So many that are there are remembered.
const MOST_HEARD: usize = 64;

/// Begins to tell and to hear. Must be called on a runtime.
///
/// # Errors
/// If the network does not let it.
pub(crate) fn begin(endpoint: &Endpoint) -> Result<MdnsAddressLookup> {
    let failed = |error: String| PeerError::LocalNetwork(error);
    let around = MdnsAddressLookup::builder()
        .service_name(SERVICE)
        .discovery_cadence(CADENCE)
        .build(endpoint.id())
        .map_err(|error| failed(format!("{error:#}")))?;
    let lookup = endpoint.address_lookup();
    lookup
        .map_err(|error| failed(format!("{error:#}")))?
        .add(around.clone());
    Ok(around)
}

/// Has members called that are heard, until all ends.
pub(crate) async fn listen(shared: Arc<Shared>, around: MdnsAddressLookup) {
    let mut events = around.subscribe().await;
    // Of each that is there, whether it was called.
    let mut there: BTreeMap<ReplicaId, bool> = BTreeMap::new();
    loop {
        match tokio::time::timeout(CADENCE, events.next()).await {
            Ok(None) => return,
            Ok(Some(DiscoveryEvent::Discovered { endpoint_info, .. })) => {
                if there.len() < MOST_HEARD {
                    there.insert(id_of(endpoint_info.endpoint_id), false);
                }
            }
            Ok(Some(DiscoveryEvent::Expired { endpoint_id })) => {
                there.remove(&id_of(endpoint_id));
            }
            // One may have become a member since it was heard.
            Ok(Some(_)) | Err(_) => {}
        }
        for (replica, called) in &mut there {
            if *called || shared.present.get(*replica).is_some() {
                continue;
            }
            *called = shared.is_member(*replica).await;
            if *called {
                tracing::debug!(%replica, "a member is on the local network");
                shared.heard.lock().insert(*replica);
                shared.bell.notify_one();
            }
        }
    }
}

fn id_of(endpoint: EndpointId) -> ReplicaId {
    ReplicaId(*endpoint.as_bytes())
}

impl Shared {
    /// Whether it was met before, or something of it is in the tree here.
    async fn is_member(self: &Arc<Self>, replica: ReplicaId) -> bool {
        let is_met = self.with_book(move |book| book.knows(replica)).await;
        if is_met == Some(true) {
            return true;
        }
        let included = self.with_volume(|volume| volume.included().ok()).await;
        included
            .flatten()
            .is_some_and(|clock| clock.get(&replica) > 0)
    }
}
