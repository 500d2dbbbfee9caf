//! The generated service, and how the benchmark's messages become the generated ones.

use load::messages;

#[expect(clippy::too_many_lines, reason = "generated")]
mod generated {
    tonic::include_proto!("bench");
}

pub(crate) use generated::*;

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
        let role = match user.role {
            messages::Role::Guest => user_message::Role::Guest(Nothing {}),
            messages::Role::Member { level } => user_message::Role::Member(Member { level }),
            messages::Role::Admin(area) => user_message::Role::Admin(area),
        };
        let messages::Address {
            street,
            city,
            zip,
            country,
        } = user.address;
        let device = |device: messages::Device| Device {
            name: device.name,
            last_seen: device.last_seen,
        };
        Self {
            id: user.id,
            name: user.name,
            email: user.email,
            verified: user.verified,
            balance: user.balance,
            created_at: user.created_at,
            role: Some(role),
            address: Some(Address {
                street,
                city,
                zip,
                country,
            }),
            tags: user.tags,
            devices: user.devices.into_iter().map(device).collect(),
            preferences: user.preferences,
            referrer: user.referrer,
        }
    }
}
