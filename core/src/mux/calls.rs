//! What callers and handlers do with streams: open, send, receive, answer, give up.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::{OpenError, StreamError};
use super::lifecycle::Shutdown;
use super::recv::{Chunk, Fed, UnaryReply};
use super::{Events, Mux, Place, Role, StreamKey};
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::frame::{ErrorCode, FrameType, MESSAGE_PREFIX_BYTES, StreamId};
use crate::wire::head::{self, METADATA_ENTRIES_MAX, REQUEST_HEAD_BYTES, RESPONSE_HEAD_BYTES};
use crate::wire::message::{EncodedMessage, LINK_BYTES_MIN};
use crate::wire::pool;

/// Memory of queued pieces, in bytes, above which a sender of a stream waits: one batch under way, one being filled.
pub(super) const SEND_QUEUE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of finished unary answers above which no further handler of the connection begins: what a client's default window takes. More would only
/// be kept for a client that is busy with these, or takes none at all.
const QUEUED_ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time in which a client has to take something of a finished answer whose call has no deadline. Its memory is freed then.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of frames that wait to leave above which no call is opened: calls that time out leave their OPENs behind, and a peer that reads nothing
/// must not make them pile up.
pub(super) const UNSENT_OPEN_BYTES_MAX: usize = 1024 * 1024;

/// A call to be opened.
#[derive(Debug)]
pub struct OpenRequest<'a> {
    /// The id of the method.
    pub method: u64,
    /// What is left of the deadline, in milliseconds; 0 for none.
    pub timeout: u32,
    /// When this side ends the call.
    pub deadline: Option<Instant>,
    /// The request's metadata.
    pub metadata: &'a Metadata,
    /// The arguments.
    pub arguments: &'a EncodedMessage,
    /// Whether nothing follows the arguments.
    pub fin: bool,
}

impl Mux {
    /// Opens a call. The OPEN is queued at once; large arguments follow as credit allows.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was queued then.
    pub fn open(&mut self, now: Instant, request: &OpenRequest<'_>) -> Result<StreamKey, OpenError> {
        self.check_open(request)?;
        let id = StreamId(self.newest.0 + 1);
        self.newest = id;
        if self.keepalive.busy(now, self.keepalive_interval()) {
            self.send_ping(now);
        }
        let position = self.outbox.position();
        let send_credit = self.peer.stream_window;
        let stream = self.streams.insert(id, self.config.stream_window, send_credit, request.deadline);
        stream.opened_at = position;
        if request.fin {
            // The caller lends the buffer for its answer, so that buffers stay with the threads that use them up.
            stream.recv.lent = pool::take();
        }
        let key = stream.key();
        let len = request.arguments.wire_len();
        let frame_len = REQUEST_HEAD_BYTES + request.metadata.encoded_len() + len;
        let whole = request
            .arguments
            .as_contiguous()
            .filter(|_| len <= LINK_BYTES_MIN && len <= self.send_credit as usize && frame_len <= self.peer.max_frame);
        let mut fixed = [0; REQUEST_HEAD_BYTES - 2];
        fixed[..8].copy_from_slice(&request.method.to_be_bytes());
        fixed[8..].copy_from_slice(&request.timeout.to_be_bytes());
        if let Some(bytes) = whole {
            self.outbox.whole(FrameType::Open, request.fin, id, &fixed, request.metadata, bytes);
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.send_credit -= len;
            stream.send.credit -= len;
            stream.send.closed = request.fin;
        } else {
            self.outbox.whole(FrameType::Open, false, id, &fixed, request.metadata, &[]);
            request.arguments.to_pieces(|piece| stream.send.push(piece));
            stream.send.fin = request.fin;
            self.line_up(key);
        }
        Ok(key)
    }

    /// As [`open`](Self::open), with a deadline that begins when [`date`](Self::date) is called next: for a call that shares its connection with others, so
    /// that a batch of calls reads the clock once. Never early, and late by no more than it takes to send the batch.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was queued then.
    pub fn open_within(&mut self, timeout: Duration, request: &OpenRequest<'_>) -> Result<StreamKey, OpenError> {
        debug_assert!(
            !self.streams.is_empty(),
            "the first call of a connection has the clock read for it"
        );
        let key = self.open(self.keepalive.last_heard(), request)?;
        self.undated.push((key, timeout));
        Ok(key)
    }

