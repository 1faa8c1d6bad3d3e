//! What the notifiers chose for their dialogs: tags and remote targets, kept in few allocations for many
//! entities. Knows no message.

use std::collections::HashMap;

use crate::entity::Entity;

/// Tags end to end, each after its length, and each distinct remote target once.
#[derive(Debug)]
pub struct Dialogs {
    tags: Vec<u8>,
    remotes: Vec<Box<[u8]>>,
    numbers: HashMap<Box<[u8]>, u32>,
}

impl Dialogs {
    /// `fallback` is the target of a notifier that names none.
    pub fn new(fallback: &str) -> Self {
        Dialogs {
            tags: Vec::new(),
            remotes: vec![fallback.as_bytes().into()],
            numbers: HashMap::new(),
        }
    }

    /// The entity's dialog is with this tag; false if it already is with another, or the tag is none.
    pub fn learn(&mut self, entity: &mut Entity, tag: &[u8], contact: Option<&[u8]>) -> bool {
        let Some(length) = u8::try_from(tag.len()).ok().filter(|&length| length > 0) else {
            return false;
        };
        if entity.tag_len > 0 {
            return self.tag(entity) == tag;
        }
        // The room of its former dialog, if there was one: tags of one notifier are of one length.
        let at = entity.tag as usize;
        if entity.generation() > 0 && self.tags.get(at) == Some(&length) {
            self.tags[at + 1..][..tag.len()].copy_from_slice(tag);
        } else {
            let Ok(at) = u32::try_from(self.tags.len()) else {
                return false;
            };
            self.tags.push(length);
            self.tags.extend_from_slice(tag);
            entity.tag = at;
        }
        entity.tag_len = length;
        if let Some(contact) = contact {
            entity.remote = self.number(contact);
        }
        true
    }

    /// The notifier's tag, empty before any was learnt.
    pub fn tag(&self, entity: &Entity) -> &[u8] {
        match usize::from(entity.tag_len) {
            0 => &[],
            length => &self.tags[entity.tag as usize + 1..][..length],
        }
    }

    /// The Request-URI of requests in the dialog.
    pub fn remote(&self, entity: &Entity) -> &[u8] {
        &self.remotes[entity.remote as usize]
    }

    fn number(&mut self, contact: &[u8]) -> u32 {
        if let Some(&number) = self.numbers.get(contact) {
            return number;
        }
        let number = self.remotes.len() as u32;
        self.remotes.push(contact.into());
        self.numbers.insert(contact.into(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_keeps_its_first_tag() {
        let mut dialogs = Dialogs::new("sip:example.com");
        let (mut one, mut two) = (Entity::default(), Entity::default());
        assert!(!dialogs.learn(&mut one, b"", None));
        assert_eq!(dialogs.remote(&one), b"sip:example.com");
        assert!(dialogs.learn(&mut one, b"abc", Some(b"sip:n1")));
        assert!(dialogs.learn(&mut two, b"de", Some(b"sip:n1")));
        assert!(dialogs.learn(&mut one, b"abc", None));
        assert!(!dialogs.learn(&mut one, b"abd", None));
        assert_eq!(
            (dialogs.tag(&one), dialogs.tag(&two)),
            (&b"abc"[..], &b"de"[..])
        );
        assert_eq!((one.remote, two.remote), (1, 1));
        assert_eq!(dialogs.remote(&two), b"sip:n1");
    }
}
