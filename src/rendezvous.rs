//! Rendezvous hashing: which of several names answers for a key. Whoever knows the same names comes to the same answer, and
//! when one goes only its keys move.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The name with the highest weight for a key; of equal ones the first in order.
pub fn rendezvous<'n, N: AsRef<str>>(
    names: impl IntoIterator<Item = &'n N>,
    key: &[&str],
) -> Option<&'n N> {
    let order = |name: &N| {
        (
            weight(name.as_ref(), key),
            std::cmp::Reverse(name.as_ref().to_owned()),
        )
    };
    names.into_iter().max_by_key(|name| order(name))
}

fn weight(name: &str, key: &[&str]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&[0; 16]);
    for part in std::iter::once(&name).chain(key) {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part.as_bytes());
    }
    hasher.finish()
}

/// The same where the names are to have shares of the keys as their weights say. A name without weight has none.
pub fn weighted<'n, N: AsRef<str>>(
    names: impl IntoIterator<Item = (&'n N, u32)>,
    key: &[&str],
) -> Option<&'n N> {
    // The first of exponential arrivals at these rates: each comes first as often as its share of the rates is.
    let arrival = |name: &N, rate: u32| {
        let uniform = (weight(name.as_ref(), key) >> 11) as f64 + 0.5;
        -(uniform / (1u64 << 53) as f64).ln() / f64::from(rate)
    };
    let names = names.into_iter().filter(|(_, rate)| *rate > 0);
    let first = names.min_by(|(one, one_rate), (other, other_rate)| {
        let order = arrival(one, *one_rate).total_cmp(&arrival(other, *other_rate));
        order.then_with(|| one.as_ref().cmp(other.as_ref()))
    });
    first.map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_of_a_name_that_goes_are_moved() {
        let names: Vec<String> = (0..10).map(|number| format!("n{number}")).collect();
        let keys: Vec<String> = (0..1_000).map(|number| format!("p{number}")).collect();
        let owner = |names: &[String], key: &String| rendezvous(names, &["*", key]).cloned();
        let mut moved = 0;
        for key in &keys {
            let before = owner(&names, key);
            let after = owner(&names[..9], key);
            moved += usize::from(before != after);
            assert!(before == after || before.as_deref() == Some("n9"));
        }
        assert!((60..140).contains(&moved), "{moved} of 1000 keys were n9's");
        let reversed: Vec<String> = names.iter().rev().cloned().collect();
        assert!(
            keys.iter()
                .all(|key| owner(&names, key) == owner(&reversed, key))
        );
        assert_eq!(rendezvous::<String>(&[], &["p1"]), None);
    }

    #[test]
    fn shares_are_as_the_weights_say_and_only_the_keys_of_who_goes_move() {
        let names: Vec<(String, u32)> = [("a", 10), ("b", 30), ("c", 60), ("d", 0)]
            .map(|(name, rate)| (name.to_owned(), rate))
            .into();
        let keys: Vec<String> = (0..10_000).map(|number| format!("k{number}")).collect();
        let owner = |names: &[(String, u32)], key: &String| {
            let names = names.iter().map(|(name, rate)| (name, *rate));
            weighted(names, &[key]).cloned().expect("some have weight")
        };
        for (name, rate) in &names {
            let own = keys
                .iter()
                .filter(|key| owner(&names, key) == *name)
                .count();
            let share = own as f64 / 100.0;
            assert!((share - f64::from(*rate)).abs() <= 1.5, "{name}: {share} %");
        }
        for key in &keys {
            let (before, after) = (owner(&names, key), owner(&names[..2], key));
            assert!(before == after || before == "c");
        }
        assert_eq!(weighted([(&"a", 0)], &["k"]), None);
    }
}
