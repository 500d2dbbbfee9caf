//! What each frame does to the connection and its streams.

use std::time::Instant;

use super::error::StreamError;
use super::flow::{TINY_CREDIT_BYTES, add_credit};
use super::frames::{Input, Step, discard};
use super::heads::{Head, stream_error};
use super::recv::{Chunk, Fed, message_len};
use super::{EndCause, Ended, Events, Incoming, Mux, Role, StreamKey, Window};
use crate::metadata::Metadata;
use crate::status::Status;
use crate::time::from_wire_timeout;
use crate::wire::frame::{ErrorCode, FrameHeader, HEADER_BYTES, MESSAGE_PREFIX_BYTES, StreamId};
use crate::wire::head::{self, REQUEST_HEAD_BYTES, RESPONSE_HEAD_BYTES, RequestHead};
use crate::wire::hello::Hello;
use crate::wire::message::{LINK_BYTES_MIN, Payload};

/// A data frame that completes no message and is smaller than this carries next to nothing.
pub(super) const TINY_DATA_BYTES: usize = 64;

impl Mux {
    pub(super) fn handle_hello(&mut self, payload: &[u8], events: &mut Events) {
        if self.hello_received {
            self.fail(ErrorCode::Protocol, "HELLO came twice", events);
            return;
        }
        let hello = match Hello::decode(payload) {
            Ok(hello) => hello,
            Err(error) => {
                self.fail(ErrorCode::Protocol, format!("HELLO: {error}"), events);
                return;
            }
        };
        let (Some(stream_more), Some(connection_more)) = (
            hello.stream_window.checked_sub(self.peer.stream_window),
            hello.connection_window.checked_sub(self.peer.connection_window),
        ) else {
            self.fail(
                ErrorCode::Protocol,
                "HELLO takes back what an earlier one granted",
                events,
            );
            return;
        };
        self.send_credit = self.send_credit.saturating_add(connection_more);
        self.streams.for_each(|stream| {
            stream.send.credit = stream.send.credit.saturating_add(stream_more);
        });
        self.peer = hello;
        self.hello_received = true;
        events.hello = true;
        self.feed_starved();
        let mut keys = Vec::new();
        self.streams.for_each(|stream| keys.push(stream.key()));
        for key in keys {
            self.line_up(key);
        }
        events.wakers.extend(self.openers.drain());
    }

    /// OPEN: a new call.
    pub(super) fn handle_open(
        &mut self,
        now: Instant,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
    ) -> Step {
        if !self.only_for(Role::Server, "OPEN", events) {
            return Step::Used(0);
        }
        let id = header.stream;
        if id <= self.newest || id == StreamId::MAX {
            let reason = format!("OPEN of stream {id:?} after {:?}", self.newest);
            self.fail(ErrorCode::Protocol, reason, events);
            return Step::Used(0);
        }
        let frame = &payload[..payload.len().min(header.len)];
        let (head, used) = match self.read_head(frame, header.len, REQUEST_HEAD_BYTES, RequestHead::decode) {
            Head::Read(head, used) => (head, used),
            Head::Incomplete => return Step::Incomplete,
            Head::Bad(error, used) => {
                self.newest = id;
                self.refuse_head(now, header, &error, used, events);
                return Step::Used(HEADER_BYTES);
            }
        };
        self.newest = id;
        if self.shutdown.is_past_last(id) {
            // The GOAWAY that is under way tells the client that this one was not taken up.
            self.expect_late(self.config.stream_window);
            self.input = self.discard_body(header.len - used);
            return Step::Used(HEADER_BYTES + used);
        }
        if self.is_full() || !self.company.try_admit() {
            self.turn_away(now, id, events);
            self.input = self.discard_body(header.len - used);
            return Step::Used(HEADER_BYTES + used);
        }
        let deadline = from_wire_timeout(head.timeout, now);
        let body = &frame[used..];
        let whole = header.is_fin().then(|| only_message(body, header.len - used)).flatten();
        let mut window = Window::new(self.config.stream_window);
        if let Some(message) = whole
            && message.len() <= self.config.max_message
            && window.receive(body.len())
            && self.recv_window.receive(body.len())
        {
            // The common case: a unary request in one frame never enters the queues.
            let key = self.streams.insert_whole(id, window, self.peer.stream_window, deadline);
            let arguments = Some(Payload::copied(message));
            self.credit_connection(body.len());
            self.nuisance.earn();
            events.incoming.push_back(Incoming::Opened {
                key,
                head,
                deadline,
                arguments,
                fin: true,
            });
            return Step::Used(HEADER_BYTES + header.len);
        }
        let stream = self.streams.insert(id, self.config.stream_window, self.peer.stream_window, deadline);
        stream.awaits_arguments = true;
        let key = stream.key();
        events.incoming.push_back(Incoming::Opened {
            key,
            head,
            deadline,
            arguments: None,
            fin: false,
        });
        self.input = Input::Body {
            stream: id,
            left: header.len - used,
            fin: header.is_fin(),
        };
        Step::Used(HEADER_BYTES + used)
    }

