//! The list of endpoints on disk.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use sinew::{Channel, MemRegistry, Publisher, ResolveError, Resolver, RoundRobin};

use super::{Node, endpoint, names, registry_of, spread, who};

/// A registry that is down.
struct Down;

impl Resolver for Down {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        publisher.fail(ResolveError::new("the registry is down"));
        Box::pin(async move { publisher.closed().await })
    }
}

/// A registry that says nothing.
struct Silent;

impl Resolver for Silent {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move { publisher.closed().await })
    }
}

fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sinew-cache-{}-{name}.json", std::process::id()));
    let _absent = std::fs::remove_file(&path);
    path
}

fn channel(resolver: impl Resolver, path: &Path) -> Channel {
    let builder = Channel::builder().resolver(resolver).balancer(RoundRobin).endpoint_cache(path);
    builder.lazy("discovery.Who").unwrap()
}

async fn written(path: &Path, names: &[String]) {
    for _ in 0..1_000 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if names.iter().all(|name| text.contains(name.as_str())) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{names:?} are not in {}", path.display());
}

#[tokio::test(start_paused = true)]
async fn a_client_starts_while_its_registry_is_down() {
    let names: [String; 2] = names();
    let (_one, _two) = (Node::start(&names[0]).await, Node::start(&names[1]).await);
    let path = path("cold");
    let none = who(&channel(Down, &path)).name().await.unwrap_err();
    assert!(none.message().contains("the registry is down"), "{none}");
    let registry = registry_of(&names[..1]);
    let warm = channel(registry.resolver("discovery.Who"), &path);
    assert_eq!(spread(&warm, 4).await.len(), 1);
    written(&path, &names[..1]).await;
    registry.put("discovery.Who", endpoint(&names[1]).with_weight(7).with_zone("z"));
    written(&path, &names).await;
    let list = warm.snapshot().list.unwrap();
    assert!(!list.is_stale && list.failure.is_none());
    drop(warm);

    let cold = channel(Down, &path);
    assert_eq!(spread(&cold, 40).await.len(), 2);
    let now = cold.snapshot();
    let list = now.list.unwrap();
    assert!(list.is_stale, "{list:?}");
    assert_eq!(list.failure.as_deref(), Some("the registry is down"));
    assert!(now.endpoints.iter().any(|one| one.endpoint.weight() == 7 && one.endpoint.zone() == "z"));
    // One that says nothing is waited for half a second.
    assert_eq!(spread(&channel(Silent, &path), 40).await.len(), 2);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_counts() {
    let names: [String; 2] = names();
    let (_one, _two) = (Node::start(&names[0]).await, Node::start(&names[1]).await);
    let path = path("warm");
    std::fs::write(&path, format!(r#"["mem:{}"]"#, names[0])).unwrap();
    let registry = MemRegistry::new();
    let channel = channel(registry.resolver("discovery.Who"), &path);
    // It lists nobody, which is a failure.
    assert_eq!(spread(&channel, 4).await.keys().collect::<Vec<_>>(), [&names[0]]);
    registry.put("discovery.Who", endpoint(&names[1]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(spread(&channel, 4).await.keys().collect::<Vec<_>>(), [&names[1]]);
    assert!(!channel.snapshot().list.unwrap().is_stale);
    written(&path, &names[1..]).await;
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_stops_nobody() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let path = path("broken");
    std::fs::write(&path, "[{]").unwrap();
    let registry = registry_of(std::slice::from_ref(&name));
    assert_eq!(
        spread(&channel(registry.resolver("discovery.Who"), &path), 4).await.len(),
        1
    );
    let nowhere = Path::new("/nonexistent/folder/list.json");
    assert_eq!(
        spread(&channel(registry.resolver("discovery.Who"), nowhere), 4).await.len(),
        1
    );
    let broken = channel(Down, nowhere);
    assert!(who(&broken).name().await.is_err());
    std::fs::remove_file(&path).unwrap();
    let one = Channel::builder().endpoint_cache("x").lazy("127.0.0.1:1").unwrap_err();
    assert!(one.message().contains("endpoint_cache"), "{one}");
}
