//! A hashed wheel of deadlines for many entities. Knows no clock: the caller says what tick it is.

/// Milliseconds a tick.
pub const TICK_MS: u64 = 50;

/// Entities by the tick that wakes them. An entity that was armed anew stands in two slots; only the entry whose
/// tick is the entity's own deadline counts, the other is dropped by the caller.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<u32>>,
    /// The next tick to be looked at.
    next: u32,
}

impl Wheel {
    /// A little over 54 minutes: the refresh of a subscription of one hour lies before it.
    const SLOTS: u32 = 65_536;

    pub fn new() -> Self {
        Wheel {
            slots: (0..Self::SLOTS).map(|_| Vec::new()).collect(),
            next: 0,
        }
    }

    /// Wakes `index` after `delay_ms`; returns the tick, to be kept as the entity's deadline.
    pub fn arm(&mut self, index: u32, now_ms: u64, delay_ms: u64) -> u32 {
        let furthest = u64::from(self.next) + u64::from(Self::SLOTS) - 1;
        let tick = (now_ms + delay_ms)
            .div_ceil(TICK_MS)
            .clamp(u64::from(self.next), furthest) as u32;
        self.slots[(tick % Self::SLOTS) as usize].push(index);
        tick
    }

    /// Moves the entries that are due by `now_ms` to `due`, each with its tick.
    pub fn advance(&mut self, now_ms: u64, due: &mut Vec<(u32, u32)>) {
        let now = (now_ms / TICK_MS) as u32;
        while self.next <= now {
            let tick = self.next;
            let slot = &mut self.slots[(tick % Self::SLOTS) as usize];
            due.extend(slot.drain(..).map(|index| (index, tick)));
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_out_once_and_not_early() {
        let mut wheel = Wheel::new();
        let tick = wheel.arm(3, 10, 500);
        let mut due = Vec::new();
        wheel.advance(500, &mut due);
        assert!(due.is_empty());
        wheel.advance(560, &mut due);
        assert_eq!(due, [(3, tick)]);
        wheel.advance(5_000, &mut due);
        assert_eq!(due.len(), 1);
    }

    #[test]
    fn a_deadline_beyond_the_wheel_is_brought_forward() {
        let mut wheel = Wheel::new();
        wheel.arm(1, 0, 10_000_000);
        let mut due = Vec::new();
        wheel.advance(TICK_MS * u64::from(Wheel::SLOTS), &mut due);
        assert_eq!(due.len(), 1);
    }
}
