//! Arrays that grow by chunks, so that growth never copies: a `Vec` that doubles at a million entries stalls its shard
//! for as long as the copy takes. Knows nothing of what it holds.

use std::ops::{Index, IndexMut};

const CHUNK: usize = 1024;

#[derive(Debug)]
pub struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: u32,
}

impl<T> Chunks<T> {
    pub fn new() -> Self {
        Chunks {
            chunks: Vec::new(),
            len: 0,
        }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// Appends a value; its number is the former length.
    pub fn push(&mut self, value: T) -> u32 {
        if (self.len as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks
            .last_mut()
            .expect("a chunk with room")
            .push(value);
        self.len += 1;
        self.len - 1
    }

    pub fn get(&self, number: u32) -> Option<&T> {
        self.chunks
            .get(number as usize / CHUNK)?
            .get(number as usize % CHUNK)
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

/// Values under numbers that are used again, the last one freed first: what comes and goes stays in the cache.
#[derive(Debug)]
pub struct Slab<T> {
    places: Chunks<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Slab {
            places: Chunks::new(),
            free: Vec::new(),
        }
    }

    /// Values held.
    pub fn len(&self) -> usize {
        self.places.len() as usize - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.places[number] = Some(value);
                number
            }
            None => self.places.push(Some(value)),
        }
    }

    pub fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.places[number].take()?;
        self.free.push(number);
        Some(value)
    }

    pub fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number)?.as_ref()
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places[number].as_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.chunks.iter().flatten().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_what_was_pushed() {
        let mut chunks = Chunks::new();
        for number in 0..3 * CHUNK as u32 + 1 {
            assert_eq!(chunks.push(number * 7), number);
        }
        assert_eq!(chunks.len(), 3 * CHUNK as u32 + 1);
        chunks[CHUNK as u32] += 1;
        assert_eq!(chunks[CHUNK as u32], CHUNK as u32 * 7 + 1);
        assert_eq!(chunks[CHUNK as u32 - 1], (CHUNK as u32 - 1) * 7);
        assert_eq!(chunks.get(chunks.len()), None);
    }

    #[test]
    fn a_slab_gives_the_number_freed_last() {
        let mut slab = Slab::new();
        let (first, second) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(first), Some("a"));
        assert_eq!(slab.remove(first), None, "gone once");
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.insert("c"), first);
        assert_eq!(slab.get(second), Some(&"b"));
        assert_eq!(slab.iter().count(), 2);
    }
}
