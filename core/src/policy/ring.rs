//! Keys to nodes, so that a change of the nodes moves as few keys as can be.
//!
//! Multi-probe consistent hashing: each node stands at a few points of a ring, a key is hashed to many, and the node that follows closest behind any of them has
//! it. That spreads keys as evenly as hundreds of points per node would, at a fraction of the memory. When a node goes, only its keys move; when one
//! comes, only to it.
//!
//! A node's points depend on its name and its weight alone: not on the others, the order of the list, the process or the version of this crate (a test holds
//! the numbers). Names must be stable, or every restart moves keys.
//!
//! Source: "Multi-probe consistent hashing" (Appleton and O'Reilly, 2015); "Consistent hashing with bounded loads" (Mirrokni et al., 2016) for
//! [`walk`](Ring::walk).

/// Points on the ring that a key is hashed to: the largest share is 1.05 times the mean with so many.
const PROBES: u64 = 21;
/// Points of a node of weight 100.
const POINTS: u32 = 8;
/// Points of a node at most, which it has from a weight of 12,800 on: a bound on what a list costs.
const POINTS_MAX: u32 = 1_024;

/// Nodes on a ring.
#[derive(Clone, Debug)]
pub struct Ring {
    /// In order; which node stands there.
    points: Box<[(u64, u32)]>,
    /// Where the points of each equal part of the ring begin: points are spread evenly, so the one that is looked for is there or next to it.
    parts: Box<[u32]>,
    /// By how much a point is shifted to find its part.
    shift: u32,
    nodes: usize,
}

impl Ring {
    /// A ring of these names and weights (a hundred is usual); those with weight 0 are not on it. `None` if nobody is.
    #[must_use]
    pub fn new<'a>(nodes: impl IntoIterator<Item = (&'a str, u32)>) -> Option<Self> {
        let mut points = Vec::new();
        let mut count = 0;
        for (index, (name, weight)) in nodes.into_iter().enumerate() {
            count = index + 1;
            let name = hash(name.as_bytes());
            // A weight that is not 0 has a point.
            let own = weight.saturating_mul(POINTS).div_ceil(100).min(POINTS_MAX);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            points.extend((0..u64::from(own)).map(|at| (mix(name ^ mix(at + 1)), index)));
        }
        if points.is_empty() {
            return None;
        }
        points.sort_unstable();
        let bits = points.len().next_power_of_two().trailing_zeros().max(1);
        let shift = 64 - bits;
        let mut parts = Vec::with_capacity(1 << bits);
        let mut begins = 0;
        for part in 0..1_u64 << bits {
            while begins < points.len() && points[begins].0 >> shift < part {
                begins += 1;
            }
            parts.push(u32::try_from(begins).unwrap_or(u32::MAX));
        }
        Some(Self {
            points: points.into(),
            parts: parts.into(),
            shift,
            nodes: count,
        })
    }

    /// The node that has `key`.
    #[must_use]
    pub fn node(&self, key: u64) -> usize {
        self.points[self.closest(key)].1 as usize
    }

    /// All nodes, each once: the one that has `key`, then those behind it on the ring.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let from = self.closest(key);
        let mut seen = vec![false; self.nodes];
        let around = self.points[from..].iter().chain(&self.points[..from]);
        around
            .map(|(_, node)| *node as usize)
            .filter(move |&node| !std::mem::replace(&mut seen[node], true))
    }

    /// The point that follows closest behind one of the key's.
    fn closest(&self, key: u64) -> usize {
        let mut best = (u64::MAX, 0);
        for probe in 0..PROBES {
            let at = mix(key ^ mix(probe + PROBES));
            let next = self.next(at);
            let distance = self.points[next].0.wrapping_sub(at);
            if distance < best.0 {
                best = (distance, next);
            }
        }
        best.1
    }

    /// The first point at or behind `at`.
    fn next(&self, at: u64) -> usize {
        let part = usize::try_from(at >> self.shift).unwrap_or_default();
        let begins = self.parts[part] as usize;
        let found = self.points[begins..].iter().position(|(point, _)| *point >= at);
        found.map_or(0, |ahead| begins + ahead)
    }
}