    /// Refuses a call because as many run as may.
    fn turn_away(&mut self, now: Instant, id: StreamId, events: &mut Events) {
        self.outbox.push_reset(id, ErrorCode::Refused);
        self.expect_late(self.config.stream_window);
        // Above the announced limit. Handlers that run on are this side's affair, of which the client cannot know.
        if self.streams.len() >= self.config.max_streams as usize {
            self.count_vain_call(now, events);
        }
    }

    /// REPLY: the response head of a call.
    pub(super) fn handle_reply(
        &mut self,
        now: Instant,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
    ) -> Step {
        if !self.only_for(Role::Client, "REPLY", events) || !self.check_opened(header.stream, events) {
            return Step::Used(0);
        }
        let id = header.stream;
        let frame = &payload[..payload.len().min(header.len)];
        let decode = |bytes: &[u8], max| head::decode_metadata(bytes, max, "the response head");
        let (metadata, used) = match self.read_head(frame, header.len, RESPONSE_HEAD_BYTES, decode) {
            Head::Read(metadata, used) => (metadata, used),
            Head::Incomplete => return Step::Incomplete,
            Head::Bad(error, used) => {
                self.give_up_stream(now, id, stream_error(error), events);
                self.return_unwanted(header.len - used);
                self.input = discard(header.len);
                return Step::Used(HEADER_BYTES);
            }
        };
        let Some(stream) = self.streams.by_id(id) else {
            self.count_late(now, header.len - used, events);
            self.input = self.discard_body(header.len - used);
            return Step::Used(HEADER_BYTES + used);
        };
        if stream.recv.headed || stream.recv.fin {
            let error = StreamError::Protocol("REPLY came twice, or after the end".to_owned());
            self.give_up_stream(now, id, error, events);
            self.input = self.discard_body(header.len - used);
            return Step::Used(HEADER_BYTES + used);
        }
        let body = &frame[used..];
        let whole = header.is_fin().then(|| only_message(body, header.len - used)).flatten();
        if let Some(message) = whole
            && message.len() <= self.config.max_message
            && stream.recv.window.receive(body.len())
            && self.recv_window.receive(body.len())
        {
            // The common case: a unary response in one frame goes straight to its caller.
            stream.recv.take_whole(metadata, message);
            stream.send.closed = true;
            events.wakers.extend(stream.recv.waker.take());
            self.nuisance.earn();
            return Step::Used(HEADER_BYTES + header.len);
        }
        stream.recv.take_head(metadata);
        events.wakers.extend(stream.recv.waker.take());
        if header.len > used || header.is_fin() {
            self.input = Input::Body {
                stream: id,
                left: header.len - used,
                fin: header.is_fin(),
            };
        }
        Step::Used(HEADER_BYTES + used)
    }

    /// DATA: more stream bytes.
    pub(super) fn begin_data(&mut self, now: Instant, header: FrameHeader, events: &mut Events) {
        if !self.check_opened(header.stream, events) {
            return;
        }
        if self.streams.by_id(header.stream).is_none() {
            self.count_late(now, header.len, events);
            self.input = self.discard_body(header.len);
            return;
        }
        self.nuisance_pending = header.len < TINY_DATA_BYTES && !header.is_fin();
        self.input = Input::Body {
            stream: header.stream,
            left: header.len,
            fin: header.is_fin(),
        };
    }

