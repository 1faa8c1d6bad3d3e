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
}