/// A hash that is the same everywhere and for ever: FNV-1a, with its bits mixed.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    mix(bytes.iter().fold(start, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// The finalizer of MurmurHash3.
const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::{POINTS, POINTS_MAX, Ring, hash};

    const KEYS: u64 = 100_000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("tls://10.0.{}.{}:7000", number / 256, number % 256)).collect()
    }

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(|name| (name.as_str(), 100))).unwrap()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..KEYS).map(|key| hash(&key.to_be_bytes()))
    }

    #[test]
    fn keys_spread_evenly_at_every_size() {
        for count in [10, 64, 65, 200, 1_000] {
            let ring = ring(&names(count));
            let mut held = vec![0_u64; count];
            // Enough of them that luck does not show.
            let each = 2_000 * count as u64 / KEYS + 1;
            keys().for_each(|key| (0..each).for_each(|more| held[ring.node(hash(&(key ^ more).to_be_bytes()))] += 1));
            let mean = (KEYS * each) as f64 / count as f64;
            let most = held.iter().copied().max().unwrap_or_default() as f64 / mean;
            assert!(most <= 1.25, "{count} nodes: {most}");
        }
    }

    #[test]
    fn only_the_keys_of_the_one_that_goes_move() {
        for count in [10, 64, 65, 200] {
            let before = names(count);
            let gone = count / 3;
            let mut after = before.clone();
            after.remove(gone);
            // The order of the list means nothing.
            after.reverse();
            let (full, less) = (ring(&before), ring(&after));
            let mut moved = 0.0;
            for key in keys() {
                let (was, is) = (full.node(key), less.node(key));
                match was == gone {
                    true => moved += 1.0,
                    false => assert_eq!(before[was], after[is], "{count} nodes"),
                }
            }
            // Seen the other way round: whoever comes takes its share, and nobody else's keys move.
            assert!(moved <= 1.25 * KEYS as f64 / count as f64, "{count} nodes: {moved}");
        }
    }

    #[test]
    fn weights_are_shares() {
        let all = names(20);
        let weight = |index: usize| [0, 50, 100, 200][index % 4];
        let ring = Ring::new(all.iter().enumerate().map(|(index, name)| (name.as_str(), weight(index)))).unwrap();
        let mut held = [0.0; 4];
        keys().for_each(|key| held[ring.node(key) % 4] += 1.0);
        assert_eq!(held[0], 0.0);
        let shares = held.map(|held| held / KEYS as f64 * 350.0);
        for (share, wanted) in shares.into_iter().zip([0.0, 50.0, 100.0, 200.0]) {
            assert!((share - wanted).abs() <= 0.25 * wanted, "{shares:?}");
        }
        assert!(Ring::new([("a", 0)]).is_none() && Ring::new([]).is_none());
        assert_eq!(Ring::new([("a", 1)]).unwrap().points.len(), 1);
        assert_eq!(Ring::new([("a", 100)]).unwrap().points.len(), POINTS as usize);
        assert_eq!(Ring::new([("a", 65_535)]).unwrap().points.len(), POINTS_MAX as usize);
    }

    #[test]
    fn a_walk_meets_everybody_once_and_the_owner_first() {
        let ring = ring(&names(30));
        for key in keys().take(100) {
            let mut met: Vec<usize> = ring.walk(key).collect();
            assert_eq!(met[0], ring.node(key));
            met.sort_unstable();
            assert_eq!(met, (0..30).collect::<Vec<_>>());
        }
    }

    /// Other processes, and later versions, must send a key where this one does.
    #[test]
    fn keys_go_where_they_always_went() {
        let ring = ring(&names(100));
        let owners: Vec<usize> = (0..16_u64).map(|key| ring.node(hash(&key.to_be_bytes()))).collect();
        assert_eq!(hash(b"customer-7"), 11_451_578_943_781_138_446);
        assert_eq!(owners, [72, 46, 30, 53, 51, 9, 66, 90, 44, 49, 56, 16, 5, 82, 72, 62]);
    }
}
