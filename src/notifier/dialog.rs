//! The texts of dialogs, each dialog's in one piece; those that many dialogs have in common stand once. Knows no
//! subscription.

use super::arena::{Arena, Piece};
use super::chunks::Slab;
use super::handle::HandleKey;
use super::index::Index;

/// The texts of a dialog (RFC 3261 12): what a NOTIFY says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dialog<'a> {
    pub call_id: &'a [u8],
    pub remote_tag: &'a [u8],
    pub remote_uri: &'a [u8],
    pub local_uri: &'a [u8],
    /// The remote target: Request-URI of our requests, unless the first route is strict.
    pub target: &'a [u8],
    /// The Route header field's value, empty without a route set.
    pub routes: &'a [u8],
    pub event_id: &'a [u8],
}

/// How much a NOTIFY has to say of a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of all texts.
    pub len: usize,
    pub has_routes: bool,
    pub has_event_id: bool,
}

const TEXTS: usize = 7;
/// Places of texts; dialogs may have the local URI and the routes in common.
const LOCAL_URI: usize = 3;
const TARGET: usize = 4;
const ROUTES: usize = 5;
/// Texts shared at the most; those of further dialogs stand in their own pieces.
const SHARED_MOST: usize = 4096;

/// The first byte of a piece: lengths take two bytes each.
const LONG: u8 = 1;
/// The local URI, the routes are the numbers of shared texts.
const LOCAL_URI_SHARED: u8 = 2;
const ROUTES_SHARED: u8 = 4;
const HAS_ROUTES: u8 = 8;
const HAS_EVENT_ID: u8 = 16;
/// Before the lengths: the first byte, and the bytes of all texts in two.
const HEADER: usize = 3;

/// Identifiers and routes longer than this leave no room for a document of one server in a datagram of 1,300 bytes; on a
/// connection more may be kept.
pub fn texts_most(reliable: bool) -> usize {
    if reliable { 16_384 } else { 450 }
}

impl<'a> Dialog<'a> {
    fn texts(&self) -> [&'a [u8]; TEXTS] {
        [
            self.call_id,
            self.remote_tag,
            self.remote_uri,
            self.local_uri,
            self.target,
            self.routes,
            self.event_id,
        ]
    }

    fn of(texts: [&'a [u8]; TEXTS]) -> Self {
        let [
            call_id,
            remote_tag,
            remote_uri,
            local_uri,
            target,
            routes,
            event_id,
        ] = texts;
        Dialog {
            call_id,
            remote_tag,
            remote_uri,
            local_uri,
            target,
            routes,
            event_id,
        }
    }

    /// Bytes of all texts.
    pub fn len(&self) -> usize {
        self.texts().iter().map(|text| text.len()).sum()
    }

    pub fn extent(&self) -> Extent {
        Extent {
            len: self.len(),
            has_routes: !self.routes.is_empty(),
            has_event_id: !self.event_id.is_empty(),
        }
    }

    /// Whether another remote target keeps the texts within their bound.
    pub fn has_room_for(&self, target: &[u8], reliable: bool) -> bool {
        self.len() - self.target.len() + target.len() <= texts_most(reliable)
    }
}

/// All dialogs of a shard.
#[derive(Debug)]
pub struct Dialogs {
    key: HandleKey,
    pieces: Arena,
    shared: Slab<Shared>,
    shared_index: Index,
    /// The piece in the making.
    draft: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    text: Box<[u8]>,
    users: u32,
}

impl Dialogs {
    pub fn new(key: HandleKey) -> Self {
        Dialogs {
            key,
            pieces: Arena::new(),
            shared: Slab::new(),
            shared_index: Index::new(),
            draft: Vec::new(),
        }
    }

    /// Dialogs kept, and texts that they share.
    pub fn len(&self) -> (usize, usize) {
        (self.pieces.len(), self.shared.len())
    }

    pub fn keep(&mut self, dialog: &Dialog<'_>) -> Piece {
        let mut texts = dialog.texts();
        let mut kind = 0;
        let numbers =
            [(LOCAL_URI, LOCAL_URI_SHARED), (ROUTES, ROUTES_SHARED)].map(|(place, flag)| {
                let number = self.share(texts[place]);
                kind |= if number.is_some() { flag } else { 0 };
                (place, number.map(u16::to_le_bytes))
            });
        for (place, number) in &numbers {
            texts[*place] = number.as_ref().map_or(texts[*place], |number| number);
        }
        write(kind, dialog.extent(), texts, &mut self.draft);
        self.pieces.keep(&self.draft)
    }

