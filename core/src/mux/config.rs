//! The limits of one side of a connection, each with a name, a default and a reason.

use std::time::Duration;

use super::Role;
use super::company::Company;
use super::lifecycle::PING_INTERVAL_HONOURED_MAX;
use crate::time::SETTING_MAX;
use crate::wire::frame::{CONNECTION_WINDOW_MIN, CREDIT_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, STREAM_WINDOW_MIN};
use crate::wire::hello::Hello;

/// What one side accepts and how it watches the other; announced in HELLO where the peer must know.
///
/// Durations are more than zero and at most 365 days.
#[derive(Clone, Debug)]
pub struct MuxConfig {
    /// Payload of a frame, in bytes (default 1 MiB and 64 KiB, 32 KiB to 16 MiB less one byte).
    ///
    /// A frame under way holds up what comes after it. A sender of this library fills more than 128 KiB only while no other stream is open.
    pub max_frame: usize,
    /// First credit of a stream, in bytes (default 1 MiB and 64 KiB, 64 KiB to 2 GiB less one byte).
    ///
    /// The default lets a message of 1 MiB leave without waiting for credit. A slow reader holds up to this much.
    pub stream_window: u32,
    /// First credit of the connection, in bytes (default 16 MiB, 1 MiB to 2 GiB less one byte): what unread streams may hold together.
    pub connection_window: u32,
    /// Streams open at a time (default 1,024, at least 1).
    pub max_streams: u32,
    /// One message, in bytes (default 4 MiB, 1 to 2 GiB less two bytes).
    pub max_message: usize,
    /// Metadata of one head, in bytes (default 16 KiB, 256 bytes to 32 KiB).
    pub max_head: usize,
    /// Incomplete messages of all streams together, in bytes (default 64 MiB, at least `max_message`).
    pub assembly_bytes_max: usize,
    /// Silence with calls open after which a ping is sent (default 10 s), but not before the time that the peer asks for in its HELLO.
    /// Over QUIC, with and without calls: it keeps the way through routers open. `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// Time that the peer has to answer a ping (default 5 s).
    pub keepalive_timeout: Duration,
    /// Pings of the peer closer together count against it (default 5 s, at most 5 min); it is told in HELLO.
    pub ping_interval_min: Duration,
    /// Time that the peer has for preface and HELLO (default 10 s).
    pub handshake_timeout: Duration,
    /// Time without streams after which the connection closes (default 30 min). `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Client: how often its servers may report their load, in answers that they give anyway; it is told in HELLO. `None` (the default): never. The channels of
    /// services set it themselves.
    pub load_interval: Option<Duration>,
}

/// Rest after which a server closes a stream that carries one call at a time. A client does so sooner.
const EXCLUSIVE_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for MuxConfig {
    fn default() -> Self {
        Self {
            max_frame: 1024 * 1024 + 64 * 1024,
            stream_window: 1024 * 1024 + 64 * 1024,
            connection_window: 16 * 1024 * 1024,
            max_streams: 1_024,
            max_message: 4 * 1024 * 1024,
            max_head: 16 * 1024,
            assembly_bytes_max: 64 * 1024 * 1024,
            keepalive_interval: Some(Duration::from_secs(10)),
            keepalive_timeout: Duration::from_secs(5),
            ping_interval_min: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_mins(30)),
            load_interval: None,
        }
    }
}

/// A limit outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}; it must be {range}")]
pub struct ConfigError {
    /// The name of the setting.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}

impl ConfigError {
    /// An error that names the setting, its value and its range.
    pub fn new(field: &'static str, value: impl ToString, range: &'static str) -> Self {
        Self {
            field,
            value: value.to_string(),
            range,
        }
    }
}

/// Checks a time that is to be waited.
///
/// # Errors
/// [`ConfigError`] if it is zero or longer than [`SETTING_MAX`].
pub fn check_duration(field: &'static str, duration: Duration) -> Result<(), ConfigError> {
    if duration.is_zero() || duration > SETTING_MAX {
        let value = format_args!("{duration:?}");
        return Err(ConfigError::new(field, value, "longer than 0 and at most 365 days"));
    }
    Ok(())
}

impl MuxConfig {
    /// The limits of one of several streams of a connection. Whether the peer lives is for the connection to watch; and a server takes one call at a time
    /// on a stream that is not the lane. The windows of those streams have the connection's together, so that a peer whose bytes are not read holds no more
    /// for having several.
    #[must_use]
    pub fn within(mut self, company: &Company, role: Role) -> Self {
        match company {
            Company::Alone => return self,
            Company::Lane(_) => {}
            Company::Exclusive(own) => {
                self.stream_window = own.grant(self.stream_window, self.connection_window);
                if role == Role::Server {
                    self.max_streams = 1;
                    self.idle_timeout = Some(EXCLUSIVE_IDLE_TIMEOUT);
                }
            }
        }
        self.keepalive_interval = None;
        self
    }

