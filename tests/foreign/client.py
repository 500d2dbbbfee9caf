"""A client of sinew, written from the documentation of the wire alone (core/src/wire/mod.rs).

`client.py HOST:PORT` plays a fixed scenario against the service of tests/behaviour/foreign.rs, prints one line of JSON
per result, and exits with 1 at the first surprise. One thread: whoever waits for an answer reads frames for all calls.
"""
import collections, functools, io, json, msgpack, socket, struct, sys

HELLO, OPEN, DATA, REPLY, END, RESET, CREDIT, PING, PONG, GOAWAY = range(10)
PREFACE, FIN, STATUS = b"\xf5SINEW\x01\x00", 0x80, ("message", "details", "error")
FRAME, STREAM_WINDOW, CONNECTION_WINDOW = 32768, 65536, 1048576  # until a HELLO says more, which ours does not
number = functools.partial(int.from_bytes, byteorder="big")

def method_id(path):
    return functools.reduce(lambda hash, byte: (hash ^ byte) * 0x100000001B3 % 2**64, path.encode(), 0xCBF29CE484222325)

def read_metadata(payload):
    entries, end = {}, number(payload.read(2)) + payload.tell()
    while payload.tell() < end:
        key = payload.read(number(payload.read(1))).decode()
        entries[key] = payload.read(number(payload.read(2)))
    return entries

class Connection:
    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")
        self.hello, self.goaways, self.seen = None, [], collections.Counter()
        self.last, self.open = 0, {0: self}  # all that has credit, by stream: the connection and its open calls
        # What the server lets us send; what we let it send, and how much of that it is to get back.
        self.window, self.credit, self.left, self.owed = STREAM_WINDOW, CONNECTION_WINDOW, CONNECTION_WINDOW, 0
        self.socket.sendall(PREFACE)
        self.send(HELLO, 0, msgpack.packb({"agent": "client.py", "ping_interval_min_ms": 20}))
        self.reader.read(8)[:7] == PREFACE[:7] or sys.exit("this is not sinew")

    def send(self, kind, stream, payload):
        self.socket.sendall(struct.pack(">II", len(payload) << 8 | kind, stream) + payload)

    def give_back(self, size, *streams):
        for stream, flow in [(stream, self.open[stream]) for stream in streams if stream in self.open]:
            flow.owed += size
            if flow.owed >= STREAM_WINDOW // 2:
                self.send(CREDIT, stream, struct.pack(">I", flow.owed))
                flow.left, flow.owed = flow.left + flow.owed, 0

    def read_frame(self):
        header = self.reader.read(8) or sys.exit("the connection ended")
        size, kind, stream = number(header[:3]), header[3] & 0x1F, number(header[4:])
        if (kind == HELLO) != (self.hello is None) or size > FRAME or stream > self.last or 9 < kind < 16:
            sys.exit(f"a frame with the header {header.hex()} has no place here")
        payload, call = io.BytesIO(self.reader.read(size)), self.open.get(stream)
        self.seen[kind] += 1
        if kind == HELLO:
            self.hello = msgpack.unpackb(payload.read())
            self.credit += max(self.hello.get("connection_window", 0) - CONNECTION_WINDOW, 0)
            self.window = max(self.hello.get("stream_window", 0), STREAM_WINDOW)
        elif kind in (REPLY, DATA):
            metadata, data = read_metadata(payload) if kind == REPLY else {}, payload.read()
            for flow in {self, call or self}:
                flow.left -= len(data)
                flow.left >= 0 or sys.exit(f"more bytes than credit on stream {stream}")
            if call:
                call.metadata, call.data = call.metadata | metadata, call.data + data
                header[3] & FIN and call.end(code=0)
            else:  # the call is over, but its bytes used the connection's credit
                self.give_back(len(data), 0)
        elif kind == END and call:
            code, _retry, trailers, details = *payload.read(2), read_metadata(payload), payload.read()
            call.end(code=code, trailers=trailers, **dict(zip(STATUS, msgpack.unpackb(details or b"\x90"))))
        elif kind == RESET and call:
            call.end(reset=number(payload.read()))
        elif kind == CREDIT and call:
            call.credit += number(payload.read())
        elif kind == PING:
            self.send(PONG, 0, payload.read())
        elif kind == GOAWAY:
            self.goaways.append((number(payload.read(4)), number(payload.read(4))))
            for call in [call for stream, call in self.open.items() if stream > self.goaways[-1][0]]:
                call.end(reset=2)

