//! What may be said about one call: deadline, metadata, waiting, the ambient context.

use std::time::Duration;

use sinew::{Channel, Code, Cx, HandlerRan, Origin, Server, Status, Streaming, service};

use crate::support::bounded;
use crate::support::fixture::{Fixture, Served, unique};

#[service(name = "options.Mirror")]
pub(crate) trait Mirror {
    /// What is left of the deadline, in milliseconds.
    async fn time_left(&self, cx: &Cx) -> Option<u64>;
    #[rpc(timeout = "400ms")]
    async fn limited(&self, cx: &Cx) -> Option<u64>;
    async fn stream_time_left(&self, cx: &Cx) -> Result<Streaming<Option<u64>>, Status>;
    /// The values of a key of the request.
    async fn metadata(&self, cx: &Cx, key: &str) -> Vec<String>;
    async fn answers(&self, cx: &Cx) -> Result<u64, Status>;
    async fn watch(&self, cx: &Cx) -> Result<Streaming<u64>, Status>;
}

struct Glass;

fn millis(cx: &Cx) -> Option<u64> {
    cx.time_left().map(|left| u64::try_from(left.as_millis()).unwrap())
}

fn put(cx: &Cx) -> Result<(), Status> {
    let wrong = |error: sinew::MetadataError| Status::internal(error.to_string());
    cx.set_reply_metadata("first", "head").map_err(wrong)?;
    cx.set_trailer("last", "tail").map_err(wrong)
}

impl Mirror for Glass {
    async fn time_left(&self, cx: &Cx) -> Option<u64> {
        millis(cx)
    }
    async fn limited(&self, cx: &Cx) -> Option<u64> {
        millis(cx)
    }
    async fn stream_time_left(&self, cx: &Cx) -> Result<Streaming<Option<u64>>, Status> {
        Ok(Streaming::iter([millis(cx)]))
    }
    async fn metadata(&self, cx: &Cx, key: &str) -> Vec<String> {
        let values = cx.metadata().get_all(key);
        values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
    }
    async fn answers(&self, cx: &Cx) -> Result<u64, Status> {
        put(cx)?;
        Ok(3)
    }
    async fn watch(&self, cx: &Cx) -> Result<Streaming<u64>, Status> {
        put(cx)?;
        Ok(Streaming::iter([1, 2]))
    }
}

async fn mirror() -> (MirrorClient, Served) {
    let served = Fixture::Mem.serve(Server::builder().service(MirrorServer::new(Glass))).await;
    (MirrorClient::from_channel(served.channel.clone()), served)
}