    /// Checks every limit against its range.
    ///
    /// # Errors
    /// [`ConfigError`] names the first that is outside.
    pub fn check(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, field, value: u128, range| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::new(field, value, range))
            }
        };
        check(
            (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&self.max_frame),
            "max_frame",
            self.max_frame as u128,
            "32768 to 16777215 bytes",
        )?;
        check(
            (STREAM_WINDOW_MIN..=CREDIT_MAX).contains(&self.stream_window),
            "stream_window",
            u128::from(self.stream_window),
            "65536 to 2147483647 bytes",
        )?;
        check(
            (CONNECTION_WINDOW_MIN..=CREDIT_MAX).contains(&self.connection_window),
            "connection_window",
            u128::from(self.connection_window),
            "1048576 to 2147483647 bytes",
        )?;
        check(
            self.max_streams >= 1,
            "max_calls_per_connection (max_streams)",
            u128::from(self.max_streams),
            "at least 1",
        )?;
        check(
            (1..CREDIT_MAX as usize).contains(&self.max_message),
            "max_message_bytes (max_message)",
            self.max_message as u128,
            "1 to 2147483646 bytes",
        )?;
        check(
            (256..=32 * 1024).contains(&self.max_head),
            "max_head_bytes (max_head)",
            self.max_head as u128,
            "256 to 32768 bytes",
        )?;
        check(
            self.assembly_bytes_max >= self.max_message,
            "assembly_bytes_max",
            self.assembly_bytes_max as u128,
            "at least max_message",
        )?;
        check_duration("keepalive_timeout", self.keepalive_timeout)?;
        check_duration("handshake_timeout", self.handshake_timeout)?;
        if let Some(interval) = self.keepalive_interval {
            check_duration("keepalive_interval", interval)?;
        }
        if let Some(timeout) = self.idle_timeout {
            check_duration("idle_timeout", timeout)?;
        }
        if self.ping_interval_min > PING_INTERVAL_HONOURED_MAX {
            // A peer honours no more, and would be sent away for it.
            return Err(ConfigError::new(
                "ping_interval_min",
                format_args!("{:?}", self.ping_interval_min),
                "at most 5 minutes",
            ));
        }
        Ok(())
    }

    pub(super) fn hello(&self) -> Hello {
        Hello {
            max_frame: self.max_frame,
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            max_streams: self.max_streams,
            max_message: self.max_message,
            max_head: self.max_head,
            ping_interval_min_ms: u32::try_from(self.ping_interval_min.as_millis()).unwrap_or(u32::MAX),
            load_interval_ms: self
                .load_interval
                .map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX).max(1)),
            agent: concat!("sinew/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MuxConfig, SETTING_MAX};

    #[test]
    fn the_defaults_pass_and_every_bad_limit_is_named() {
        assert_eq!(MuxConfig::default().check(), Ok(()));
        let bad = |change: fn(&mut MuxConfig)| {
            let mut config = MuxConfig::default();
            change(&mut config);
            config.check().unwrap_err().field
        };
        assert_eq!(bad(|c| c.max_frame = 32 * 1024 - 1), "max_frame");
        assert_eq!(bad(|c| c.stream_window = 1), "stream_window");
        assert_eq!(bad(|c| c.connection_window = 1), "connection_window");
        assert_eq!(bad(|c| c.max_streams = 0), "max_calls_per_connection (max_streams)");
        assert_eq!(bad(|c| c.max_message = 0), "max_message_bytes (max_message)");
        assert_eq!(bad(|c| c.max_head = 32 * 1024 + 1), "max_head_bytes (max_head)");
        assert_eq!(bad(|c| c.assembly_bytes_max = 1), "assembly_bytes_max");
        let outside = [Duration::ZERO, SETTING_MAX + Duration::from_nanos(1), Duration::MAX];
        for (field, set) in DURATIONS {
            for (duration, fits) in outside
                .map(|duration| (duration, false))
                .into_iter()
                .chain([(Duration::from_nanos(1), true), (SETTING_MAX, true)])
            {
                let mut config = MuxConfig::default();
                set(&mut config, duration);
                assert_eq!(
                    config.check().map_err(|error| error.field).is_ok(),
                    fits,
                    "{field} {duration:?}"
                );
                assert!(fits || config.check().unwrap_err().field == field);
            }
        }
        assert_eq!(
            bad(|c| c.ping_interval_min = Duration::from_mins(6)),
            "ping_interval_min"
        );
        let most = |c: &mut MuxConfig| c.ping_interval_min = Duration::from_mins(5);
        let mut config = MuxConfig::default();
        most(&mut config);
        assert_eq!(config.check(), Ok(()));
    }

    type Set = fn(&mut MuxConfig, Duration);

    const DURATIONS: [(&str, Set); 4] = [
        ("keepalive_timeout", |c, d| c.keepalive_timeout = d),
        ("handshake_timeout", |c, d| c.handshake_timeout = d),
        ("keepalive_interval", |c, d| c.keepalive_interval = Some(d)),
        ("idle_timeout", |c, d| c.idle_timeout = Some(d)),
    ];
}
