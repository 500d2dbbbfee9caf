//! A load report: what a server has to do, in the trailers of some of its answers.

use std::time::Duration;

use super::codec::raw;
use super::error::DecodeError;

/// The metadata key of a report.
pub const LOAD_KEY: &str = "sinew-load-bin";
/// More than any report of this version takes.
pub const LOAD_BYTES_MAX: usize = 128;

/// What a server did within a while, of all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadCounts {
    /// The while.
    pub window: Duration,
    /// Calls that were answered.
    pub calls: u64,
    /// Those of them that failed by the server's fault.
    pub failures: u64,
    /// The part of its capacity that is used, in thousandths; `None` if that is not known.
    pub utilization: Option<u32>,
}

impl LoadCounts {
    /// Appends the report.
    pub fn encode(&self, out: &mut Vec<u8>) {
        raw::write_map_len(out, if self.utilization.is_some() { 4 } else { 3 });
        let millis = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        for (name, number) in [
            ("window_ms", millis.max(1)),
            ("calls", self.calls),
            ("failures", self.failures),
        ] {
            raw::write_str(out, name);
            raw::write_uint(out, number);
        }
        if let Some(utilization) = self.utilization {
            raw::write_str(out, "utilization");
            raw::write_uint(out, u64::from(utilization));
        }
    }

    /// Reads a report.
    ///
    /// # Errors
    /// [`DecodeError`] if it is no map with string keys, a known value is no non-negative integer, or there is no window.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "a load report";
        let mut read = Self {
            window: Duration::ZERO,
            calls: 0,
            failures: 0,
            utilization: None,
        };
        let mut reader = raw::Reader::new(bytes);
        for _ in 0..reader.map_len()? {
            match reader.str()? {
                "window_ms" => read.window = Duration::from_millis(reader.uint()?),
                "calls" => read.calls = reader.uint()?,
                "failures" => read.failures = reader.uint()?,
                "utilization" => read.utilization = Some(u32::try_from(reader.uint()?).unwrap_or(u32::MAX)),
                _ => reader.skip()?,
            }
        }
        reader.end(WHAT)?;
        if read.window.is_zero() {
            return Err(DecodeError::invalid("a load report without a window".to_owned()));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{LOAD_BYTES_MAX, LoadCounts};
    use crate::wire::codec::raw;

    #[test]
    fn the_largest_report_fits_and_keys_of_the_future_are_skipped() {
        let largest = LoadCounts {
            window: Duration::from_millis(u64::MAX),
            calls: u64::MAX,
            failures: u64::MAX,
            utilization: Some(u32::MAX),
        };
        let mut bytes = Vec::new();
        largest.encode(&mut bytes);
        assert!(bytes.len() <= LOAD_BYTES_MAX, "{}", bytes.len());
        assert_eq!(bytes[0], 0x84);
        bytes[0] = 0x85;
        raw::write_str(&mut bytes, "memory");
        bytes.push(0xc3);
        assert_eq!(LoadCounts::decode(&bytes), Ok(largest));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for wrong in [
            &b""[..],
            &[0xc0],
            &[0x80],
            &[0x81, 0xa5, b'c', b'a', b'l', b'l', b's', 0xff],
        ] {
            assert!(LoadCounts::decode(wrong).is_err(), "{wrong:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_report_comes_back(
            millis in 1..=u64::MAX, calls in any::<u64>(), failures in any::<u64>(), utilization in any::<Option<u32>>()
        ) {
            let report = LoadCounts { window: Duration::from_millis(millis), calls, failures, utilization };
            let mut bytes = Vec::new();
            report.encode(&mut bytes);
            prop_assert_eq!(LoadCounts::decode(&bytes), Ok(report));
            prop_assert!(LoadCounts::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = LoadCounts::decode(&bytes);
        }
    }
}
