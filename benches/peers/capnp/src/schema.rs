//! The generated service, and how the benchmark's messages are written into it and read from it.

use std::hint::black_box;

use anyhow::{Context, Result};
use load::ensure_same;
use load::messages::{Address, Device, Role, User};

#[expect(clippy::use_self, clippy::unwrap_used, reason = "generated")]
pub(crate) mod bench_capnp {
    include!(concat!(env!("OUT_DIR"), "/bench_capnp.rs"));
}

use bench_capnp::user_message;

/// Writes `user` into a message.
pub(crate) fn write_user(user: &User, mut to: user_message::Builder<'_>) {
    to.set_id(user.id);
    to.set_name(&user.name);
    to.set_email(&user.email);
    to.set_verified(user.verified);
    to.set_balance(user.balance);
    to.set_created_at(user.created_at);
    match &user.role {
        Role::Guest => to.reborrow().get_role().set_guest(()),
        Role::Member { level } => to.reborrow().get_role().init_member().set_level(*level),
        Role::Admin(area) => to.reborrow().get_role().set_admin(area),
    }
    let mut address = to.reborrow().init_address();
    address.set_street(&user.address.street);
    address.set_city(&user.address.city);
    address.set_zip(user.address.zip);
    address.set_country(&user.address.country);
    let mut tags = to.reborrow().init_tags(user.tags.len() as u32);
    for (index, tag) in (0..).zip(&user.tags) {
        tags.set(index, tag);
    }
    let mut devices = to.reborrow().init_devices(user.devices.len() as u32);
    for (index, device) in (0..).zip(&user.devices) {
        let mut to = devices.reborrow().get(index);
        to.set_name(&device.name);
        to.set_last_seen(device.last_seen);
    }
    let mut preferences = to.reborrow().init_preferences(user.preferences.len() as u32);
    for (index, (name, value)) in (0..).zip(&user.preferences) {
        let mut to = preferences.reborrow().get(index);
        to.set_name(name);
        to.set_value(value);
    }
    match user.referrer {
        None => to.get_referrer().set_nobody(()),
        Some(referrer) => to.get_referrer().set_user(referrer),
    }
}

/// Reads every field once, in place, as its user would; with `verify` copies them out and compares.
pub(crate) fn read_user(user: &User, verify: bool, from: user_message::Reader<'_>) -> Result<()> {
    if verify {
        return ensure_same(true, user, &copy_user(from)?);
    }
    black_box((
        from.get_id(),
        from.get_verified(),
        from.get_balance(),
        from.get_created_at(),
    ));
    black_box((from.get_name()?.to_str()?, from.get_email()?.to_str()?));
    match from.get_role().which()? {
        user_message::role::Guest(()) => {}
        user_message::role::Member(member) => _ = black_box(member.get_level()),
        user_message::role::Admin(area) => _ = black_box(area?.to_str()?),
    }
    let address = from.get_address()?;
    black_box((address.get_street()?.to_str()?, address.get_city()?.to_str()?));
    black_box((address.get_zip(), address.get_country()?.to_str()?));
    for tag in from.get_tags()? {
        black_box(tag?.to_str()?);
    }
    for device in from.get_devices()? {
        black_box((device.get_name()?.to_str()?, device.get_last_seen()));
    }
    for preference in from.get_preferences()? {
        black_box((preference.get_name()?.to_str()?, preference.get_value()?.to_str()?));
    }
    match from.get_referrer().which()? {
        user_message::referrer::Nobody(()) => {}
        user_message::referrer::User(referrer) => _ = black_box(referrer),
    }
    Ok(())
}

fn copy_user(from: user_message::Reader<'_>) -> Result<User> {
    let address = from.get_address()?;
    let tags = from.get_tags()?.iter().map(|tag| Ok(tag?.to_string()?));
    let devices = from.get_devices()?.iter().map(|device| {
        Ok(Device {
            name: device.get_name()?.to_string()?,
            last_seen: device.get_last_seen(),
        })
    });
    let preferences = from
        .get_preferences()?
        .iter()
        .map(|pair| Ok((pair.get_name()?.to_string()?, pair.get_value()?.to_string()?)));
    Ok(User {
        id: from.get_id(),
        name: from.get_name()?.to_string()?,
        email: from.get_email()?.to_string()?,
        verified: from.get_verified(),
        balance: from.get_balance(),
        created_at: from.get_created_at(),
        role: match from.get_role().which()? {
            user_message::role::Guest(()) => Role::Guest,
            user_message::role::Member(member) => Role::Member {
                level: member.get_level(),
            },
            user_message::role::Admin(area) => Role::Admin(area?.to_string()?),
        },
        address: Address {
            street: address.get_street()?.to_string()?,
            city: address.get_city()?.to_string()?,
            zip: address.get_zip(),
            country: address.get_country()?.to_string()?,
        },
        tags: tags.collect::<Result<_>>()?,
        devices: devices.collect::<Result<_>>()?,
        preferences: preferences.collect::<Result<_>>().context("a preference")?,
        referrer: match from.get_referrer().which()? {
            user_message::referrer::Nobody(()) => None,
            user_message::referrer::User(referrer) => Some(referrer),
        },
    })
}
