//! Frames: their head, and the reader that cuts a connection's bytes into them.
//!
//! A frame is `u32` length of the rest, `u32` id, `u8` kind, body; integers are little-endian. Requests name their
//! method in the kind, replies are [`REPLY`].

use std::io;

use bytes::{BufMut, Bytes};
use tokio::io::AsyncReadExt;

use crate::pool;
use crate::socket::ReadHalf;

/// Bytes before the body.
pub(crate) const HEAD_LEN: usize = 9;
/// A body from this size on is neither copied into a batch of frames nor out of the read buffer.
pub(crate) const LARGE_MIN: usize = 4 * 1024;

/// Kinds of frames. The first are methods.
pub(crate) const ECHO: u8 = 0;
pub(crate) const USER: u8 = 1;
pub(crate) const BLOB: u8 = 2;
pub(crate) const WORK: u8 = 3;
pub(crate) const SLEEP: u8 = 4;
/// Opens a stream of items from the server.
pub(crate) const STREAM: u8 = 5;
/// Opens a bidirectional stream.
pub(crate) const PING_PONG: u8 = 6;
/// The one answer to a method.
pub(crate) const REPLY: u8 = 16;
/// One message of a stream.
pub(crate) const ITEM: u8 = 17;
/// Lets a stream's sender send as many more bytes as the body says.
pub(crate) const CREDIT: u8 = 18;
/// The sender's side of a stream is complete.
pub(crate) const END: u8 = 19;

/// What a frame is and whom it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: u32,
    pub(crate) kind: u8,
}

/// One frame, or for items all that are there of one stream.
pub(crate) struct Frame<'a> {
    pub(crate) head: Head,
    pub(crate) body: Body<'a>,
}

/// The bytes of a frame.
pub(crate) enum Body<'a> {
    /// In the read buffer.
    Small(&'a [u8]),
    /// In a buffer of its own.
    Large(Bytes),
    /// Whole consecutive item frames of one stream, heads included: see [`items`].
    Items(&'a [u8]),
}

/// Reads frames from a connection.
pub(crate) struct FrameReader {
    half: ReadHalf,
    buffer: Vec<u8>,
    /// Start of what is not taken yet.
    at: usize,
    /// Whether the last read filled the buffer, which then grows.
    filled: bool,
    large: Option<Large>,
}

/// A large frame on its way in.
struct Large {
    head: Head,
    body: Vec<u8>,
    missing: usize,
}

impl FrameReader {
    pub(crate) fn new(half: ReadHalf) -> Self {
        Self {
            half,
            buffer: Vec::with_capacity(BUFFER_MIN),
            at: 0,
            filled: false,
            large: None,
        }
    }

    /// Waits for bytes and reads all there are; false at the end of the connection.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        if let Some(large) = &mut self.large {
            while large.missing > 0 {
                let read = self.half.read_buf(&mut (&mut large.body).limit(large.missing)).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                large.missing -= read;
            }
            return Ok(true);
        }
        self.make_room();
        let room = self.buffer.capacity() - self.buffer.len();
        let read = self.half.read_buf(&mut self.buffer).await?;
        self.filled = read == room;
        Ok(read > 0)
    }

    /// Takes the next complete frame out of what was read.
    pub(crate) fn take_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        if let Some(Large { head, body, .. }) = self.large.take_if(|large| large.missing == 0) {
            return Ok(Some(Frame {
                head,
                body: Body::Large(pool::freeze(body)),
            }));
        }
        let rest = &self.buffer[self.at..];
        let Some((head, len)) = parse_head(rest) else {
            return Ok(None);
        };
        if len > BODY_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        if rest.len() < HEAD_LEN + len {
            if len >= LARGE_MIN {
                self.begin_large(head, len);
            }
            return Ok(None);
        }
        let mut end = HEAD_LEN + len;
        if head.kind != ITEM {
            self.at += end;
            return Ok(Some(Frame {
                head,
                body: Body::Small(&self.buffer[self.at - len..self.at]),
            }));
        }
        while let Some((next, len)) = parse_head(&rest[end..])
            && next == head
            && rest.len() - end >= HEAD_LEN + len
        {
            end += HEAD_LEN + len;
        }
        self.at += end;
        Ok(Some(Frame {
            head,
            body: Body::Items(&self.buffer[self.at - end..self.at]),
        }))
    }

    /// Moves what is here of a large frame into a buffer that will hold all of it.
    fn begin_large(&mut self, head: Head, len: usize) {
        let here = &self.buffer[self.at + HEAD_LEN..];
        let mut body = pool::take(len);
        body.extend_from_slice(here);
        self.large = Some(Large {
            head,
            missing: len - here.len(),
            body,
        });
        self.buffer.clear();
        self.at = 0;
        self.filled = false;
    }

    fn make_room(&mut self) {
        self.buffer.drain(..self.at);
        self.at = 0;
        if self.filled && self.buffer.capacity() < BUFFER_MAX {
            self.buffer.reserve_exact(2 * self.buffer.capacity() - self.buffer.len());
        }
    }
}

/// Appends a head whose length is to be set by [`patch_len`].
pub(crate) fn put_head(out: &mut Vec<u8>, head: Head) {
    let mut bytes = [0; HEAD_LEN];
    bytes[4..8].copy_from_slice(&head.id.to_le_bytes());
    bytes[8] = head.kind;
    out.extend_from_slice(&bytes);
}

/// Sets the length of the frame that begins at `start` and goes on to the end of `out` and `linked` bytes beyond.
pub(crate) fn patch_len(out: &mut [u8], start: usize, linked: usize) {
    // Nothing here comes near 4 GiB: the reader refuses from BODY_MAX on.
    let len = (out.len() - start - LEN_LEN + linked) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The bodies of a run of item frames.
pub(crate) fn items(mut run: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (_, len) = parse_head(run)?;
        let body = run.get(HEAD_LEN..HEAD_LEN + len)?;
        run = &run[HEAD_LEN + len..];
        Some(body)
    })
}

fn parse_head(bytes: &[u8]) -> Option<(Head, usize)> {
    let head: &[u8; HEAD_LEN] = bytes.first_chunk()?;
    let [l0, l1, l2, l3, i0, i1, i2, i3, kind] = *head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    Some((Head { id, kind }, (len + LEN_LEN).saturating_sub(HEAD_LEN)))
}

/// Bytes of the length, which does not count itself.
const LEN_LEN: usize = 4;
/// Large enough for 64 small calls; an idle connection keeps it, of which one page is touched.
const BUFFER_MIN: usize = 8 * 1024;
/// A larger buffer saves no more system calls and falls out of the first-level cache.
const BUFFER_MAX: usize = 64 * 1024;
/// Anything above is not a frame.
const BODY_MAX: usize = 64 * 1024 * 1024;
