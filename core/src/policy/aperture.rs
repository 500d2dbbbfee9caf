//! Which of many endpoints a client connects to, if it knows how many clients there are and which of them it is: all endpoints get the same share.
//!
//! Clients and endpoints lie evenly on a ring. A client takes those that lie within its aperture: an arc that begins at its own place, and is a whole number of
//! clients' places long. So every point of the ring lies in the arcs of equally many clients, and an endpoint gets as much from all of them as every other one, if
//! those that lie only partly within an arc get that part.
//!
//! Source: the deterministic aperture of Finagle.

use super::subset::rank;

/// A client's place among all clients of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it stands, less than `clients`.
    pub index: usize,
    /// How many there are, itself included.
    pub clients: usize,
}

/// How many times what was asked for may be taken: where there are few clients, one client's place is longer than that, and evenness has to wait for more of them.
const ROUNDED_UP_MAX: u64 = 2;

/// The positions of the names within the aperture, in ascending order, and the part of each that is in it: more than 0, at most 1. There are `size` of them, or up to
/// twice as many, as that is rounded up to whole clients' places; one more where they lie across the ends of the arc.
#[must_use]
pub fn aperture<'a>(names: impl Iterator<Item = &'a str>, place: Place, size: usize) -> Vec<(usize, f64)> {
    // By a hash, or those that stand in one rack, and fall together, would be those of one client.
    let mut ring: Vec<(u64, &str, usize)> =
        names.enumerate().map(|(index, name)| (rank(0, name), name, index)).collect();
    ring.sort_unstable();
    let (endpoints, clients) = (ring.len() as u64, place.clients.max(1) as u64);
    // All lengths are whole in this unit: an endpoint is as long as there are clients, a client's place as long as there are endpoints.
    let whole = endpoints * clients;
    if whole == 0 {
        return Vec::new();
    }
    let begin = place.index as u64 % clients * endpoints;
    let size = (size as u64).min(endpoints);
    let even = (size * clients).div_ceil(endpoints) * endpoints;
    let length = even.min(ROUNDED_UP_MAX * size * clients).min(whole);
    let within = |(at, (_, _, index)): (usize, &(u64, &str, usize))| {
        let from = at as u64 * clients;
        // Once as it is, and once for an arc that goes beyond the end of the ring.
        let overlap = |from: u64| (from + clients).min(begin + length).saturating_sub(from.max(begin));
        let part = overlap(from) + overlap(from + whole);
        (part > 0).then(|| (*index, part as f64 / clients as f64))
    };
    let mut taken: Vec<(usize, f64)> = ring.iter().enumerate().filter_map(within).collect();
    taken.sort_unstable_by_key(|(index, _)| *index);
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Place, aperture};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("tls://10.0.{}.{}:7000", number / 256, number % 256)).collect()
    }

    fn taken(names: &[String], index: usize, clients: usize, size: usize) -> Vec<(usize, f64)> {
        aperture(names.iter().map(String::as_str), Place { index, clients }, size)
    }

    #[test]
    fn all_endpoints_get_the_same_share_and_about_as_many_connections() {
        for (clients, endpoints, size) in [
            (1_000, 200, 20),
            (300, 1_000, 20),
            (77, 101, 12),
            (2_000, 65, 20),
            (3, 100, 20),
        ] {
            let names = names(endpoints);
            let (mut load, mut connections) = (vec![0.0; endpoints], vec![0.0_f64; endpoints]);
            let mut most = 0;
            for index in 0..clients {
                let taken = taken(&names, index, clients, size);
                assert!(
                    taken.len() >= size.min(endpoints),
                    "{clients} {endpoints}: {}",
                    taken.len()
                );
                most = most.max(taken.len());
                let whole: f64 = taken.iter().map(|(_, part)| part).sum();
                for (index, part) in taken {
                    load[index] += part / whole;
                    connections[index] += 1.0;
                }
            }
            if clients < 5 {
                // Too few to be even.
                assert!(most <= 2 * size + 1, "{most}");
                continue;
            }
            let mean = clients as f64 / endpoints as f64;
            assert!(
                load.iter().all(|load| (load / mean - 1.0).abs() < 1e-6),
                "{clients} {endpoints}: {load:?}"
            );
            let mean = connections.iter().sum::<f64>() / endpoints as f64;
            let variance = connections.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / endpoints as f64;
            let spread = variance.sqrt() / mean;
            println!(
                "{clients} clients, {endpoints} endpoints: {mean:.1} connections each, spread {:.2} %, {most} at most",
                spread * 100.0
            );
            // One connection more or less is the least that is possible, and much where there are few.
            let [fewest, most] = [f64::min, f64::max].map(|of| connections.iter().copied().reduce(of).unwrap());
            assert!(most - fewest <= 2.0, "{clients} {endpoints}: {fewest} to {most}");
            assert!(mean < 12.0 || spread <= 0.05, "{clients} {endpoints}: {spread}");
        }
    }

    #[test]
    fn who_comes_or_goes_moves_few_connections() {
        let (clients, size) = (500, 20);
        let all = names(200);
        let of = |list: &[String], index, clients| -> HashSet<String> {
            taken(list, index, clients, size).into_iter().map(|(index, _)| list[index].clone()).collect()
        };
        let churn = |list: &[String], of_clients: usize, moved: &dyn Fn(usize) -> usize| {
            let new = |index| of(list, moved(index), of_clients).difference(&of(&all, index, clients)).count();
            let new: Vec<usize> = (0..clients - 1).map(new).collect();
            (
                new.iter().sum::<usize>() as f64 / new.len() as f64,
                new.into_iter().max().unwrap(),
            )
        };
        let without: Vec<String> = all.iter().filter(|name| *name != &all[77]).cloned().collect();
        for (what, (mean, most)) in [
            ("an endpoint goes", churn(&without, clients, &|index| index)),
            (
                "a client comes in front of half of them",
                churn(&all, clients + 1, &|index| index + usize::from(index >= 250)),
            ),
            ("the last client goes", churn(&all, clients - 1, &|index| index)),
        ] {
            println!("{what}: {mean:.2} new connections for each client, {most} at most");
            assert!(mean <= 1.5 && most <= 3, "{what}: {mean} {most}");
        }
    }

    #[test]
    fn odd_numbers_are_no_trouble() {
        assert_eq!(taken(&[], 0, 1, 20), []);
        assert_eq!(taken(&names(2), 0, 1, 20), [(0, 1.0), (1, 1.0)]);
        assert_eq!(taken(&names(1), 9, 10, 20), [(0, 1.0)]);
        assert_eq!(taken(&names(3), 7, 0, 20).len(), 3);
        assert_eq!(taken(&names(10), 0, 1, usize::MAX).len(), 10);
        // The first client of a service does not connect to everybody.
        assert_eq!(taken(&names(1_000), 0, 1, 20).len(), 40);
    }
}
