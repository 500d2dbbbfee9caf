//! Tests of the context.

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{CancelCause, Cx, CxParts, Side, TraceContext};
use crate::metadata::Metadata;
use crate::time;

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

/// A context with an earlier deadline is the same call: what ends the call ends it, and what is set on one is set on the other.
#[tokio::test(start_paused = true)]
async fn a_context_with_a_timeout_is_the_same_call() {
    let call = Cx::from_parts(CxParts {
        deadline: Some(time::now() + Duration::from_millis(100)),
        metadata: {
            let mut metadata = Metadata::new();
            metadata.append("tenant", "a").unwrap();
            metadata
        },
        ..CxParts::default()
    });
    assert_eq!(
        call.with_timeout("5s").unwrap().time_left(),
        Some(Duration::from_millis(100)),
        "never later"
    );
    let step = call.with_timeout("40ms").unwrap();
    assert_eq!(step.time_left(), Some(Duration::from_millis(40)));
    step.set_trailer("by", "step").unwrap();
    step.insert(7_u32);
    call.set_trace(TraceContext::root());
    assert_eq!((step.trace(), step.get::<u32>()), (call.trace(), call.get::<u32>()));
    assert_eq!(call.take_reply().unwrap().1.get("by"), Some("step"));
    let mut cancelled = std::pin::pin!(step.cancelled());
    let mut draining = std::pin::pin!(step.draining());
    let noop = &mut Context::from_waker(Waker::noop());
    assert!(cancelled.as_mut().poll(noop).is_pending() && draining.as_mut().poll(noop).is_pending());
    call.set_draining();
    call.cancel(CancelCause::ClientGone);
    assert_eq!(cancelled.as_mut().poll(noop), Poll::Ready(CancelCause::ClientGone));
    assert!(step.is_draining() && step.is_cancelled() && draining.as_mut().poll(noop).is_ready());
    let read = step.with_metadata("user", "ada").unwrap();
    assert_eq!(
        (read.metadata().get("tenant"), read.metadata().get("user")),
        (Some("a"), Some("ada"))
    );
    assert!(call.metadata().get("user").is_none() && read.with_metadata("No Key", "x").is_err());
}

#[test]
fn repeated_baggage_is_one_list_and_no_log_shows_it() {
    let mut metadata = Metadata::new();
    metadata.append("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    metadata.append("baggage", "user=ada").unwrap();
    metadata.append("baggage", "plan=gold").unwrap();
    let trace = TraceContext::from_metadata(&metadata).unwrap();
    assert_eq!((trace.baggage(), trace.state()), (Some("user=ada,plan=gold"), None));
    assert!(!format!("{trace:?}").contains("ada"));
}
