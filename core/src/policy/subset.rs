//! Which of many endpoints a client connects to, so that thousands of clients of thousands of servers do not make millions of connections.
//!
//! Each client ranks endpoints by a hash of its own seed and their names, and takes the first so many (rendezvous hashing). When one endpoint comes or goes, at
//! most one of a client's connections changes, whatever the order of the list; and all clients together spread over all endpoints.
//!
//! Source: gRFC A68 (random subsetting).

/// Endpoints up to which a client connects to all.
pub const ALL_MAX: usize = 64;
/// To how many it connects where there are more: enough that the loss of a few changes little, and that two choices among them are good ones.
pub const SUBSET_SIZE: usize = 20;

/// The positions of the names that a client with this seed connects to, in ascending order: all, if there are at most `all_max`, else `size` of them.
#[must_use]
pub fn subset<'a>(names: impl Iterator<Item = &'a str>, seed: u64, all_max: usize, size: usize) -> Vec<usize> {
    let mut ranked: Vec<(u64, usize)> = names.enumerate().map(|(index, name)| (rank(seed, name), index)).collect();
    if ranked.len() > all_max && ranked.len() > size {
        ranked.select_nth_unstable(size);
        ranked.truncate(size);
    }
    let mut taken: Vec<usize> = ranked.into_iter().map(|(_, index)| index).collect();
    taken.sort_unstable();
    taken
}

/// The rank of a name for a seed: FNV-1a, with its bits mixed by the finalizer of MurmurHash3, since names differ in their last characters.
pub(super) fn rank(seed: u64, name: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed;
    let hash = name.bytes().fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ALL_MAX, SUBSET_SIZE, subset};

    fn taken(names: &[String], seed: u64) -> Vec<usize> {
        subset(names.iter().map(String::as_str), seed, ALL_MAX, SUBSET_SIZE)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("tls://10.0.{}.{}:7000", number / 256, number % 256)).collect()
    }

    #[test]
    fn few_are_all_taken() {
        for (count, kept) in [(0, 0), (1, 1), (ALL_MAX, ALL_MAX), (ALL_MAX + 1, SUBSET_SIZE)] {
            assert_eq!(taken(&names(count), 1).len(), kept, "{count}");
        }
    }

    #[test]
    fn one_that_comes_or_goes_changes_one_connection_at_most() {
        let all = names(300);
        let of = |list: &[String], seed| -> HashSet<String> {
            taken(list, seed).into_iter().map(|index| list[index].clone()).collect()
        };
        for seed in 0..50 {
            let before = of(&all, seed);
            for gone in [0, 150, 299] {
                let mut left = all.clone();
                left.remove(gone);
                // The order means nothing.
                left.reverse();
                let after = of(&left, seed);
                assert!(before.difference(&after).count() <= 1, "seed {seed}");
            }
        }
    }

    #[test]
    fn clients_spread_over_all_endpoints() {
        let (all, clients) = (names(100), 1_000);
        let mut connections = vec![0.0_f64; all.len()];
        for seed in 0..clients {
            taken(&all, seed * 7_919 + 1).into_iter().for_each(|index| connections[index] += 1.0);
        }
        let mean = connections.iter().sum::<f64>() / all.len() as f64;
        let variance = connections.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(
            variance.sqrt() / mean <= 1.2 / mean.sqrt(),
            "{} of {mean}",
            variance.sqrt()
        );
    }
}