    /// Stream bytes, as far as they are there; `left` more belong to the same frame.
    pub(super) fn handle_body(
        &mut self,
        now: Instant,
        id: StreamId,
        bytes: &[u8],
        left: usize,
        fin: bool,
        events: &mut Events,
    ) {
        self.input = if left == 0 {
            Input::Header
        } else {
            Input::Body { stream: id, left, fin }
        };
        let room = self.assembly_room();
        let Some(stream) = self.streams.by_id(id) else {
            // It ended while its frame was under way.
            self.return_unwanted(bytes.len());
            return;
        };
        if !stream.recv.window.receive(bytes.len()) || !self.recv_window.receive(bytes.len()) {
            self.fail(
                ErrorCode::FlowControl,
                format!("more bytes than credit on stream {id:?}"),
                events,
            );
            return;
        }
        if stream.recv.fin {
            self.credit_connection(bytes.len());
            let error = StreamError::Protocol("bytes came after the end of the stream".to_owned());
            self.give_up_stream(now, id, error, events);
            return;
        }
        if stream.recv.discarding {
            stream.recv.fin = fin && left == 0;
            self.credit_connection(bytes.len());
            if bytes.is_empty() && !fin {
                self.count_nuisance(now, events);
            }
            return;
        }
        let mut fed = Fed::default();
        match stream.recv.feed(bytes, self.config.max_message, room, &mut fed) {
            Ok(()) => self.after_feed(now, id, &fed, fin && left == 0, events),
            Err(error) => {
                self.count_assembling(&fed);
                self.credit_connection(fed.credit);
                self.give_up_stream(now, id, error, events);
            }
        }
    }

    pub(super) fn count_assembling(&mut self, fed: &Fed) {
        self.assembling = (self.assembling + fed.reserved).saturating_sub(fed.released);
    }

    /// Bytes that the driver read straight into the memory of the message under way.
    pub(super) fn return_assembled(
        &mut self,
        now: Instant,
        id: StreamId,
        bytes: Vec<u8>,
        added: usize,
        events: &mut Events,
    ) {
        if added == 0 {
            // Nothing arrived: no sign of life, and nothing to wake anybody for.
            self.take_back(id, bytes);
            return;
        }
        self.keepalive.heard(now);
        let Input::Body { left, fin, .. } = self.input else {
            return;
        };
        let left = left - added;
        self.input = if left == 0 {
            Input::Header
        } else {
            Input::Body { stream: id, left, fin }
        };
        let Some(stream) = self.streams.by_id(id) else {
            self.return_unwanted(added);
            return;
        };
        // The credit was checked before the memory was lent.
        let _checked = stream.recv.window.receive(added) && self.recv_window.receive(added);
        if stream.recv.discarding {
            stream.recv.fin = fin && left == 0;
            self.credit_connection(added);
            return;
        }
        let mut fed = Fed::default();
        stream.recv.return_assembly(bytes, added, &mut fed);
        self.after_feed(now, id, &fed, fin && left == 0, events);
    }

    fn take_back(&mut self, id: StreamId, bytes: Vec<u8>) {
        let Some(stream) = self.streams.by_id(id) else { return };
        let key = stream.key();
        let mut fed = Fed::default();
        stream.recv.return_assembly(bytes, 0, &mut fed);
        self.count_assembling(&fed);
        self.give_credit(key, fed.credit);
    }

