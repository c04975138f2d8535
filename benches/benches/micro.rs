//! Microbenchmarks of the engine: the senders' ring, an idle pass, the arithmetic of the order, and the shared state
//! table.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use galerna::fabric::{Row, TableId, TableSpec};
use galerna::multicast::column;
use galerna::multicast::order::Order;
use galerna::sst::Table;
use galerna::{Config, Delivery, Driver, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use std::hint::black_box;
use std::sync::Arc;

const MAIN: SubgroupId = SubgroupId(0);
/// Messages between two passes of the engine.
const BATCH: u64 = 256;
const MEMBERS: [usize; 4] = [3, 8, 16, 64];

/// A group of one member on shared memory. It has no peer to write to.
fn alone() -> Result<(Group, Driver), Error> {
    let path = std::env::temp_dir().join(format!("galerna-micro-{}.sock", std::process::id()));
    let member = Member { id: MemberId(1), address: format!("unix:{}", path.display()) };
    let config = Config::new("micro", FabricKind::Shm, vec![member]).with_member(MemberId(1));
    Group::join_driven(config, |message: Delivery<'_>| {
        black_box(message.payload.len());
    })
}

fn ring(c: &mut Criterion) {
    let Ok((group, mut driver)) = alone() else {
        return eprintln!("no group could be made: the ring is not measured");
    };
    let mut g = c.benchmark_group("ring");
    g.throughput(Throughput::Elements(BATCH));
    for size in [8, 100, 1024, 4096] {
        let payload = vec![7; size];
        g.bench_function(BenchmarkId::new("claim, fill, commit, deliver", size), |b| {
            b.iter(|| {
                for _ in 0..BATCH {
                    if let Ok(mut place) = group.try_reserve(MAIN, payload.len()) {
                        place.copy_from_slice(&payload);
                        assert!(place.commit(Mode::Safe).is_ok());
                    }
                }
                while driver.poll() {}
            });
        });
    }
    g.finish();
}

fn idle_pass(c: &mut Criterion) {
    let Ok((_group, mut driver)) = alone() else { return };
    c.bench_function("pass with nothing to do", |b| b.iter(|| black_box(driver.poll())));
}

fn order_arithmetic(c: &mut Criterion) {
    let mut g = c.benchmark_group("order");
    for n in MEMBERS {
        let order = Order { senders: n, base: 1000, first: 70_000 };
        let counts: Vec<u64> = (0..n as u64).map(|s| 1_000_000 + s % 7).collect();
        g.bench_function(BenchmarkId::new("contiguous", n), |b| {
            b.iter(|| black_box(order).contiguous(black_box(&counts).iter().copied()));
        });
        g.bench_function(BenchmarkId::new("horizon and due", n), |b| {
            b.iter(|| order.due(black_box(order).horizon(black_box(&counts).iter().copied()), n / 2));
        });
    }
    g.finish();
}

fn table(c: &mut Criterion) {
    let mut g = c.benchmark_group("sst");
    let spec = TableSpec { id: TableId(1), columns_len: 64, row_len: 4096 };
    for n in MEMBERS {
        let rows = (0..n).map(|_| Row::anonymous(spec.row_len, spec.columns_len).map(Arc::new));
        let Ok(rows) = rows.collect::<std::io::Result<Vec<_>>>() else {
            return eprintln!("no memory for {n} rows");
        };
        let mut table = Table::new(spec, 0, rows[0].clone());
        rows.into_iter().enumerate().skip(1).for_each(|(slot, row)| table.attach(slot, row));
        g.bench_function(BenchmarkId::new("three columns of every row", n), |b| {
            let columns = [column::PUBLISHED, column::WANTED, column::DELIVERED];
            let table = black_box(&table);
            b.iter(|| (0..n).flat_map(|r| columns.map(|c| table.load(r, c))).sum::<u64>());
        });
        g.bench_function(BenchmarkId::new("store", n), |b| {
            let mut value = 0;
            b.iter(|| {
                value += 1;
                table.store(column::WANTED, black_box(value));
            });
        });
    }
    g.finish();
}

criterion_group!(benches, ring, idle_pass, order_arithmetic, table);
criterion_main!(benches);
