# The benchmark's messages and service for Cap'n Proto: the shapes of `load::messages`.
# It has no map: the preferences are a list of pairs.
@0xe6f0c3b1a95d7d21;

struct EchoMessage {
  payload @0 :Data;
}

struct UserMessage {
  id @0 :UInt64;
  name @1 :Text;
  email @2 :Text;
  verified @3 :Bool;
  balance @4 :Float64;
  createdAt @5 :Int64;
  role :union {
    guest @6 :Void;
    member :group {
      level @7 :UInt32;
    }
    admin @8 :Text;
  }
  address @9 :Address;
  tags @10 :List(Text);
  devices @11 :List(Device);
  preferences @12 :List(Preference);
  referrer :union {
    nobody @13 :Void;
    user @14 :UInt64;
  }
}

struct Address {
  street @0 :Text;
  city @1 :Text;
  zip @2 :UInt32;
  country @3 :Text;
}

struct Device {
  name @0 :Text;
  lastSeen @1 :UInt64;
}

struct Preference {
  name @0 :Text;
  value @1 :Text;
}

interface Bench {
  echo @0 (message :EchoMessage) -> (message :EchoMessage);
  user @1 (message :UserMessage) -> (message :UserMessage);
  blob @2 (body :Data) -> (body :Data);
  work20us @3 (seed :UInt64) -> (value :UInt64);
  sleep1ms @4 ();
  stream @5 (items :UInt32, sink :Sink);
}

# How a server streams to its client: by calls that the library's flow control lets run ahead.
interface Sink {
  item @0 (message :EchoMessage) -> stream;
}