    fn after_feed(&mut self, now: Instant, id: StreamId, fed: &Fed, fin: bool, events: &mut Events) {
        self.count_assembling(fed);
        let tiny = std::mem::take(&mut self.nuisance_pending);
        if fed.messages > 0 {
            self.nuisance.earn();
        } else if tiny && !fin {
            self.count_nuisance(now, events);
        }
        let Some(stream) = self.streams.by_id(id) else { return };
        let key = stream.key();
        if fin {
            if stream.recv.is_between_messages() {
                stream.recv.fin = true;
            } else {
                let error = StreamError::Protocol("the stream ended inside a message".to_owned());
                self.credit_connection(fed.credit);
                self.give_up_stream(now, id, error, events);
                return;
            }
        }
        let over = stream.recv.fin;
        if fed.messages > 0 || over {
            events.wakers.extend(stream.recv.waker.take());
        }
        if stream.awaits_arguments {
            self.hand_out_arguments(now, key, events);
        }
        self.give_credit(key, fed.credit);
        if self.role == Role::Client && over {
            self.end_of_reply(key, events);
        }
    }

    /// Hands the arguments of a call to the server as soon as they are complete.
    fn hand_out_arguments(&mut self, now: Instant, key: StreamKey, events: &mut Events) {
        let Some(stream) = self.streams.get(key) else { return };
        let Some((chunk, credit)) = stream.recv.take() else {
            if stream.recv.fin {
                let error = StreamError::Protocol("the stream ended before its arguments".to_owned());
                self.give_up_stream(now, key.id, error, events);
            }
            return;
        };
        stream.awaits_arguments = false;
        let arguments = match chunk {
            Chunk::One(payload) => payload,
            Chunk::Batch(batch) => stream.recv.split_first(batch),
        };
        let fin = stream.recv.has_nothing_left();
        self.give_credit(key, credit);
        events.incoming.push_back(Incoming::Arguments { key, arguments, fin });
    }

    /// The server's half ended: the call is over and the client sends nothing more.
    fn end_of_reply(&mut self, key: StreamKey, events: &mut Events) {
        let Some(stream) = self.streams.get(key) else { return };
        stream.send.abort(events);
        events.wakers.extend(stream.recv.waker.take());
    }

    pub(super) fn handle_end_frame(&mut self, now: Instant, id: StreamId, payload: &[u8], events: &mut Events) {
        if !self.only_for(Role::Client, "END", events) || !self.check_opened(id, events) {
            return;
        }
        let max_head = self.config.max_head;
        let Some(stream) = self.streams.by_id(id) else {
            self.count_late(now, 0, events);
            return;
        };
        let key = stream.key();
        match head::decode_end(payload, max_head) {
            Ok((status, trailers)) => {
                if stream.recv.fin || (status.is_none() && !stream.recv.is_between_messages()) {
                    let error = StreamError::Protocol("END came inside a message or after the end".to_owned());
                    self.give_up_stream(now, id, error, events);
                    return;
                }
                stream.recv.fin = true;
                stream.recv.status = status;
                stream.recv.trailers = trailers;
                self.nuisance.earn();
                self.end_of_reply(key, events);
            }
            Err(error) => self.give_up_stream(now, id, stream_error(error), events),
        }
    }

    pub(super) fn handle_reset(&mut self, now: Instant, id: StreamId, code: u32, events: &mut Events) {
        if !self.check_opened(id, events) {
            return;
        }
        // At a server every reset counts, whether or not its stream still lives: opening and resetting costs the client nothing.
        if self.role == Role::Server {
            self.count_vain_call(now, events);
        }
        let Some(stream) = self.streams.by_id(id) else { return };
        let key = stream.key();
        match self.role {
            Role::Client => {
                stream.fail(StreamError::of_reset(ErrorCode::from_u32(code)), events);
            }
            Role::Server => {
                stream.fail(
                    StreamError::Reset {
                        code: ErrorCode::from_u32(code),
                    },
                    events,
                );
                // The client ended it: nothing of its own can come late.
                stream.recv.fin = true;
                self.remove(key);
                events.ended.push(Ended {
                    key,
                    cause: EndCause::Cancelled,
                });
            }
        }
    }