    /// Sets the deadlines of the calls of [`open_within`](Self::open_within).
    pub fn date(&mut self, now: Instant) {
        for (key, timeout) in self.undated.drain(..) {
            if let Some(deadline) = now.checked_add(timeout) {
                self.streams.set_deadline(key, deadline);
            }
        }
    }

    /// Whether [`date`](Self::date) has something to do.
    #[must_use]
    pub fn has_undated(&self) -> bool {
        !self.undated.is_empty()
    }

    fn check_open(&self, request: &OpenRequest<'_>) -> Result<(), OpenError> {
        if let Some(end) = &self.end {
            return Err(OpenError::Closed(end.clone()));
        }
        if self.shutdown != Shutdown::No || self.newest.0 >= u32::MAX - 1 {
            return Err(OpenError::GoingAway);
        }
        let head_len = request.metadata.encoded_len();
        let limit = self.metadata_bytes_max(REQUEST_HEAD_BYTES);
        if head_len > limit {
            return Err(OpenError::TooLarge {
                what: "the metadata",
                len: head_len,
                limit,
            });
        }
        if request.metadata.len() > METADATA_ENTRIES_MAX {
            return Err(OpenError::TooManyEntries {
                len: request.metadata.len(),
                limit: METADATA_ENTRIES_MAX,
            });
        }
        let len = request.arguments.message_len();
        if len > self.peer.max_message {
            return Err(OpenError::TooLarge {
                what: "the request",
                len,
                limit: self.peer.max_message,
            });
        }
        if !self.has_room() {
            return Err(OpenError::Full);
        }
        Ok(())
    }

    /// The longest metadata of a head with `fixed` other bytes that the peer takes: a head is one frame, and its length travels as two bytes.
    fn metadata_bytes_max(&self, fixed: usize) -> usize {
        self.peer.max_head.min(self.peer.max_frame - fixed).min(u16::MAX.into())
    }

    /// Registers a task that waits until a stream may be opened, at its place in the line.
    pub fn wait_to_open(&mut self, place: &mut Option<Place>, task: &Context<'_>) {
        self.openers.wait(place, task);
    }

    /// The call at `place` waits no longer: if it was woken already, the next one gets its turn.
    pub fn stop_waiting_to_open(&mut self, place: Place) {
        let still_waited = self.openers.leave(place);
        if !still_waited && self.has_room() {
            self.woken.extend(self.openers.pop());
        }
    }

    /// Client: whether a stream may be opened.
    fn has_room(&self) -> bool {
        let calls = self.streams.len() + self.company.others();
        calls < self.peer.max_streams as usize && self.outbox.small.len() <= UNSENT_OPEN_BYTES_MAX
    }

    /// A stream is open that hardly ever carries anything, and so is no company.
    pub fn add_background_stream(&mut self) {
        self.background += 1;
    }

    /// It is not open any more.
    pub fn remove_background_stream(&mut self) {
        self.background = self.background.saturating_sub(1);
    }

