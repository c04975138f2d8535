//! The choice of the candidates: the best set of members that do not accuse each other.

/// Returns the best set of members without an edge between any two, one bit per member.
///
/// The best set has the most votes, then the most members, then the sorted ranks that compare first. `edges[a]` has bit
/// `b` set when `a` accuses `b` or `b` accuses `a`, so it is symmetric. `voters` are the members that have a vote.
///
/// Only a majority matters. So a member with edges to half of the voters or more is excluded at once. The search covers
/// only the remaining members that have an edge at all.
pub(super) fn candidates(edges: &[u64], voters: u64) -> u64 {
    let all = if edges.len() == 64 { u64::MAX } else { (1 << edges.len()) - 1 };
    let bits = |set: u64| (0..edges.len()).filter(move |r| set >> r & 1 == 1);
    let hopeless = bits(all).filter(|&r| 2 * (edges[r] & voters).count_ones() >= voters.count_ones());
    let hopeless = hopeless.fold(0, |set, r| set | 1u64 << r);
    // No member of a majority set has that many edges. Without a majority the group stops, so the answer does not
    // matter.
    let alive = all & !hopeless;
    let free = bits(alive).filter(|&r| edges[r] & alive == 0).fold(0, |set, r| set | 1u64 << r);
    free | search(edges, voters, alive & !free)
}

/// Returns the best independent subset of `left`. Among equals, the subset with the lower ranks wins.
fn search(edges: &[u64], voters: u64, left: u64) -> u64 {
    if left == 0 {
        return 0;
    }
    let first = left.trailing_zeros();
    let neighbours = edges[first as usize] & left;
    // The set with `first` is tried first, so that it wins among equals.
    let with = 1 << first | search(edges, voters, left & !neighbours & !(1 << first));
    if neighbours == 0 {
        return with;
    }
    let without = search(edges, voters, left & !(1 << first));
    if worth(without, voters) > worth(with, voters) { without } else { with }
}

fn worth(set: u64, voters: u64) -> (u32, u32) {
    ((set & voters).count_ones(), set.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(edges: &[u64], voters: u64) -> u64 {
        let n = edges.len();
        let independent = |set: u64| (0..n).all(|r| set >> r & 1 == 0 || edges[r] & set == 0);
        let ranks = |set: u64| (0..n).filter(|r| set >> r & 1 == 1).collect::<Vec<_>>();
        let sets = (0..1u64 << n).filter(|&set| independent(set));
        sets.max_by(|&a, &b| worth(a, voters).cmp(&worth(b, voters)).then_with(|| ranks(b).cmp(&ranks(a)))).unwrap()
    }

    #[test]
    fn as_the_definition_says_for_all_graphs_of_up_to_five() {
        for n in 1..=5usize {
            let pairs: Vec<_> = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))).collect();
            for graph in 0..1u32 << pairs.len() {
                let mut edges = vec![0u64; n];
                for (_, &(a, b)) in pairs.iter().enumerate().filter(|(i, _)| graph >> i & 1 == 1) {
                    edges[a] |= 1 << b;
                    edges[b] |= 1 << a;
                }
                for voters in 1..1u64 << n {
                    let (found, expected) = (candidates(&edges, voters), naive(&edges, voters));
                    // Without a majority the group stops, so any set without one is a valid answer.
                    if 2 * (expected & voters).count_ones() > voters.count_ones() {
                        assert_eq!(found, expected, "{edges:?} {voters:b}");
                    } else {
                        assert!(2 * (found & voters).count_ones() <= voters.count_ones(), "{edges:?} {voters:b}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_dead_member_and_a_broken_link_in_the_largest_group() {
        let mut edges = vec![0u64; 64];
        assert_eq!(candidates(&edges, u64::MAX), u64::MAX);
        for r in 0..64 {
            if r != 9 {
                edges[r] |= 1 << 9;
                edges[9] |= 1 << r;
            }
        }
        (edges[3], edges[5]) = (edges[3] | 1 << 5, edges[5] | 1 << 3);
        assert_eq!(candidates(&edges, u64::MAX), !(1 << 9 | 1 << 5));
    }
}
