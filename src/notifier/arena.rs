//! Small pieces of bytes by the million, each named by four bytes. Knows nothing of what they hold.
//!
//! A page holds pieces of one size, in steps of 16 bytes; one that becomes empty serves any size again, so no mix of
//! sizes can make the arena hold more than its pieces and a page of each size.

use super::chunks::Slab;

const UNIT: usize = 16;
const PAGE_UNITS: usize = 4096;
/// Pieces of up to so many units share pages; greater ones have their own allocation.
const UNITS_MOST: usize = 32;
const NO_UNIT: u16 = u16::MAX;
const NO_PAGE: u32 = u32::MAX;
/// Marks a piece of its own allocation.
const OWN: u32 = 1 << 31;

/// Names a piece until it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece(u32);

impl Piece {
    /// A piece without bytes, of any arena.
    pub const NONE: Piece = Piece(u32::MAX);
}

#[derive(Debug)]
struct Page {
    bytes: Box<[u8]>,
    /// Units of each piece.
    units: u16,
    used: u16,
    /// The first unit never used.
    fresh: u16,
    /// The first unit of a piece given back; the next one's number stands in it.
    free: u16,
    /// Its neighbours among the pages of this size with room.
    previous: u32,
    next: u32,
}

#[derive(Debug)]
pub struct Arena {
    pages: Vec<Page>,
    /// Empty pages.
    empty: Vec<u32>,
    /// For each size the first page with room.
    open: [u32; UNITS_MOST + 1],
    own: Slab<Box<[u8]>>,
    len: usize,
}

impl Arena {
    pub fn new() -> Self {
        Arena {
            pages: Vec::new(),
            empty: Vec::new(),
            open: [NO_PAGE; UNITS_MOST + 1],
            own: Slab::new(),
            len: 0,
        }
    }

    /// Pieces taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A piece that begins with these bytes; it may be up to 15 longer.
    pub fn keep(&mut self, bytes: &[u8]) -> Piece {
        self.len += 1;
        let units = units_of(bytes.len());
        if units > UNITS_MOST {
            return Piece(self.own.insert(bytes.into()) | OWN);
        }
        let number = match self.open[units] {
            NO_PAGE => self.open_page(units),
            number => number,
        };
        let page = &mut self.pages[number as usize];
        let unit = page.take();
        if page.is_full() {
            self.unlink(number);
        }
        let piece = Piece(number * PAGE_UNITS as u32 + u32::from(unit));
        self.place(piece)[..bytes.len()].copy_from_slice(bytes);
        piece
    }

    /// Other bytes for a piece: the same place where they fit it.
    pub fn replace(&mut self, piece: Piece, bytes: &[u8]) -> Piece {
        let units = units_of(bytes.len());
        if units <= UNITS_MOST && units * UNIT == self.bytes(piece).len() {
            self.place(piece)[..bytes.len()].copy_from_slice(bytes);
            return piece;
        }
        self.give_back(piece);
        self.keep(bytes)
    }

    pub fn give_back(&mut self, piece: Piece) {
        if piece == Piece::NONE {
            return;
        }
        self.len -= 1;
        if piece.0 & OWN != 0 {
            self.own.remove(piece.0 & !OWN);
            return;
        }
        let (number, unit) = piece.place();
        let page = &mut self.pages[number as usize];
        let was_full = page.is_full();
        page.give_back(unit);
        if page.used == 0 {
            if !was_full {
                self.unlink(number);
            }
            self.empty.push(number);
        } else if was_full {
            self.link(number);
        }
    }

    pub fn bytes(&self, piece: Piece) -> &[u8] {
        if piece.0 & OWN != 0 {
            return self.own.get(piece.0 & !OWN).map_or(&[], |bytes| bytes);
        }
        let (number, unit) = piece.place();
        let page = &self.pages[number as usize];
        let start = usize::from(unit) * UNIT;
        &page.bytes[start..start + usize::from(page.units) * UNIT]
    }

    fn place(&mut self, piece: Piece) -> &mut [u8] {
        let (number, unit) = piece.place();
        let page = &mut self.pages[number as usize];
        let start = usize::from(unit) * UNIT;
        &mut page.bytes[start..start + usize::from(page.units) * UNIT]
    }