    /// Whether this is the only open stream: then its frames may leave without waiting for company.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.streams.len() <= 1 + self.background && self.ready.len() <= 1
    }

    /// When an open call ends at the latest.
    #[must_use]
    pub fn deadline(&mut self, key: StreamKey) -> Option<Instant> {
        self.streams.get(key)?.deadline
    }

    /// Server: the call ends at `deadline` at the latest, though its client may allow more.
    pub fn limit_deadline(&mut self, key: StreamKey, deadline: Instant) {
        self.streams.set_deadline(key, deadline);
    }

    /// Registers a task for the answer of a call that was opened just now.
    pub fn await_reply(&mut self, key: StreamKey, task: &Context<'_>) {
        if let Some(stream) = self.streams.get(key) {
            register(&mut stream.recv.waker, task);
        }
    }

    /// The answer to a unary call. The stream is gone once it is ready.
    pub fn poll_reply(&mut self, key: StreamKey, task: &Context<'_>) -> Poll<Result<UnaryReply, StreamError>> {
        let polled = self.poll_answer(key, task);
        if polled.is_ready() {
            self.remove(key);
        }
        polled
    }

    /// As [`poll_reply`](Self::poll_reply), but a call that failed stays until [`release_call`](Self::release_call), so that its deadline can be
    /// asked for.
    pub fn poll_answer(&mut self, key: StreamKey, task: &Context<'_>) -> Poll<Result<UnaryReply, StreamError>> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::Protocol("the call is over".to_owned())));
        };
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(StreamError::clone(error)));
        }
        if !stream.recv.fin {
            register(&mut stream.recv.waker, task);
            return Poll::Pending;
        }
        let (message, credit) = match stream.recv.whole() {
            Some((payload, credit)) => (Some(payload), credit),
            None => match stream.recv.take() {
                Some((Chunk::One(payload), credit)) => (Some(payload), credit),
                Some((Chunk::Batch(batch), credit)) => (Some(stream.recv.split_first(batch)), credit),
                None => (None, 0),
            },
        };
        let reply = UnaryReply {
            metadata: std::mem::take(&mut stream.recv.head),
            message,
            status: stream.recv.status.take(),
            trailers: std::mem::take(&mut stream.recv.trailers),
        };
        self.credit_connection(credit);
        if reply.status.is_none() {
            self.remove(key);
        }
        Poll::Ready(Ok(reply))
    }

    /// The response head of a streaming call; ready as soon as anything of the response is there.
    pub fn poll_head(&mut self, key: StreamKey, task: &Context<'_>) -> Poll<Result<Metadata, StreamError>> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::Protocol("the call is over".to_owned())));
        };
        if std::mem::take(&mut stream.recv.head_unread) {
            return Poll::Ready(Ok(std::mem::take(&mut stream.recv.head)));
        }
        if stream.recv.fin {
            return Poll::Ready(Ok(Metadata::new()));
        }
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(StreamError::clone(error)));
        }
        register(&mut stream.recv.waker, task);
        Poll::Pending
    }

    /// Client: the status of a call that ended with one and never had a response head: its opening failed. A stream that was opened and then
    /// failed gives its status at its end, however soon that comes.
    pub fn take_failure(&mut self, key: StreamKey) -> Option<(Status, Metadata)> {
        let stream = self.streams.get(key)?;
        if !stream.recv.fin || stream.recv.headed || stream.recv.unread() > 0 {
            return None;
        }
        let status = stream.recv.status.take()?;
        Some((status, std::mem::take(&mut stream.recv.trailers)))
    }

    /// The next messages of a stream; `None` when the peer's half ended in order.
    pub fn poll_chunk(&mut self, key: StreamKey, task: &Context<'_>) -> Poll<Result<Option<Chunk>, StreamError>> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::Reset { code: ErrorCode::None }));
        };
        if let Some((chunk, credit)) = stream.recv.take() {
            self.give_credit(key, credit);
            return Poll::Ready(Ok(Some(chunk)));
        }
        if stream.recv.fin {
            return Poll::Ready(Ok(None));
        }
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(StreamError::clone(error)));
        }
        register(&mut stream.recv.waker, task);
        Poll::Pending
    }

    /// Client: how the call ended, after [`poll_chunk`](Self::poll_chunk) returned `None`.
    pub fn take_status(&mut self, key: StreamKey) -> (Option<Status>, Metadata) {
        match self.streams.get(key) {
            Some(stream) => (stream.recv.status.take(), std::mem::take(&mut stream.recv.trailers)),
            None => (None, Metadata::new()),
        }
    }

    /// Whether the stream's sender may hand over more; registers `task` if not.
    ///
    /// # Errors
    /// The error that ended the stream; a call that ended in order is [`StreamError::Reset`] with code 0.
    pub fn poll_send_ready(&mut self, key: StreamKey, task: &Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::Reset { code: ErrorCode::None }));
        };
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(StreamError::clone(error)));
        }
        if stream.send.closed {
            return Poll::Ready(Err(StreamError::Reset { code: ErrorCode::None }));
        }
        if stream.send.held() >= SEND_QUEUE_BYTES_MAX {
            stream.send.wait(task);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends bytes of whole messages; small ones that credit allows leave in the next turn, others wait.
    pub fn send(&mut self, key: StreamKey, batch: Vec<u8>, fin: bool) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.send.closed {
            return;
        }
        let len = batch.len();
        let fits = len <= LINK_BYTES_MIN && len <= stream.send.credit as usize && len <= self.send_credit as usize;
        if fits && !stream.send.has_work() && !stream.send.listed {
            self.outbox.frame(FrameType::Data, fin, key.id, |out| out.extend_from_slice(&batch));
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.send_credit -= len;
            stream.send.credit -= len;
            stream.send.closed = fin;
            pool::give(batch);
            return;
        }
        stream.send.push(fitted(batch));
        stream.send.fin |= fin;
        self.line_up(key);
    }

    /// Sends one message, linking what is linked in it.
    pub fn send_message(&mut self, key: StreamKey, message: EncodedMessage) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.send.closed {
            return;
        }
        message.into_pieces(|piece| stream.send.push(piece));
        self.line_up(key);
    }

    /// Server: the largest message that the client takes.
    #[must_use]
    pub fn reply_bytes_max(&self) -> usize {
        self.peer.max_message
    }

    /// Server: the least time between two load reports, in milliseconds; 0 if the client wants none.
    #[must_use]
    pub fn load_interval_ms(&self) -> u32 {
        self.peer.load_interval_ms
    }

    /// Server: whether so many finished answers wait for the client to take them that no further handler is to begin.
    #[must_use]
    pub fn is_full_of_answers(&self) -> bool {
        self.queued_answers > QUEUED_ANSWERS_BYTES_MAX
    }

    /// Server: answers a unary call and ends it.
    pub fn reply(&mut self, key: StreamKey, metadata: &Metadata, message: &EncodedMessage, trailers: &Metadata) {
        self.forgive_pings();
        if !self.check_reply_head(key, metadata) {
            return;
        }
        let Some(stream_credit) = self.streams.send_credit(key) else {
            return;
        };
        self.call_answered();
        let id = key.id;
        let len = message.wire_len();
        let credit = stream_credit.min(self.send_credit) as usize;
        let frame_len = RESPONSE_HEAD_BYTES + metadata.encoded_len() + len;
        let whole = message
            .as_contiguous()
            .filter(|_| len <= LINK_BYTES_MIN && len <= credit && frame_len <= self.peer.max_frame);
        let fin = trailers.is_empty();
        if let Some(bytes) = whole {
            self.outbox.whole(FrameType::Reply, fin, id, &[], metadata, bytes);
            self.send_credit -= u32::try_from(len).unwrap_or(u32::MAX);
            if !fin {
                self.outbox.push_end(id, None, trailers);
            }
            self.remove(key);
            return;
        }
        let Some(stream) = self.streams.get(key) else { return };
        self.outbox.whole(FrameType::Reply, false, id, &[], metadata, &[]);
        message.to_pieces(|piece| stream.send.push(piece));
        self.queued_answers += stream.send.count();
        if stream.deadline.is_none() {
            stream.send.watch();
            self.undated.push((key, ANSWER_PATIENCE));
        }
        if fin {
            stream.send.fin = true;
        } else {
            let mut end = Vec::new();
            head::encode_end(None, trailers, &mut end);
            stream.send.set_end(end);
        }
        // The deadline stays: a client that does not read must not hold the reply for ever.
        self.line_up(key);
    }

    /// Ends the call instead if the client does not take so much metadata; an over-long head would end the whole connection.
    fn check_reply_head(&mut self, key: StreamKey, metadata: &Metadata) -> bool {
        if metadata.is_empty() {
            return true;
        }
        let (len, limit) = (metadata.encoded_len(), self.metadata_bytes_max(RESPONSE_HEAD_BYTES));
        let message = if len > limit {
            format!("the response's metadata has {len} bytes; the client accepts {limit}")
        } else if metadata.len() > METADATA_ENTRIES_MAX {
            let len = metadata.len();
            format!("the response's metadata has {len} entries; the most is {METADATA_ENTRIES_MAX}")
        } else {
            return true;
        };
        self.finish_call(key, Some(&Status::resource_exhausted(message)), &Metadata::new());
        false
    }

    /// Server: sends the response head of a streaming call. False if it ended the call instead, because the client does not take so much metadata: then
    /// nothing may follow, and nobody else says that the call is over.
    pub fn reply_head(&mut self, key: StreamKey, metadata: &Metadata) -> bool {
        self.forgive_pings();
        if self.streams.get(key).is_none() {
            return true;
        }
        let fits = self.check_reply_head(key, metadata);
        if fits {
            self.outbox.whole(FrameType::Reply, false, key.id, &[], metadata, &[]);
        }
        fits
    }

    /// Server: ends a call with a status, after what is queued on it.
    pub fn finish_call(&mut self, key: StreamKey, status: Option<&Status>, trailers: &Metadata) {
        if self.streams.get(key).is_none() {
            return;
        }
        self.call_answered();
        let Some(stream) = self.streams.get(key) else { return };
        if !stream.send.has_work() {
            self.outbox.push_end(key.id, status, trailers);
            self.remove(key);
            return;
        }
        let mut end = Vec::new();
        head::encode_end(status, trailers, &mut end);
        stream.send.set_end(end);
        self.line_up(key);
    }

    /// Server: refuses a call that was not processed; the client may send it elsewhere.
    pub fn refuse_call(&mut self, key: StreamKey) {
        if self.streams.get(key).is_some() {
            self.outbox.push_reset(key.id, ErrorCode::Refused);
            self.remove(key);
        }
    }

    /// Client: the stream's owner is done with it. A call that is still running is cancelled.
    pub fn release_call(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        let running = !stream.recv.fin && stream.error.is_none();
        if running && self.end.is_none() && self.role == Role::Client {
            self.outbox.push_reset(key.id, ErrorCode::None);
        }
        self.remove(key);
    }

    /// Client: gives the call up with a reason that its owner gets to see.
    ///
    /// Returns whether it was running.
    pub fn abort_call(&mut self, key: StreamKey, reason: String, events: &mut Events) -> bool {
        let Some(stream) = self.streams.get(key) else {
            return false;
        };
        if stream.recv.fin || stream.error.is_some() {
            return false;
        }
        stream.fail(StreamError::Aborted(reason), events);
        self.outbox.push_reset(key.id, ErrorCode::None);
        true
    }

    /// Server: gives up reading a stream; its remaining bytes are dropped as they come.
    pub fn stop_reading(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        // The stream gets no further credit: its sender stops after what it has. The connection must get its own back.
        let (unread, released) = stream.recv.discard();
        self.assembling = self.assembling.saturating_sub(released);
        self.credit_connection(unread);
    }

    /// Length of the large message of whose frame a part came; 0 if there is none.
    #[must_use]
    pub fn message_bytes(&mut self) -> usize {
        let super::frames::Input::Body { stream: id, .. } = self.input else {
            return 0;
        };
        self.streams.by_id(id).map_or(0, |stream| stream.recv.assembly_len())
    }

    /// The memory that bytes of the message under way are read into, and how many may be read; give it back with
    /// [`return_body`](Self::return_body). `None` if fewer than `bytes_min` of them belong to the frame under way.
    pub fn lend_body(&mut self, bytes_min: usize) -> Option<(StreamId, Vec<u8>, usize)> {
        let super::frames::Input::Body { stream: id, left, .. } = self.input else {
            return None;
        };
        let recv_left = self.recv_window;
        let room = self.assembly_room();
        let stream = self.streams.by_id(id)?;
        let want = left.min(stream.recv.direct_bytes());
        let mut allowed = stream.recv.window;
        let mut connection = recv_left;
        if want < bytes_min || !allowed.receive(want) || !connection.receive(want) {
            return None;
        }
        let mut fed = Fed::default();
        let lent = stream.recv.lend_assembly(room, &mut fed);
        self.count_assembling(&fed);
        lent.map(|bytes| {
            let want = want.min(bytes.capacity() - bytes.len());
            (id, bytes, want)
        })
    }

    /// Takes the memory of [`lend_body`](Self::lend_body) back with `added` more bytes in it.
    pub fn return_body(&mut self, now: Instant, id: StreamId, bytes: Vec<u8>, added: usize, events: &mut Events) {
        self.return_assembled(now, id, bytes, added, events);
        self.publish();
    }
}

/// A batch in no more memory than it needs: what waits for credit may wait for long, and a buffer of the pool is mostly empty.
fn fitted(batch: Vec<u8>) -> Bytes {
    if batch.len() >= batch.capacity() / 2 {
        return Bytes::from(batch);
    }
    let bytes = Bytes::copy_from_slice(&batch);
    pool::give(batch);
    bytes
}

pub(super) fn register(slot: &mut Option<Waker>, task: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(task.waker()),
        None => *slot = Some(task.waker().clone()),
    }
}

/// Splits a batch into its messages.
pub fn split_batch(batch: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (prefix, rest) = batch.get(at..)?.split_first_chunk::<MESSAGE_PREFIX_BYTES>()?;
    let len = u32::from_be_bytes(*prefix) as usize;
    Some((rest.get(..len)?, at + MESSAGE_PREFIX_BYTES + len))
}
