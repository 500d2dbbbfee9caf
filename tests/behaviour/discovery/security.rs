//! A registry is not trusted: what an endpoint must offer and prove is fixed by the client.

use std::sync::Arc;

use sinew::{Channel, ClientTls, Code, Endpoint, HandlerRan, MemRegistry};

use super::{Node, names, who};
use crate::support::bounded;
use crate::support::certs::Authority;

/// What a call comes to when the registry lists these addresses.
async fn called(builder: sinew::ChannelBuilder, addresses: &[&str]) -> sinew::Status {
    let registry = MemRegistry::new();
    let addresses = addresses.iter().map(|text| text.parse().unwrap());
    registry.put("discovery.Who", Endpoint::with_addresses(addresses));
    let channel = builder.resolver(registry.resolver("discovery.Who")).lazy("discovery.Who").unwrap();
    bounded(who(&channel).name().into_future()).await.unwrap_err()
}

#[tokio::test]
async fn clear_text_beyond_the_machine_is_the_clients_choice() {
    for address in ["tcp://192.0.2.1:1", "tcp://192.0.2.1:1?dangerous_plaintext"] {
        let refused = called(Channel::builder(), &[address]).await;
        assert_eq!(
            (refused.code(), refused.handler_ran()),
            (Code::Unavailable, HandlerRan::No)
        );
        assert!(
            refused.message().contains("the connection is not encrypted"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_client_with_tls_takes_no_clear_text_not_even_on_loopback() {
    let [name] = names();
    let node = Node::start(&name).await;
    let tls = Channel::builder().tls(Authority::shared().client());
    let refused = called(tls, &[&format!("mem:{name}"), "tcp://127.0.0.1:1"]).await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("is not encrypted, which `.tls(..)` demands"),
        "{refused}"
    );
    assert_eq!(node.serving.connections(), 0);
}

#[tokio::test]
async fn an_encrypted_endpoint_must_prove_to_be_the_service() {
    let authority = Authority::shared();
    let serving = sinew::Server::builder()
        .service(super::WhoServer::new(super::Named {
            name: "tls".to_owned(),
            let_go: Arc::default(),
            fails: Arc::default(),
        }))
        .tls(authority.server())
        .bind("tls://127.0.0.1:0")
        .start()
        .await
        .unwrap();
    // Its certificate is good for the address it has, and that is not enough.
    let refused = called(Channel::builder().tls(authority.client()), &[&serving.target()]).await;
    assert!(
        refused.message().contains("for other names than the one called"),
        "{refused}"
    );
    let registry = MemRegistry::new();
    registry.put("discovery.Who", Endpoint::new(serving.target().parse().unwrap()));
    let named: ClientTls = authority.client().server_name("localhost").unwrap();
    let channel = Channel::builder().tls(named).resolver(registry.resolver("discovery.Who")).lazy("discovery.Who");
    assert_eq!(
        bounded(who(&channel.unwrap()).name().into_future()).await.unwrap(),
        "tls"
    );
    // A list in the target is the client's own word.
    let target = format!("static:///{}", serving.target());
    let channel = Channel::builder().tls(authority.client()).lazy(&target).unwrap();
    assert_eq!(bounded(who(&channel).name().into_future()).await.unwrap(), "tls");
}

#[tokio::test]
async fn an_endpoint_without_an_address_is_not_used() {
    let refused = called(Channel::builder(), &[]).await;
    assert!(refused.message().contains("it has no address"), "{refused}");
}

/// Its clear text is refused, and does not stand in the way of what is offered beside it.
#[tokio::test]
async fn what_is_refused_of_an_endpoint_leaves_the_rest() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let registry = MemRegistry::new();
    let addresses = ["tcp://192.0.2.1:1".to_owned(), format!("mem:{name}")];
    let addresses = addresses.iter().map(|text| text.parse().unwrap());
    registry.put("discovery.Who", Endpoint::with_addresses(addresses));
    let channel = Channel::builder().resolver(registry.resolver("discovery.Who")).lazy("discovery.Who").unwrap();
    assert_eq!(bounded(who(&channel).name().into_future()).await.unwrap(), name);
}
