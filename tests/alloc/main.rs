//! Heap allocations of calls in the steady state, held to the number, and the peak of what decoding a hostile message takes.
//!
//! Each thread counts its own. Client and server run on a thread each, so what one side allocates is told apart from the other.

#![expect(unsafe_code, reason = "an allocator that counts has to implement `GlobalAlloc`")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../../benches/chain/services.rs"]
mod services;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;

use services::{Bare, Calls, Five, LeastServer, One};
use sinew::{Server, Status, service};
use tokio::sync::oneshot;

/// Counts allocations of the thread that makes them.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread allocated and nobody freed here; what it freed for others makes it negative.
    static HELD: Cell<i64> = const { Cell::new(0) };
    /// The most that `HELD` was.
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The most bytes that `work` held at a time on this thread, beyond those from before.
fn peak_of(work: impl FnOnce()) -> i64 {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    work();
    PEAK.with(Cell::get) - before
}

fn hold(bytes: usize) {
    let _ending = HELD.try_with(|held| {
        held.set(held.get().saturating_add_unsigned(bytes as u64));
        PEAK.try_with(|peak| peak.set(peak.get().max(held.get())))
    });
}

fn release(bytes: usize) {
    let _ending = HELD.try_with(|held| held.set(held.get().saturating_sub_unsigned(bytes as u64)));
}

/// Allocations of this thread so far.
fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

