//! Writes a turn of the mux until it is gone or the stream takes no more.

use std::io::{self, IoSlice};

use super::io::{SharedWrite, Writer};
use crate::mux::Transmit;

/// Slices handed to one write.
const SLICES_MAX: usize = 64;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything is gone.
    All,
    /// The stream takes no more now.
    Blocked,
}

/// Adds the bytes that are gone to `total`.
pub(super) fn write_out(writer: &Writer, transmit: &mut Transmit, total: &mut usize) -> io::Result<Written> {
    while !transmit.is_empty() {
        let wrote = match transmit.only_slice() {
            // Most turns: one run of small frames, for which no list has to be made.
            Some(slice) => writer.try_write_vectored(&[IoSlice::new(slice)]),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = transmit.slices(&mut slices);
                writer.try_write_vectored(&slices[..filled])
            }
        };
        match wrote {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                transmit.advance(written);
                *total += written;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Written::All)
}
