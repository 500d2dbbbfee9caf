//! The messages of the benchmark, as a service would declare them, and the one value of each that is sent.
//!
//! Peers with a schema language declare the same shapes there and convert once, before the measurement.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The small message: 32 bytes of payload. Also the item of the streaming workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The payload, 32 bytes.
    pub payload: Bytes,
}

/// The structured message: a nested record of about 300 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Unique number.
    pub id: u64,
    /// Full name.
    pub name: String,
    /// Mail address.
    pub email: String,
    /// Whether the mail address was confirmed.
    pub verified: bool,
    /// Money on the account.
    pub balance: f64,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// What the user may do.
    pub role: Role,
    /// Where the user lives.
    pub address: Address,
    /// Labels.
    pub tags: Vec<String>,
    /// Logged-in devices.
    pub devices: Vec<Device>,
    /// Settings by name.
    pub preferences: HashMap<String, String>,
    /// Who brought the user here.
    pub referrer: Option<u64>,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Not registered.
    Guest,
    /// Registered, with a level.
    Member {
        /// The level, 0 for the lowest.
        level: u32,
    },
    /// May administrate the named area.
    Admin(String),
}

/// A postal address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Street and number.
    pub street: String,
    /// City.
    pub city: String,
    /// Postal code.
    pub zip: u32,
    /// Country code.
    pub country: String,
}

/// A logged-in device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What its owner calls it.
    pub name: String,
    /// Seconds since the epoch.
    pub last_seen: u64,
}

impl Echo {
    /// The message that `echo32` and the streams send.
    pub fn sample() -> Self {
        Self {
            payload: Bytes::from_static(b"thirty-two bytes of ping payload"),
        }
    }
}

impl User {
    /// The message that `user` sends.
    pub fn sample() -> Self {
        let text = str::to_owned;
        let device = |name: &str, last_seen| Device {
            name: text(name),
            last_seen,
        };
        Self {
            id: 7_309_482_113,
            name: text("Margarethe Lindqvist"),
            email: text("margarethe.lindqvist@example.org"),
            verified: true,
            balance: 1_284.75,
            created_at: 1_718_200_000,
            role: Role::Member { level: 3 },
            address: Address {
                street: text("Nybrogatan 17"),
                city: text("Stockholm"),
                zip: 11_439,
                country: text("SE"),
            },
            tags: vec![text("early-adopter"), text("newsletter"), text("beta")],
            devices: vec![device("phone", 1_763_800_000), device("work laptop", 1_763_812_345)],
            preferences: [
                ("language", "sv-SE"),
                ("theme", "dark"),
                ("currency", "SEK"),
                ("timezone", "Europe/Stockholm"),
            ]
            .map(|(name, value)| (text(name), text(value)))
            .into(),
            referrer: Some(7_309_110_024),
        }
    }
}

/// Lets a peer that sends these very structs name them as its own message types.
impl From<&Self> for Echo {
    fn from(message: &Self) -> Self {
        message.clone()
    }
}

/// Lets a peer that sends these very structs name them as its own message types.
impl From<&Self> for User {
    fn from(message: &Self) -> Self {
        message.clone()
    }
}
