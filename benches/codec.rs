//! Values to MessagePack and back, beside plain rmp-serde, which checks neither depth nor claims nor left-over bytes.

#[path = "peers/load/src/messages.rs"]
#[expect(unreachable_pub, reason = "the peers have it as a public module of a crate")]
mod messages;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use messages::{Echo, User};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sinew_core::method::Encoding;
use sinew_core::wire::codec;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec(&mut criterion);
    criterion.final_summary();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.sample_size(30);
    compare(&mut group, "echo32", &Echo::sample());
    compare(&mut group, "user", &User::sample());
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "plain rmp-serde is what is compared with")]
fn compare<T: Serialize + DeserializeOwned>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, value: &T) {
    for (kind, encoding) in [("compact", Encoding::Compact), ("named", Encoding::Named)] {
        let mut buffer = Vec::with_capacity(1024);
        group.bench_function(format!("{name}/{kind}/encode/sinew"), |bencher| {
            bencher.iter(|| {
                buffer.clear();
                codec::encode_into(&mut buffer, black_box(value), encoding)
            });
        });
        let mut plain = Vec::with_capacity(1024);
        group.bench_function(format!("{name}/{kind}/encode/rmp-serde"), |bencher| {
            bencher.iter(|| {
                plain.clear();
                match encoding {
                    Encoding::Named => rmp_serde::encode::write_named(&mut plain, black_box(value)),
                    _ => rmp_serde::encode::write(&mut plain, black_box(value)),
                }
            });
        });
        assert_eq!(buffer, plain, "both write the same bytes");
        group.bench_function(format!("{name}/{kind}/decode/sinew"), |bencher| {
            bencher.iter(|| codec::decode::<T>(black_box(&buffer)));
        });
        group.bench_function(format!("{name}/{kind}/decode/rmp-serde"), |bencher| {
            bencher.iter(|| rmp_serde::from_slice::<T>(black_box(&plain)));
        });
    }
}