    /// An empty page for pieces of this size.
    fn open_page(&mut self, units: usize) -> u32 {
        let number = self.empty.pop().unwrap_or_else(|| {
            self.pages.push(Page {
                bytes: vec![0; PAGE_UNITS * UNIT].into_boxed_slice(),
                units: 0,
                used: 0,
                fresh: 0,
                free: NO_UNIT,
                previous: NO_PAGE,
                next: NO_PAGE,
            });
            u32::try_from(self.pages.len() - 1).expect("pages are fewer than subscriptions")
        });
        let page = &mut self.pages[number as usize];
        page.units = units as u16;
        (page.fresh, page.free) = (0, NO_UNIT);
        self.link(number);
        number
    }

    fn link(&mut self, number: u32) {
        let units = usize::from(self.pages[number as usize].units);
        let next = std::mem::replace(&mut self.open[units], number);
        if next != NO_PAGE {
            self.pages[next as usize].previous = number;
        }
        let page = &mut self.pages[number as usize];
        (page.previous, page.next) = (NO_PAGE, next);
    }

    fn unlink(&mut self, number: u32) {
        let page = &self.pages[number as usize];
        let (previous, next, units) = (page.previous, page.next, usize::from(page.units));
        match previous {
            NO_PAGE => self.open[units] = next,
            previous => self.pages[previous as usize].next = next,
        }
        if next != NO_PAGE {
            self.pages[next as usize].previous = previous;
        }
    }
}

impl Piece {
    fn place(self) -> (u32, u16) {
        let units = PAGE_UNITS as u32;
        (self.0 / units, (self.0 % units) as u16)
    }
}

impl Page {
    fn is_full(&self) -> bool {
        self.free == NO_UNIT && usize::from(self.fresh + self.units) > PAGE_UNITS
    }

    fn take(&mut self) -> u16 {
        self.used += 1;
        if self.free == NO_UNIT {
            self.fresh += self.units;
            return self.fresh - self.units;
        }
        let unit = self.free;
        let start = usize::from(unit) * UNIT;
        self.free = u16::from_le_bytes([self.bytes[start], self.bytes[start + 1]]);
        unit
    }

    fn give_back(&mut self, unit: u16) {
        self.used -= 1;
        let start = usize::from(unit) * UNIT;
        self.bytes[start..start + 2].copy_from_slice(&self.free.to_le_bytes());
        self.free = unit;
    }
}

fn units_of(len: usize) -> usize {
    len.div_ceil(UNIT).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of vectors.
        #[test]
        fn every_piece_keeps_its_bytes(steps in proptest::collection::vec((0u8..4, 0usize..700, any::<u8>()), 1..400)) {
            let mut arena = Arena::new();
            let mut model: Vec<(Piece, Vec<u8>)> = Vec::new();
            for (action, len, byte) in steps {
                let bytes = vec![byte; len];
                match action {
                    0 | 1 => model.push((arena.keep(&bytes), bytes)),
                    2 if !model.is_empty() => {
                        let (piece, _) = model.swap_remove(len % model.len());
                        arena.give_back(piece);
                    }
                    3 if !model.is_empty() => {
                        let at = len % model.len();
                        model[at] = (arena.replace(model[at].0, &bytes), bytes);
                    }
                    _ => {}
                }
                prop_assert_eq!(arena.len(), model.len());
                for (piece, bytes) in &model {
                    prop_assert!(arena.bytes(*piece).starts_with(bytes));
                }
            }
        }
    }

    #[test]
    fn pages_left_empty_serve_other_sizes() {
        let mut arena = Arena::new();
        let mut pages = 0;
        for len in [16, 160, 512, 48] {
            let pieces: Vec<_> = (0..10_000).map(|_| arena.keep(&vec![1; len])).collect();
            pages = pages.max(arena.pages.len());
            pieces.into_iter().for_each(|piece| arena.give_back(piece));
        }
        assert_eq!(pages, (10_000_usize).div_ceil(PAGE_UNITS / 32));
        assert_eq!((arena.pages.len(), arena.empty.len()), (pages, pages));
    }
}