/// Over a connection and through `local`.
async fn everywhere(test: impl AsyncFn(MirrorClient)) {
    let (client, _served) = mirror().await;
    bounded(test(client)).await;
    bounded(test(MirrorClient::local(Glass))).await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_earliest_of_those_that_hold() {
    everywhere(async |mirror| {
        assert_eq!(mirror.time_left().await.unwrap(), Some(10_000), "the default");
        assert_eq!(
            mirror.time_left().timeout("30s").await.unwrap(),
            Some(30_000),
            "the call's own"
        );
        assert_eq!(
            mirror.time_left().timeout(Duration::from_millis(70)).await.unwrap(),
            Some(70)
        );
        assert_eq!(mirror.limited().await.unwrap(), Some(400), "the method's");
        assert_eq!(
            mirror.limited().timeout("90ms").await.unwrap(),
            Some(90),
            "the earlier of both"
        );
        assert_eq!(
            mirror.limited().timeout("1h").await.unwrap(),
            Some(400),
            "the earlier of both"
        );
        assert_eq!(mirror.time_left().detached().await.unwrap(), None);
        let ambient = Cx::new().with_timeout("150ms").unwrap();
        assert_eq!(
            mirror.time_left().within(&ambient).await.unwrap(),
            Some(150),
            "the ambient one"
        );
        assert_eq!(
            mirror.time_left().within(&ambient).timeout("1h").await.unwrap(),
            Some(150)
        );
        assert_eq!(
            mirror.time_left().within(&ambient).timeout("20ms").await.unwrap(),
            Some(20)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_default_deadline_covers_the_opening_of_a_stream_only() {
    everywhere(async |mirror| {
        let first = async |call: sinew::Call<Streaming<Option<u64>>, Status>| {
            call.await.unwrap().next().await.unwrap().unwrap()
        };
        assert_eq!(first(mirror.stream_time_left()).await, None);
        assert_eq!(first(mirror.stream_time_left().timeout("30s")).await, Some(30_000));
        let ambient = Cx::new().with_timeout("150ms").unwrap();
        assert_eq!(first(mirror.stream_time_left().within(&ambient)).await, Some(150));
    })
    .await;
}

#[tokio::test]
async fn a_bad_duration_ends_that_call_and_is_never_sent() {
    everywhere(async |mirror| {
        for text in ["", "soon", "5", "1 fortnight", "-1s"] {
            let failed = mirror.time_left().timeout(text).await.unwrap_err();
            assert_eq!(
                (failed.code(), failed.handler_ran()),
                (Code::InvalidArgument, HandlerRan::No),
                "{text:?}"
            );
            assert!(failed.message().contains("250ms"), "says what to write: {failed}");
        }
        mirror.time_left().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn metadata_arrives_in_order_and_bad_metadata_is_refused_here() {
    everywhere(async |mirror| {
        let call = mirror.metadata("tenant").metadata("tenant", "a").metadata("other", "x").metadata("tenant", "b");
        assert_eq!(call.await.unwrap(), ["a", "b"]);
        for (key, value) in [
            ("Tenant", "a"),
            ("", "a"),
            ("tenant", "new\nline"),
            ("tenant", "\u{e4}"),
        ] {
            let failed = mirror.metadata("tenant").metadata(key, value).await.unwrap_err();
            assert_eq!(
                (failed.code(), failed.handler_ran()),
                (Code::InvalidArgument, HandlerRan::No),
                "{key:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn with_meta_brings_metadata_and_trailers() {
    everywhere(async |mirror| {
        let (value, meta) = mirror.answers().with_meta().await.unwrap();
        assert_eq!(
            (value, meta.metadata().get("first"), meta.trailers().get("last")),
            (3, Some("head"), Some("tail"))
        );
        let (mut items, meta) = mirror.watch().with_meta().await.unwrap();
        assert_eq!(meta.metadata().get("first"), Some("head"));
        while let Some(item) = items.next().await {
            item.unwrap();
        }
        assert_eq!(items.trailers().get("last"), Some("tail"));
    })
    .await;
}

/// Calls the mirror from within a handler.
#[service(name = "options.Front")]
pub(crate) trait Front {
    async fn unmarked(&self) -> Result<Vec<String>, Status>;
    async fn marked(&self, cx: &Cx) -> Result<Vec<String>, Status>;
    async fn own(&self, cx: &Cx) -> Result<Vec<String>, Status>;
    async fn detached(&self, cx: &Cx) -> Result<Vec<String>, Status>;
}

struct FrontDesk(MirrorClient);

impl Front for FrontDesk {
    async fn unmarked(&self) -> Result<Vec<String>, Status> {
        self.0.metadata("tenant").await
    }
    async fn marked(&self, cx: &Cx) -> Result<Vec<String>, Status> {
        cx.propagate("tenant");
        self.0.metadata("tenant").await
    }
    async fn own(&self, cx: &Cx) -> Result<Vec<String>, Status> {
        cx.propagate("tenant");
        self.0.metadata("tenant").metadata("tenant", "own").await
    }
    async fn detached(&self, cx: &Cx) -> Result<Vec<String>, Status> {
        cx.propagate("tenant");
        self.0.metadata("tenant").detached().await
    }
}

#[tokio::test]
async fn marked_metadata_alone_is_inherited() {
    everywhere(async |mirror| {
        let desk = || FrontServer::new(FrontDesk(mirror.clone()));
        let served = Fixture::Tcp.serve(Server::builder().service(desk())).await;
        for front in [
            FrontClient::from_channel(served.channel.clone()),
            FrontClient::from_channel(Channel::local(desk())),
        ] {
            let unmarked = front.unmarked().metadata("tenant", "t1").await.unwrap();
            assert!(unmarked.is_empty(), "nothing is inherited unasked");
            let marked = front.marked().metadata("tenant", "t1").metadata("tenant", "t2").metadata("other", "x");
            assert_eq!(marked.await.unwrap(), ["t1", "t2"]);
            assert_eq!(
                front.own().metadata("tenant", "t1").await.unwrap(),
                ["own"],
                "the call's own value wins"
            );
            assert!(front.detached().metadata("tenant", "t1").await.unwrap().is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn calls_fail_fast_unless_they_wait_for_ready() {
    let name = unique("mem:late");
    let mirror = MirrorClient::lazy(&name).unwrap();
    let failed = mirror.time_left().await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    assert_eq!(failed.origin(), Origin::Transport);
    assert!(failed.message().contains(&name), "names the target: {failed}");
    let waiting = tokio::spawn(mirror.time_left().wait_for_ready().into_future());
    let server = Server::builder().service(MirrorServer::new(Glass)).bind(&name).start().await.unwrap();
    assert!(bounded(waiting).await.unwrap().unwrap().is_some());
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_ready_ends_at_the_deadline() {
    let mirror = MirrorClient::lazy(&unique("mem:never")).unwrap();
    let failed = mirror.time_left().wait_for_ready().timeout("3s").await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.handler_ran()),
        (Code::DeadlineExceeded, HandlerRan::No)
    );
    let channel = Channel::builder().wait_for_ready().timeout("2s").lazy(&unique("mem:never")).unwrap();
    let failed = MirrorClient::from_channel(channel).time_left().await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_is_not_made_before_it_is_awaited() {
    let (mirror, served) = mirror().await;
    let call = mirror.time_left();
    tokio::task::yield_now().await;
    assert_eq!(served.serving.connections(), 0);
    // The call owns its arguments: another task may make it.
    tokio::spawn(call.into_future()).await.unwrap().unwrap();
    assert_eq!(served.serving.connections(), 1);
}

#[tokio::test]
async fn wrong_settings_of_a_channel_are_named() {
    let wrong = |result: Result<Channel, Status>| {
        let status = result.unwrap_err();
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::InvalidArgument, HandlerRan::No)
        );
        status.message().to_owned()
    };
    assert!(wrong(Channel::lazy("http://127.0.0.1:1")).contains("http"));
    assert!(wrong(Channel::builder().timeout("soon").lazy("mem:x")).contains("timeout"));
    assert!(wrong(Channel::builder().connect_timeout("0s").lazy("mem:x")).contains("connect_timeout"));
    assert!(wrong(Channel::builder().max_message_bytes(0).lazy("mem:x")).contains("max_message"));
}
