//! What stacked interceptors cost: a call in its slot behind no, one and five links.

mod services;

use criterion::Criterion;
use services::{Bare, Calls, Five, LeastServer, One};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    chain(&mut criterion);
    criterion.final_summary();
}

fn chain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chain");
    group.sample_size(30);
    let chains = [
        ("0 links", Calls::of(&LeastServer::new(Bare))),
        ("1 link", Calls::of(&LeastServer::new(One))),
        ("5 links", Calls::of(&LeastServer::new(Five))),
    ];
    for (name, mut calls) in chains {
        group.bench_function(name, |bencher| bencher.iter(|| calls.run()));
    }
    group.finish();
}
