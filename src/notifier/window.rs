//! How many NOTIFYs of the shard may be unanswered at once: their answers must fit its receive buffer. Knows no
//! subscription.

/// Never fewer unanswered NOTIFYs than this.
pub const LEAST: u32 = 32;
/// Kernel memory that one waiting answer takes of a receive buffer, in bytes (measured, rounded up).
pub const ANSWER_BYTES: usize = 1300;
/// A fan-out that is held back by its window goes on in runs of so many, not by ones as the answers come: runs to one next
/// hop are one send, and fewer turns carry the same.
const RUN: u32 = 256;
const BUCKET_MS: u64 = 10;
const BUCKETS: usize = 10;

/// No more than half the receive buffer holds, no more than were answered in the last 100 ms, never under `LEAST`.
#[derive(Debug)]
pub struct Window {
    most: u32,
    unanswered: u32,
    answered: [u32; BUCKETS],
    /// All that `answered` counts.
    recent: u32,
    bucket: u64,
}

impl Window {
    /// `receive_buffer` is what the kernel accounts for one socket, in bytes.
    pub fn new(receive_buffer: usize) -> Self {
        let most = u32::try_from(receive_buffer / 2 / ANSWER_BYTES)
            .unwrap_or(u32::MAX)
            .max(LEAST);
        Window {
            most,
            unanswered: 0,
            answered: [0; BUCKETS],
            recent: 0,
            bucket: 0,
        }
    }

    /// How many more NOTIFYs may go out now.
    pub fn room(&mut self, now_ms: u64) -> u32 {
        self.advance(now_ms);
        self.recent
            .clamp(LEAST, self.most)
            .saturating_sub(self.unanswered)
    }

    /// Whether a fan-out should go on now: there is room for a run of it, or so few NOTIFYs are under way that the peers might
    /// wait for more before there is.
    pub fn has_room_for_run(&mut self, now_ms: u64) -> bool {
        let run = (self.most / 16).clamp(1, RUN);
        let room = self.room(now_ms);
        room >= run || (room > 0 && self.unanswered < 4 * run)
    }

    pub fn unanswered(&self) -> u32 {
        self.unanswered
    }

    pub fn sent(&mut self) {
        self.unanswered += 1;
    }

    /// A NOTIFY of this window was answered.
    pub fn answered(&mut self, now_ms: u64) {
        self.given_up();
        self.advance(now_ms);
        self.answered[self.bucket as usize % BUCKETS] += 1;
        self.recent += 1;
    }

    /// A NOTIFY that is no longer expected to be answered soon: its Timer E fired, or it was abandoned.
    pub fn given_up(&mut self) {
        self.unanswered = self
            .unanswered
            .checked_sub(1)
            .expect("each NOTIFY leaves the window once");
    }

    fn advance(&mut self, now_ms: u64) {
        let bucket = now_ms / BUCKET_MS;
        for step in 0..bucket.saturating_sub(self.bucket).min(BUCKETS as u64) {
            let gone = &mut self.answered[(bucket - step) as usize % BUCKETS];
            self.recent -= std::mem::take(gone);
        }
        self.bucket = self.bucket.max(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_answers_of_the_last_tenth_of_a_second() {
        let mut window = Window::new(16 << 20);
        for _ in 0..LEAST {
            window.sent();
        }
        assert_eq!(window.room(0), 0);
        for _ in 0..LEAST {
            window.answered(5);
            window.sent();
        }
        for _ in 0..LEAST {
            window.answered(6);
        }
        assert_eq!(window.room(6), 2 * LEAST);
        assert_eq!(
            window.room(120),
            LEAST,
            "a silence of 100 ms closes it to the least"
        );
    }

    #[test]
    fn half_of_a_default_receive_buffer_is_the_most() {
        let mut window = Window::new(212_992);
        for now_ms in 0..1_000 {
            window.sent();
            window.answered(now_ms / 100);
        }
        assert_eq!(window.room(9), 81);
    }
}
