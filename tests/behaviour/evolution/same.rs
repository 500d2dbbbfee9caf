//! Clients and servers of one version: every method of the table's contract, both encodings. Everything works.

use sinew::{CallError, Server};

use super::{compact, named};
use crate::support::fixture::Fixture;
use crate::support::hand::{Hand, OPEN, channel_to_hand};

/// Calls every method of both versions, each at a server of its own version.
macro_rules! same_version {
    ($module:ident) => {{
        use $module::{new, old};
        let text = |text: &str| text.to_owned();
        let server = Server::builder().service(old::ShopServer::new(old::Handler));
        let served = Fixture::Mem.serve(server).await;
        let shop = old::ShopClient::from_channel(served.channel.clone());
        let name = text("n");
        assert_eq!(shop.append_optional(1).await.unwrap(), "1");
        assert_eq!(shop.append_default(1).await.unwrap(), "1");
        assert_eq!(shop.append_required(1).await.unwrap(), "1");
        assert_eq!(shop.remove_optional(1, None).await.unwrap(), "1 None");
        assert_eq!(shop.remove_required(1, text("n")).await.unwrap(), "1 \"n\"");
        assert_eq!(shop.add_default(old::AddDefault { id: 1 }).await.unwrap(), "1");
        assert_eq!(shop.add_required(old::AddRequired { id: 1 }).await.unwrap(), "1");
        let value = old::AddMiddle {
            id: 1,
            name: name.clone(),
        };
        assert_eq!(shop.add_middle(value).await.unwrap(), "1 n");
        let value = old::RemoveLast {
            id: 1,
            name: name.clone(),
        };
        assert_eq!(shop.remove_last(value).await.unwrap(), "1 n");
        let value = old::RemoveDefaulted {
            id: 1,
            name: name.clone(),
        };
        assert_eq!(shop.remove_defaulted(value).await.unwrap(), "1 n");
        let value = old::RemoveMiddle {
            id: 1,
            name: name.clone(),
            on: true,
        };
        assert_eq!(shop.remove_middle(value).await.unwrap(), "1 true");
        let value = old::Reorder {
            id: 1,
            name: name.clone(),
        };
        assert_eq!(shop.reorder(value).await.unwrap(), "1 n");
        let value = old::ReorderAlike { first: 1, second: 2 };
        assert_eq!(shop.reorder_alike(value).await.unwrap(), "1 2");
        assert_eq!(shop.takes_variant(old::Kind::Sized(1)).await.unwrap(), "Sized(1)");
        assert_eq!(shop.gives_old_variant().await.unwrap(), old::Kind::Sized(1));
        assert_eq!(shop.gives_new_variant().await.unwrap(), old::Kind::Plain);
        assert!(matches!(shop.fails().await, Err(CallError::App(old::Trouble::Gone))));
        assert_eq!(shop.old_name(1).await.unwrap(), "1");

        let server = Server::builder().service(new::ShopServer::new(new::Handler));
        let served = Fixture::Mem.serve(server).await;
        let shop = new::ShopClient::from_channel(served.channel.clone());
        assert_eq!(shop.append_optional(1, Some(text("n"))).await.unwrap(), "1 Some(\"n\")");
        assert_eq!(shop.append_default(1, 2).await.unwrap(), "1 2");
        assert_eq!(shop.append_required(1, 2).await.unwrap(), "1 2");
        assert_eq!(shop.remove_optional(1).await.unwrap(), "1");
        assert_eq!(shop.remove_required(1).await.unwrap(), "1");
        let value = new::AddDefault {
            id: 1,
            name: name.clone(),
        };
        assert_eq!(shop.add_default(value).await.unwrap(), "1 n");
        let value = new::AddRequired {
            id: 1,
            name: name.clone(),
        };
        assert_eq!(shop.add_required(value).await.unwrap(), "1 n");
        let value = new::AddMiddle {
            id: 1,
            on: true,
            name: name.clone(),
        };
        assert_eq!(shop.add_middle(value).await.unwrap(), "1 true n");
        assert_eq!(shop.remove_last(new::RemoveLast { id: 1 }).await.unwrap(), "1");
        assert_eq!(
            shop.remove_defaulted(new::RemoveDefaulted { id: 1 }).await.unwrap(),
            "1"
        );
        let value = new::RemoveMiddle { id: 1, on: true };
        assert_eq!(shop.remove_middle(value).await.unwrap(), "1 true");
        assert_eq!(shop.reorder(new::Reorder { name, id: 1 }).await.unwrap(), "1 n");
        let value = new::ReorderAlike { second: 2, first: 1 };
        assert_eq!(shop.reorder_alike(value).await.unwrap(), "1 2");
        let value = new::Kind::Fancy(text("x"));
        assert_eq!(shop.takes_variant(value).await.unwrap(), "Fancy(\"x\")");
        assert_eq!(shop.gives_old_variant().await.unwrap(), new::Kind::Sized(1));
        assert_eq!(shop.gives_new_variant().await.unwrap(), new::Kind::Fancy(text("x")));
        assert!(matches!(
            shop.fails().await,
            Err(CallError::App(new::Trouble::Sold { .. }))
        ));
        assert_eq!(shop.new_name(1).await.unwrap(), "1");
        assert_eq!(shop.new_method(1).await.unwrap(), "1");
    }};
}

#[tokio::test]
async fn named_versions_understand_themselves() {
    same_version!(named);
}

#[tokio::test]
async fn compact_versions_understand_themselves() {
    same_version!(compact);
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Parcel {
    id: u64,
}

/// Says nothing about its encoding.
#[sinew::service(name = "evolution.Silent")]
trait Silent {
    async fn put(&self, parcel: Parcel) -> u64;
}

/// What the tables call "named" is what a service gets without the option.
#[tokio::test]
async fn named_is_the_default() {
    let (channel, mut connections) = channel_to_hand(Fixture::Mem);
    let client = SilentClient::from_channel(channel);
    let _call = tokio::spawn(client.put(Parcel { id: 1 }).into_future());
    let mut hand = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    let open = hand.read_kind(OPEN).await.unwrap();
    // Behind the head and the length: one argument, which is a map with the field's name.
    assert_eq!(open.payload[14 + 4..], [0x91, 0x81, 0xa2, b'i', b'd', 1]);
}
