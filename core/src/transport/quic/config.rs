//! The limits of a QUIC connection, each with a reason; none is left to a default that nobody chose.

use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::mux::MuxConfig;

/// Streams that a client may have open at a time, the lane included. Each costs both sides memory from the handshake on, used or not; calls above
/// it share the lane.
pub(crate) const STREAMS_MAX: u32 = 128;
/// Bytes that were handed over and that the peer has not acknowledged yet, over all streams: what a peer that reads nothing can make this side hold
/// beside the mux.
pub(super) const SEND_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The round trip that is assumed until one was measured: a lost first packet is sent again after about three times as long, which has to lie well
/// within the connect time-out of 1 s.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Time that an acknowledgement may wait for company. A sender waits as much longer until it takes the last packet of a burst for lost.
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
/// The largest datagram that is tried: what fits into frames of Ethernet, and, where the path has them, of 9,000 bytes. Ten of them are handed to the
/// system at once, which takes no more than 65,507 bytes.
const DATAGRAM_BYTES_MAX: u16 = 6_500;
/// Handshakes that wait to be looked at by their listener.
pub(super) const INCOMING_MAX: usize = 1_024;
/// Bytes that one of them may send meanwhile: its first flight, with a large client certificate.
const INCOMING_BYTES_MAX: u64 = 32 * 1024;
/// Bytes that all of them may send together.
const INCOMING_BYTES_MAX_TOTAL: u64 = 8 * 1024 * 1024;
/// How long an address that was validated by a retry may take to come back.
const RETRY_TOKEN_LIFETIME: Duration = Duration::from_secs(5);

/// Which streams a side accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts {
    /// A server: bidirectional ones.
    Streams,
    /// A client: none.
    Nothing,
}

pub(super) fn transport(limits: &MuxConfig, accepts: Accepts) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let streams = match accepts {
        Accepts::Streams => STREAMS_MAX,
        Accepts::Nothing => 0,
    };
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency.max_ack_delay(Some(ACK_DELAY_MAX));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // The mux's credit bounds what a stream may send, and all of them together. There is room for that and what goes with it: only one of the two windows
        // ever holds up a sender, and a stream that is not read for a while, because its answers are not taken, takes nothing from the others.
        .stream_receive_window(VarInt::from_u32(limits.stream_window.saturating_mul(2)))
        .receive_window(VarInt::from_u32(limits.connection_window.saturating_mul(3)))
        .send_window(SEND_BYTES_MAX)
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(ack_frequency))
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(limits.keepalive_interval)
        .max_idle_timeout(silence_max(limits));
    Arc::new(config)
}

/// The silence after which the peer is taken for dead.
fn silence_max(limits: &MuxConfig) -> Option<IdleTimeout> {
    let longest = match limits.keepalive_interval {
        Some(interval) => interval.saturating_add(limits.keepalive_timeout),
        // Nobody asks, so silence says nothing until the connection would be closed for it.
        None => limits.idle_timeout?,
    };
    // A time that QUIC has no number for is as good as none.
    longest.try_into().ok()
}

pub(super) fn endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // Out of range it cannot be: the bounds are 1,200 and 65,527.
    let _in_range = config.max_udp_payload_size(DATAGRAM_BYTES_MAX);
    config
}

pub(super) fn server(
    crypto: quinn::crypto::rustls::QuicServerConfig,
    transport: Arc<TransportConfig>,
) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(transport)
        .migration(true)
        .retry_token_lifetime(RETRY_TOKEN_LIFETIME)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX_TOTAL);
    config
}

#[cfg(test)]
mod tests {
    use super::{DATAGRAM_BYTES_MAX, endpoint};

    #[test]
    fn ten_datagrams_fit_into_one_hand_over() {
        assert!(usize::from(DATAGRAM_BYTES_MAX) * 10 <= 65_507);
        assert_eq!(endpoint().get_max_udp_payload_size(), u64::from(DATAGRAM_BYTES_MAX));
    }
}