    /// Without reading the texts.
    pub fn extent(&self, piece: Piece) -> Extent {
        let header = self.pieces.bytes(piece).first_chunk();
        let [kind, low, high] = *header.unwrap_or(&[0; HEADER]);
        Extent {
            len: u16::from_le_bytes([low, high]).into(),
            has_routes: kind & HAS_ROUTES != 0,
            has_event_id: kind & HAS_EVENT_ID != 0,
        }
    }

    pub fn get(&self, piece: Piece) -> Dialog<'_> {
        let Some((kind, mut texts)) = read(self.pieces.bytes(piece)) else {
            return Dialog::default();
        };
        if kind & LOCAL_URI_SHARED != 0 {
            texts[LOCAL_URI] = self.shared(texts[LOCAL_URI]);
        }
        if kind & ROUTES_SHARED != 0 {
            texts[ROUTES] = self.shared(texts[ROUTES]);
        }
        Dialog::of(texts)
    }

    /// The same dialog with another remote target (RFC 3261 12.2: a target refresh).
    pub fn retarget(&mut self, piece: Piece, target: &[u8]) -> Piece {
        let Some((kind, mut texts)) = read(self.pieces.bytes(piece)) else {
            return piece;
        };
        let mut extent = self.extent(piece);
        extent.len = extent.len - texts[TARGET].len() + target.len();
        texts[TARGET] = target;
        write(kind, extent, texts, &mut self.draft);
        self.pieces.replace(piece, &self.draft)
    }

    pub fn give_back(&mut self, piece: Piece) {
        if let Some((kind, texts)) = read(self.pieces.bytes(piece)) {
            let numbers = [
                (kind & LOCAL_URI_SHARED != 0).then(|| number(texts[LOCAL_URI])),
                (kind & ROUTES_SHARED != 0).then(|| number(texts[ROUTES])),
            ];
            numbers
                .into_iter()
                .flatten()
                .for_each(|number| self.unshare(number));
        }
        self.pieces.give_back(piece);
    }

    fn shared(&self, text: &[u8]) -> &[u8] {
        let shared = self.shared.get(number(text).into());
        &shared.expect("a shared text lives while it is used").text
    }

    /// The number under which a text is shared, with one more user; `None` where it is to stand by itself.
    fn share(&mut self, text: &[u8]) -> Option<u16> {
        if text.len() <= 2 {
            return None;
        }
        let hash = self.key.digest(text, b"") as u32;
        let is = |number| {
            self.shared
                .get(number)
                .is_some_and(|shared| *shared.text == *text)
        };
        let number = match self.shared_index.find(hash, is) {
            Some(number) => number,
            None if self.shared.len() >= SHARED_MOST => return None,
            None => {
                let number = self.shared.insert(Shared {
                    text: text.into(),
                    users: 0,
                });
                self.shared_index.insert(hash, number);
                number
            }
        };
        self.shared.get_mut(number).expect("found or made").users += 1;
        Some(u16::try_from(number).expect("under SHARED_MOST"))
    }

    fn unshare(&mut self, number: u16) {
        let number = u32::from(number);
        let shared = self
            .shared
            .get_mut(number)
            .expect("a shared text lives while it is used");
        shared.users -= 1;
        if shared.users == 0 {
            self.shared_index.remove(number);
            self.shared.remove(number);
        }
    }
}

fn number(text: &[u8]) -> u16 {
    u16::from_le_bytes(text.try_into().expect("a number takes two bytes"))
}

/// The kind, the length of all texts, that of each, the texts.
fn write(kind: u8, extent: Extent, texts: [&[u8]; TEXTS], piece: &mut Vec<u8>) {
    let as_u16 = |len: usize| {
        let len = u16::try_from(len);
        len.expect("a dialog has at most `texts_most` bytes")
            .to_le_bytes()
    };
    let is_long = texts.iter().any(|text| text.len() > usize::from(u8::MAX));
    let kind = (kind & (LOCAL_URI_SHARED | ROUTES_SHARED))
        | (u8::from(is_long) * LONG)
        | (u8::from(extent.has_routes) * HAS_ROUTES)
        | (u8::from(extent.has_event_id) * HAS_EVENT_ID);
    piece.clear();
    piece.push(kind);
    piece.extend_from_slice(&as_u16(extent.len));
    for text in texts {
        match is_long {
            true => piece.extend_from_slice(&as_u16(text.len())),
            false => piece.push(text.len() as u8),
        }
    }
    texts.iter().for_each(|text| piece.extend_from_slice(text));
}