class Call:
    def __init__(self, server, path, *args, timeout_ms=0, metadata={}, more=False):
        server.goaways and sys.exit("the server takes no further calls")
        server.last += 1
        server.open[server.last] = self
        self.server, self.id, self.outcome, self.metadata, self.data = server, server.last, None, {}, b""
        self.credit, self.left, self.owed = 0, STREAM_WINDOW, 0  # `credit` comes on top of the server's window
        tags = b"".join(struct.pack(f">B{len(k)}sH", len(k), k.encode(), len(v)) + v for k, v in metadata.items())
        self.send(args, not more, OPEN, struct.pack(">QIH", method_id(path), timeout_ms, len(tags)) + tags)

    def send(self, value, fin, kind=DATA, head=b""):
        data = msgpack.packb(value)
        data = struct.pack(">I", len(data)) + data
        while data and self.outcome is None:
            size = max(0, min(len(data), FRAME - len(head), self.server.window + self.credit, self.server.credit))
            if size or head:
                self.server.send(kind | (FIN if fin and size == len(data) else 0), self.id, head + data[:size])
                self.credit, self.server.credit = self.credit - size, self.server.credit - size
                kind, head, data = DATA, b"", data[size:]
            else:
                self.server.read_frame()

    def take(self, size):
        """Bytes of the server; their credit goes back as they are taken, also those of an incomplete message."""
        taken = b""
        while len(taken) < size and (self.data or self.outcome is None):
            self.data or self.server.read_frame()
            piece, self.data = self.data[: size - len(taken)], self.data[size - len(taken) :]
            self.server.give_back(len(piece), 0, self.id)
            taken += piece
        return taken

    def messages(self):
        while length := self.take(4):
            yield msgpack.unpackb(self.take(number(length)))

    def end(self, **outcome):
        self.outcome = outcome
        del self.server.open[self.id]

    def cancel(self):
        self.server.send(RESET, self.id, struct.pack(">I", 0))
        self.server.give_back(len(self.data), 0)
        self.end(cancelled=True)

def show(case, call, **more):
    result = {"case": case, "answers": list(call.messages()), "metadata": call.metadata, **call.outcome, **more}
    result["error"] = msgpack.unpackb(result.get("error") or b"\xc0")
    print(json.dumps(result, default=lambda data: data.decode("latin-1") if len(data) < 100 else len(data)), flush=True)

if __name__ == "__main__":
    call = functools.partial(Call, server := Connection(*sys.argv[1].rsplit(":", 1)))
    tea, tags = {"item": "tea", "pieces": 3}, {"tenant": b"acme", "trace-bin": b"\x00\xff"}
    show("quote", call("foreign.Depot/quote", tea, None, timeout_ms=5000, metadata=tags))
    show("compact", call("foreign.Compact/quote", ["tea", 3]))
    show("late", call("foreign.Depot/hold", 60_000, timeout_ms=100))
    for method, *args in ("refuse", "closed"), ("reserve", 100), ("nothing",), ("blob", 307200), ("items", 300, 10_000):
        show(method, call(f"foreign.Depot/{method}", *args))
    (upload := call("foreign.Depot/total", more=True)).send(bytes(3_000_000), fin=True)
    show("total", upload)
    endless = call("foreign.Depot/endless")
    next(endless.messages())
    endless.cancel()
    server.send(PING, 0, b"question")
    show("hold", call("foreign.Depot/hold", 300))
    leaving = call("foreign.Depot/leave")
    while len(server.goaways) < 2:
        server.read_frame()
    show("leave", leaving, goaways=server.goaways, kept_alive=server.seen[PING] > 1, pongs=server.seen[PONG])
    server.reader.read() and sys.exit("bytes came after the last answer")
