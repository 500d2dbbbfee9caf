// The benchmark's messages and service for volo: the shapes of `load::messages`.
namespace rs bench

struct EchoMessage {
    1: required binary payload,
}

struct Nothing {
}

struct Member {
    1: required i32 level,
}

union RoleMessage {
    1: Nothing guest,
    2: Member member,
    3: string admin,
}

struct AddressMessage {
    1: required string street,
    2: required string city,
    3: required i32 zip,
    4: required string country,
}

struct DeviceMessage {
    1: required string name,
    2: required i64 last_seen,
}

struct UserMessage {
    1: required i64 id,
    2: required string name,
    3: required string email,
    4: required bool verified,
    5: required double balance,
    6: required i64 created_at,
    7: required RoleMessage role,
    8: required AddressMessage address,
    9: required list<string> tags,
    10: required list<DeviceMessage> devices,
    11: required map<string, string> preferences,
    12: optional i64 referrer,
}

service Bench {
    EchoMessage echo(1: EchoMessage message),
    UserMessage user(1: UserMessage message),
    binary blob(1: binary body),
    i64 work20us(1: i64 seed),
    void sleep1ms(),
}