/// `None` for a piece without bytes.
#[inline]
fn read(piece: &[u8]) -> Option<(u8, [&[u8]; TEXTS])> {
    let (&[kind, ..], after) = piece.split_first_chunk::<HEADER>()?;
    let mut texts = [&b""[..]; TEXTS];
    if kind & LONG == 0 {
        let (lens, mut rest) = after.split_first_chunk::<TEXTS>()?;
        for (text, len) in texts.iter_mut().zip(lens) {
            (*text, rest) = rest.split_at_checked(usize::from(*len))?;
        }
    } else {
        let (lens, mut rest) = after.split_first_chunk::<{ 2 * TEXTS }>()?;
        for (text, len) in texts.iter_mut().zip(lens.as_chunks::<2>().0) {
            (*text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        }
    }
    Some((kind, texts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HandleKey = HandleKey([3; 16]);

    fn dialog<'a>(call_id: &'a [u8], routes: &'a [u8]) -> Dialog<'a> {
        Dialog {
            call_id,
            remote_tag: b"",
            remote_uri: b"sip:a@b",
            local_uri: b"sip:c",
            target: b"sip:d",
            routes,
            event_id: b"7",
        }
    }

    #[test]
    fn a_dialog_gives_back_its_texts() {
        let mut dialogs = Dialogs::new(KEY);
        for (call_id, routes) in [
            (&b"call"[..], &b"<sip:r;lr>"[..]),
            (b"call", b""),
            (b"call", b"<>"),
            (&[b'c'; 256], b"<sip:r;lr>"),
            (b"call", &[b'r'; 10_000]),
        ] {
            let dialog = dialog(call_id, routes);
            let piece = dialogs.keep(&dialog);
            assert_eq!(dialogs.get(piece), dialog);
            assert_eq!(dialogs.extent(piece), dialog.extent());
            for target in [&b"sip:elsewhere"[..], &[b't'; 300], b"sip:d"] {
                let moved = dialogs.retarget(piece, target);
                assert_eq!(dialogs.get(moved), Dialog { target, ..dialog });
                assert_eq!(dialogs.extent(moved), dialogs.get(moved).extent());
                assert_eq!(
                    dialogs.retarget(moved, dialog.target),
                    piece,
                    "the piece freed last"
                );
            }
            assert_eq!(dialogs.len().0, 1);
            dialogs.give_back(piece);
            assert_eq!(dialogs.len(), (0, 0));
        }
        assert_eq!(dialogs.get(Piece::NONE), Dialog::default());
    }

    #[test]
    fn what_dialogs_have_in_common_stands_once_until_the_last_leaves() {
        let mut dialogs = Dialogs::new(KEY);
        let first = dialogs.keep(&dialog(b"1", b"<sip:r;lr>"));
        let second = dialogs.keep(&dialog(b"2", b"<sip:r;lr>"));
        assert_eq!(dialogs.len(), (2, 2), "the local URI and the routes");
        dialogs.give_back(first);
        assert_eq!(dialogs.get(second), dialog(b"2", b"<sip:r;lr>"));
        dialogs.give_back(second);
        assert_eq!(dialogs.len(), (0, 0));
    }

    #[test]
    fn beyond_the_most_texts_stand_by_themselves() {
        let mut dialogs = Dialogs::new(KEY);
        let routes: Vec<String> = (0..SHARED_MOST + 10)
            .map(|number| format!("<sip:{number}>"))
            .collect();
        let pieces: Vec<_> = routes
            .iter()
            .map(|routes| dialogs.keep(&dialog(b"1", routes.as_bytes())))
            .collect();
        assert_eq!(dialogs.len().1, SHARED_MOST);
        for (piece, routes) in pieces.iter().zip(&routes) {
            assert_eq!(dialogs.get(*piece), dialog(b"1", routes.as_bytes()));
        }
    }
}