    pub(super) fn handle_credit(&mut self, now: Instant, id: StreamId, more: u32, events: &mut Events) {
        if more < TINY_CREDIT_BYTES {
            self.count_nuisance(now, events);
        }
        if id == StreamId::CONNECTION {
            match add_credit(self.send_credit, more) {
                Some(credit) => {
                    self.send_credit = credit;
                    self.feed_starved();
                }
                None => self.fail(
                    ErrorCode::FlowControl,
                    "the connection's credit is zero or overflows",
                    events,
                ),
            }
            return;
        }
        if !self.check_opened(id, events) {
            return;
        }
        let Some(stream) = self.streams.by_id(id) else { return };
        let key = stream.key();
        match add_credit(stream.send.credit, more) {
            Some(credit) => {
                stream.send.credit = credit;
                self.line_up(key);
            }
            None => self.fail(
                ErrorCode::FlowControl,
                format!("the credit of stream {id:?} is zero or overflows"),
                events,
            ),
        }
    }

    /// Ends the connection if nobody ever opened `id`.
    fn check_opened(&mut self, id: StreamId, events: &mut Events) -> bool {
        if id > self.newest || id == StreamId::CONNECTION {
            self.fail(
                ErrorCode::Protocol,
                format!("a frame for stream {id:?}, which nobody opened"),
                events,
            );
            return false;
        }
        true
    }

    /// This side ends a stream because the peer broke a rule on it; the connection lives on.
    ///
    /// At a server it counts as a reset does: provoking one costs the client nothing either.
    pub(super) fn give_up_stream(&mut self, now: Instant, id: StreamId, error: StreamError, events: &mut Events) {
        let Some(stream) = self.streams.by_id(id) else { return };
        let key = stream.key();
        if self.role == Role::Client && (stream.error.is_some() || stream.recv.fin) {
            // It was told once; whatever else it sends here is late.
            self.count_late(now, 0, events);
            return;
        }
        match self.role {
            Role::Client => {
                let code = match error {
                    StreamError::TooLarge { .. } => ErrorCode::TooLarge,
                    _ => ErrorCode::Protocol,
                };
                stream.fail(error, events);
                self.outbox.push_reset(id, code);
            }
            Role::Server => {
                let status = match &error {
                    StreamError::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
                    StreamError::Compressed => Status::unimplemented(error.to_string()),
                    _ => Status::invalid_argument(error.to_string()),
                };
                stream.fail(error, events);
                self.remove(key);
                self.outbox.push_end(id, Some(&status), &Metadata::new());
                events.ended.push(Ended {
                    key,
                    cause: EndCause::Refused,
                });
                self.count_vain_call(now, events);
            }
        }
    }

    /// Closes a stream and frees what it holds.
    pub(super) fn remove(&mut self, key: StreamKey) {
        if self.streams.remove_whole(key) {
            // It neither holds nor awaits anything.
            if self.streams.is_empty() {
                self.came_to_rest();
            }
            self.publish();
            return;
        }
        let Some(stream) = self.streams.remove(key) else { return };
        self.queued_answers -= stream.send.uncount();
        let late = (!stream.recv.fin).then(|| stream.recv.window.left());
        let unread = stream.recv.unread();
        self.assembling = self.assembling.saturating_sub(stream.recv.assembly_bytes());
        // A task that a handler gave the request's stream to waits for what will not come.
        if let Some(waker) = stream.recv.waker.take()
            && self.role == Role::Server
        {
            self.woken.push(waker);
        }
        if let Some(waker) = stream.send.take_waker() {
            self.woken.push(waker);
        }
        stream.reset();
        if let Some(credit) = late {
            self.expect_late(credit);
        }
        if unread > 0 {
            self.credit_connection(unread);
        }
        if let Some(waker) = self.openers.pop() {
            self.woken.push(waker);
        }
        if self.streams.is_empty() {
            self.came_to_rest();
        }
        self.publish();
    }
}

/// The message in `body` if it is whole, small and the only one.
fn only_message(body: &[u8], body_len: usize) -> Option<&[u8]> {
    if body.len() != body_len || body_len >= LINK_BYTES_MIN {
        return None;
    }
    let (prefix, message) = body.split_first_chunk::<MESSAGE_PREFIX_BYTES>()?;
    let len = message_len(*prefix, usize::MAX).ok()?;
    (len == message.len()).then_some(message)
}
