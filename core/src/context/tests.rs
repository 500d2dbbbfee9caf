//! Tests of the context.

use std::time::Duration;

use super::{CancelCause, Cx, CxParts, Side, TraceContext};
use crate::metadata::Metadata;

#[derive(Clone, Debug, PartialEq)]
struct User(&'static str);

fn child_of(parent: &Cx, metadata: Metadata) -> Cx {
    Cx::from_parts(CxParts {
        side: Some(Side::Server),
        metadata,
        parent: Some(parent.clone()),
        ..CxParts::default()
    })
}

#[test]
fn extensions_are_seen_below_and_by_nested_calls() {
    let cx = Cx::new();
    assert_eq!(cx.insert(User("ada")), None);
    assert_eq!(cx.insert(User("bob")), Some(User("ada")));
    let nested = child_of(&cx, Metadata::new());
    assert_eq!(nested.get::<User>(), Some(User("bob")));
    nested.insert(User("eve"));
    assert_eq!(
        cx.get::<User>(),
        Some(User("bob")),
        "a nested call does not write upwards"
    );
}

#[test]
fn only_marked_metadata_is_inherited() {
    let mut metadata = Metadata::new();
    metadata.insert("tenant", "t1").unwrap();
    metadata.insert("authorization", "secret").unwrap();
    let outer = child_of(&Cx::new(), metadata);
    outer.propagate("tenant");
    outer.propagate("tenant");
    let nested = child_of(&outer, Metadata::new());
    let inherited = nested.inherited_metadata();
    assert_eq!(inherited.get("tenant"), Some("t1"));
    assert_eq!(inherited.len(), 1);
}

#[test]
fn a_trace_is_continued_with_an_own_span() {
    let mut metadata = Metadata::new();
    let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    metadata.insert("traceparent", text).unwrap();
    let cx = child_of(&Cx::new(), metadata);
    let trace = cx.trace().unwrap();
    assert_eq!(trace.trace_id(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(trace.parent_id(), Some(0xb7ad_6b71_6920_3331));
    assert_ne!(trace.span_id(), 0xb7ad_6b71_6920_3331);
    assert_eq!(cx.trace(), Some(trace.clone()), "asked twice, the same span");
    assert_eq!(child_of(&cx, Metadata::new()).trace(), Some(trace));
    assert!(TraceContext::root().is_sampled());
}

#[tokio::test]
async fn cancelled_resolves_once_set() {
    let cx = Cx::new();
    let waiting = tokio::spawn({
        let cx = cx.clone();
        async move { cx.cancelled().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    cx.cancel(CancelCause::ClientGone);
    cx.cancel(CancelCause::DeadlineExceeded);
    assert_eq!(waiting.await.unwrap(), CancelCause::ClientGone, "the first cause stays");
    assert_eq!(cx.cancelled().await, CancelCause::ClientGone);
}

#[tokio::test]
async fn the_ambient_context_follows_polls_and_spawns() {
    assert!(Cx::current().is_none());
    let cx = Cx::new();
    cx.insert(User("ada"));
    let seen = cx
        .carry_in(async {
            tokio::task::yield_now().await;
            let inner = tokio::spawn(Cx::carry(async {
                tokio::task::yield_now().await;
                Cx::current().and_then(|cx| cx.get::<User>())
            }));
            inner.await.unwrap()
        })
        .await;
    assert_eq!(seen, Some(User("ada")));
    assert!(Cx::current().is_none(), "the ambient context ends with the poll");
}

#[test]
fn a_renewed_context_shows_nothing_of_the_old_call() {
    let mut metadata = Metadata::new();
    metadata.insert("a", "b").unwrap();
    let old = child_of(&Cx::new(), metadata);
    old.insert(User("ada"));
    old.set_trailer("x", "y").unwrap();
    old.cancel(CancelCause::ClientGone);
    let fill = |parts: &mut CxParts| *parts = CxParts::default();
    let new = Cx::renew(Some(old), fill);
    assert!(new.metadata().is_empty() && new.get::<User>().is_none());
    assert!(new.take_reply().is_none() && !new.is_cancelled());

    let held = new.clone();
    held.insert(User("bob"));
    let third = Cx::renew(Some(new), fill);
    assert_eq!(held.get::<User>(), Some(User("bob")), "a held context is left alone");
    assert!(third.get::<User>().is_none());
}

#[tokio::test(start_paused = true)]
async fn time_left_counts_down() {
    let cx = Cx::new().with_timeout("1s").unwrap();
    tokio::time::advance(Duration::from_millis(400)).await;
    assert_eq!(cx.time_left(), Some(Duration::from_millis(600)));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(cx.time_left(), Some(Duration::ZERO));
    assert!(Cx::new().with_timeout("2 apples").is_err());
}
