//! Frames and messages as the documentation of the wire has them, without any code of the framework.

pub(crate) const HELLO: u8 = 0;
pub(crate) const OPEN: u8 = 1;
pub(crate) const DATA: u8 = 2;
pub(crate) const REPLY: u8 = 3;
pub(crate) const END: u8 = 4;
pub(crate) const RESET: u8 = 5;
pub(crate) const CREDIT: u8 = 6;
pub(crate) const PING: u8 = 7;
pub(crate) const PONG: u8 = 8;
pub(crate) const GOAWAY: u8 = 9;
/// The sender's half of the stream ends with the frame.
pub(crate) const FIN: u8 = 0x80;

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A message as it stands in a stream: its length, then its bytes.
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}
