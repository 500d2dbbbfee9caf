//! The generated service, and how the benchmark's messages become the generated ones.

use load::messages;
use pilota::FastStr;

#[expect(unsafe_code, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/volo_gen.rs"));
}

pub(crate) use generated::volo_gen::bench::*;

impl From<&messages::Echo> for EchoMessage {
    fn from(message: &messages::Echo) -> Self {
        Self {
            payload: message.payload.clone(),
        }
    }
}

impl From<&messages::User> for UserMessage {
    fn from(user: &messages::User) -> Self {
        let user = user.clone();
        let text = |text: String| FastStr::from_string(text);
        let role = match user.role {
            messages::Role::Guest => RoleMessage::Guest(Nothing {}),
            messages::Role::Member { level } => RoleMessage::Member(Member {
                level: level.cast_signed(),
            }),
            messages::Role::Admin(area) => RoleMessage::Admin(text(area)),
        };
        let messages::Address {
            street,
            city,
            zip,
            country,
        } = user.address;
        let device = |device: messages::Device| DeviceMessage {
            name: text(device.name),
            last_seen: device.last_seen.cast_signed(),
        };
        Self {
            id: user.id.cast_signed(),
            name: text(user.name),
            email: text(user.email),
            verified: user.verified,
            balance: user.balance,
            created_at: user.created_at,
            role,
            address: AddressMessage {
                street: text(street),
                city: text(city),
                zip: zip.cast_signed(),
                country: text(country),
            },
            tags: user.tags.into_iter().map(text).collect(),
            devices: user.devices.into_iter().map(device).collect(),
            preferences: user.preferences.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
            referrer: user.referrer.map(u64::cast_signed),
        }
    }
}