fn count() {
    // A thread that is ending has no counter left; nobody reads it any more.
    let _ending = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every method passes its arguments to `System` unchanged, and counting neither allocates (the counters are
// constant-initialised `Cell`s without destructors) nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size());
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // The new memory may be elsewhere; then both exist while it is copied.
        hold(new_size);
        release(layout.size());
        // SAFETY: as for `alloc`; `old` came from `System`, as all memory of this allocator does.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        release(layout.size());
        // SAFETY: as for `realloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[service(encoding = "compact")]
trait Small {
    /// Its values need no heap.
    async fn add(&self, a: u64, b: u64) -> Result<u64, Status>;
    /// Its value needs the heap.
    async fn echo(&self, text: String) -> Result<String, Status>;
    /// Allocations of the server's thread so far.
    async fn allocations(&self) -> u64;
}

struct Handler;

impl Small for Handler {
    async fn add(&self, a: u64, b: u64) -> Result<u64, Status> {
        Ok(a + b)
    }

    async fn echo(&self, text: String) -> Result<String, Status> {
        Ok(text)
    }

    async fn allocations(&self) -> u64 {
        allocations()
    }
}

/// Calls that are made until every pool, table and queue has its size.
const WARM_UP: u32 = 2_000;
/// Calls that are counted together.
const CALLS: u32 = 500;
/// Counts of which the least is taken: on a machine that is busy with other things a handler may look slow, and a slow one gets a
/// task of its own.
const ROUNDS: u32 = 20;
/// What the rest of the process may add per call: timers, and the one call that asks for the count.
const STRAY: f64 = 0.05;

/// Allocations per call on either side.
#[derive(Debug)]
struct PerCall {
    client: f64,
    server: f64,
}

impl PerCall {
    fn is(&self, client: u32, server: u32) -> bool {
        (self.client - f64::from(client)).abs() <= STRAY && (self.server - f64::from(server)).abs() <= STRAY
    }
}

/// Runs `work` with a client of a server that has a thread of its own.
fn with_server<T>(work: impl AsyncFnOnce(SmallClient) -> T) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (target_sender, target) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = thread::spawn(move || {
        runtime().block_on(async {
            let server =
                Server::builder().service(SmallServer::new(Handler)).bind("127.0.0.1:0").start().await.unwrap();
            target_sender.send(server.target()).unwrap();
            // The sender is dropped when the client is done.
            let _done = stopped.await;
        });
    });
    let target = target.recv().unwrap();
    let result = runtime().block_on(async { work(SmallClient::connect(&target).await.unwrap()).await });
    drop(stop);
    server.join().unwrap();
    result
}

/// Counts what a call allocates on each side.
fn per_call(call: impl AsyncFn(&SmallClient)) -> PerCall {
    with_server(async |client| {
        for _ in 0..WARM_UP {
            call(&client).await;
        }
        let mut least = PerCall {
            client: f64::MAX,
            server: f64::MAX,
        };
        for _ in 0..ROUNDS {
            let server_before = client.allocations().await.unwrap();
            let client_before = allocations();
            for _ in 0..CALLS {
                call(&client).await;
            }
            let client_count = allocations() - client_before;
            let server_count = client.allocations().await.unwrap() - server_before;
            let each = |count: u64| f64::from(u32::try_from(count).unwrap()) / f64::from(CALLS);
            least.client = least.client.min(each(client_count));
            least.server = least.server.min(each(server_count));
        }
        least
    })
}

/// The design allows two on each side beyond the values; there are none, and this keeps it so.
#[test]
fn a_small_call_allocates_nothing_of_its_own() {
    let plain = per_call(async |client| assert_eq!(client.add(1, 2).await.unwrap(), 3));
    assert!(plain.is(0, 0), "{plain:?}");
    // The client's text and the one it gets back; the server's, which it gives back.
    let text = per_call(async |client| {
        let text = client.echo("thirty-two bytes of ping payload".to_owned()).await.unwrap();
        assert_eq!(text.len(), 32);
    });
    assert!(text.is(2, 1), "{text:?}");
}

#[test]
fn stacked_links_allocate_nothing() {
    let chains = [
        ("no link", Calls::of(&LeastServer::new(Bare))),
        ("one link", Calls::of(&LeastServer::new(One))),
        ("five links", Calls::of(&LeastServer::new(Five))),
    ];
    for (name, mut calls) in chains {
        // The first call fills the thread's pool of buffers.
        calls.run();
        let before = allocations();
        for _ in 0..100 {
            calls.run();
        }
        assert_eq!(allocations() - before, 0, "{name}");
    }
}

/// A value that nests as deep as its sender likes.
#[derive(Debug, serde::Deserialize)]
struct Tree {
    #[expect(dead_code, reason = "only its size and its reading matter")]
    below: Vec<Self>,
}

/// The peak of decoding `bytes`, as a multiple of their number times `element`, the size of the largest element.
fn factor<T: serde::de::DeserializeOwned>(bytes: &[u8], element: usize, readable: bool) -> f64 {
    let peak = peak_of(|| assert_eq!(sinew::wire::decode::<T>(bytes).is_ok(), readable));
    let peak = f64::from(u32::try_from(peak).unwrap());
    peak / f64::from(u32::try_from(bytes.len() * element).unwrap())
}

/// An array of 32-bit length `claimed` with these bytes in it.
fn array(claimed: u32, content: &[u8]) -> Vec<u8> {
    [&[0xdd][..], &claimed.to_be_bytes(), content].concat()
}

/// What `wire::codec` states: with the collections of `std`, eight times bytes times the largest element; three for one list.
#[test]
fn decoding_takes_no_more_memory_than_stated() {
    type Wide = Option<[u64; 32]>;
    const WIDE: usize = size_of::<Wide>();
    // Legal amplification: a byte per element of 264. The lengths stand around the one at which the list grows for the last time.
    for exponent in [4_u32, 5, 6] {
        for elements in [-1_i32, 0, 1] {
            let first = u32::try_from(1024 * 1024 / WIDE).unwrap();
            let elements = (first << exponent).saturating_add_signed(elements);
            let bytes = array(elements, &vec![0xc0; elements as usize]);
            let list = factor::<Vec<Wide>>(&bytes, WIDE, true);
            assert!((0.9..=3.0).contains(&list), "{elements}: {list}");
        }
    }

    // Claims that nest: none of them is kept.
    for link in [&[0xdc, 0xff, 0xff][..], &[0xdd, 0xff, 0xff, 0xff, 0xff]] {
        for times in [1, 10, 60, 100_000] {
            let bomb: Vec<u8> = link.iter().copied().cycle().take(link.len() * times).collect();
            let tree = factor::<Tree>(&bomb, size_of::<Tree>(), false);
            assert!(tree <= 8.0, "{times}: {tree}");
        }
    }

    // A claim that uses up what may be allocated ahead, then many small collections, each with more room than it needs.
    type Element = [u64; 3];
    let one_each = array(u32::MAX, &[0x91, 0x93, 0, 0, 0].repeat(100_000));
    let lists = factor::<Vec<Vec<Element>>>(&one_each, size_of::<Element>(), false);
    assert!(lists <= 8.0, "{lists}");
    let one_each = array(u32::MAX, &[0x91, 0xc0].repeat(100_000));
    let lists = factor::<Vec<Vec<Option<[u64; 2]>>>>(&one_each, size_of::<Element>(), false);
    assert!((2.0..=8.0).contains(&lists), "{lists}");
    let sets = factor::<Vec<BTreeSet<Option<[u64; 2]>>>>(&one_each, size_of::<Element>(), false);
    assert!((4.0..=8.0).contains(&sets), "{sets}");
}
