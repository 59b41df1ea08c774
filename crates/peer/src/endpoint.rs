//! Where a replica listens, and from where it calls: one UDP socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use iroh::endpoint::{IdleTimeout, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, SecretKey, TransportAddr};
use larder_format::ReplicaKey;
use larder_format::peer::PROTOCOL;
use larder_model::ReplicaId;

use crate::error::{PeerError, Result};

/// Requests that one side may have under way at the other.
pub(crate) const STREAMS: u32 = 8;
const WINDOW_BYTES: u32 = 8 << 20;
/// A connection of which nothing was heard for so long is over.
const IDLE: Duration = Duration::from_secs(15);
const SIGN_OF_LIFE: Duration = Duration::from_secs(4);

/// Where to listen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Listen {
    /// On all networks of this machine, on the port of the last time.
    #[default]
    Everywhere,
    /// There only.
    On(SocketAddr),
}

/// The endpoint of a replica: its id is the replica's. `port`: that of the last time.
///
/// # Errors
/// If nothing can listen there.
pub(crate) async fn bind(
    replica: &ReplicaKey,
    listen: Listen,
    port: Option<u16>,
) -> Result<Endpoint> {
    let key = SecretKey::from_bytes(replica.seed());
    match listen {
        Listen::On(address) => bind_on(key, address).await,
        Listen::Everywhere => {
            let everywhere = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
            if let Some(port) = port
                && let Ok(endpoint) = bind_on(key.clone(), everywhere(port)).await
            {
                return Ok(endpoint);
            }
            bind_on(key, everywhere(0)).await
        }
    }
}

/// An endpoint for one call, as a stranger.
///
/// # Errors
/// If it cannot be had.
pub(crate) async fn bind_for_a_call() -> Result<Endpoint> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| PeerError::NoRandomness)?;
    let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    bind_on(SecretKey::from_bytes(&seed), anywhere).await
}

async fn bind_on(key: SecretKey, address: SocketAddr) -> Result<Endpoint> {
    let failed = |error: String| PeerError::Listen(address, error);
    let window = VarInt::from_u32(WINDOW_BYTES);
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(WINDOW_BYTES.into())
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(SIGN_OF_LIFE)
        .datagram_receive_buffer_size(None)
        .build();
    // The minimal preset: no relay, no lookup, nothing outside is asked.
    Endpoint::builder(presets::Minimal)
        .secret_key(key)
        .alpns(vec![PROTOCOL.to_vec()])
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr(address)
        .map_err(|error| failed(error.to_string()))?
        .bind()
        .await
        .map_err(|error| failed(format!("{error:#}")))
}

/// The port that it listens on.
pub(crate) fn port(endpoint: &Endpoint) -> Option<u16> {
    endpoint.bound_sockets().first().map(SocketAddr::port)
}

/// Where others reach it, as far as is known: those on this machine last.
pub(crate) fn addresses(endpoint: &Endpoint) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = endpoint.addr().ip_addrs().copied().collect();
    let bound = endpoint.bound_sockets();
    found.extend(bound.iter().filter(|at| !at.ip().is_unspecified()));
    if found.is_empty() {
        let here = |at: &SocketAddr| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), at.port());
        found.extend(bound.iter().map(here));
    }
    found.sort_by_key(|at| (at.ip().is_loopback(), *at));
    found.dedup();
    found
}

/// A replica at these addresses, as the endpoint knows it.
///
/// # Errors
/// If the id is no public key.
pub(crate) fn address_of(replica: ReplicaId, addresses: &[SocketAddr]) -> Result<EndpointAddr> {
    let id = EndpointId::from_bytes(replica.as_bytes())
        .map_err(|_| PeerError::Protocol("its id is no public key"))?;
    let addresses = addresses.iter().copied().map(TransportAddr::Ip);
    Ok(EndpointAddr::from_parts(id, addresses))
}
