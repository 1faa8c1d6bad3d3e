//! How many NOTIFYs of the shard may be unanswered at once: their answers must fit its receive buffer, and no more should
//! wait for peers than keeps them busy. Knows no subscription.

/// Never fewer unanswered NOTIFYs than this.
pub const LEAST: u32 = 32;
/// Kernel memory that one waiting answer takes of a receive buffer, in bytes (measured, rounded up).
pub const ANSWER_BYTES: usize = 1300;
/// So many lately sent NOTIFYs may be unanswered whatever the paths. More would only wait in queues, out of the cache: a
/// window of 6,000 cost 12 % more CPU an exchange than one of 500, and was no faster.
const FEW: u32 = 512;
/// A fan-out that its window has held back goes on in runs of up to so many, not by ones as the answers come: runs to one
/// next hop are one send, and fewer turns carry the same.
const RUN: u32 = 256;
const BUCKET_MS: u64 = 10;
const BUCKETS: usize = 10;
/// A NOTIFY sent before so many buckets' time waits for a peer that is slow or dead: others need not wait for it.
const LATE: usize = 3;
const LATE_MS: u64 = LATE as u64 * BUCKET_MS;

/// What happened in 10 ms.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    answered: u32,
    /// The round trips of their paths, in ms, one more for each: the clock's grain.
    path_ms: u32,
    /// Sent then, and unanswered.
    sent: u32,
}

/// No more than half the receive buffer holds, no more than were answered in the last 100 ms, never under `LEAST`; and of
/// those sent in the last 30 ms twice what the paths hold, or `FEW`.
#[derive(Debug)]
pub struct Window {
    most: u32,
    unanswered: u32,
    buckets: [Bucket; BUCKETS],
    /// All that the buckets count, but for what was sent.
    answered: u32,
    path_ms: u32,
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
            buckets: [Bucket::default(); BUCKETS],
            answered: 0,
            path_ms: 0,
            bucket: 0,
        }
    }

    /// How many more NOTIFYs may go out now.
    pub fn room(&mut self, now_ms: u64) -> u32 {
        self.advance(now_ms);
        let lately: u32 = (0..LATE as u64).map(|ago| self.sent_ago(ago)).sum();
        let allowed = self.allowed();
        (allowed.saturating_sub(self.unanswered)).min(self.busy(allowed).saturating_sub(lately))
    }

    /// Whether a fan-out should go on now: there is room for a run of it.
    pub fn has_room_for_run(&mut self, now_ms: u64) -> bool {
        let room = self.room(now_ms);
        let run = self.busy(self.allowed()) / 2;
        room >= run.clamp(1, RUN)
    }

    /// When there is more room at the latest although nobody answers; `None`: when a NOTIFY is given up.
    pub fn opens_ms(&self) -> Option<u64> {
        let waits_for_time = (0..LATE as u64).any(|ago| self.sent_ago(ago) > 0);
        waits_for_time.then_some((self.bucket + 1) * BUCKET_MS)
    }

    pub fn unanswered(&self) -> u32 {
        self.unanswered
    }

    pub fn sent(&mut self, now_ms: u64) {
        self.advance(now_ms);
        self.unanswered += 1;
        self.buckets[self.bucket as usize % BUCKETS].sent += 1;
    }

    /// A NOTIFY of this window, sent at `began_ms`, was answered; the path to its peer takes `path_ms` there and back.
    pub fn answered(&mut self, now_ms: u64, began_ms: u64, path_ms: u8) {
        self.given_up(began_ms);
        self.advance(now_ms);
        let path_ms = u64::from(path_ms).min(LATE_MS) as u32 + 1;
        let bucket = &mut self.buckets[self.bucket as usize % BUCKETS];
        (bucket.answered, bucket.path_ms) = (bucket.answered + 1, bucket.path_ms + path_ms);
        (self.answered, self.path_ms) = (self.answered + 1, self.path_ms + path_ms);
    }

    /// A NOTIFY that is no longer expected to be answered soon: its Timer E fired, or it was abandoned.
    pub fn given_up(&mut self, began_ms: u64) {
        self.unanswered = self
            .unanswered
            .checked_sub(1)
            .expect("each NOTIFY leaves the window once");
        let began = began_ms / BUCKET_MS;
        if began + BUCKETS as u64 > self.bucket {
            let sent = &mut self.buckets[began as usize % BUCKETS].sent;
            *sent = sent.saturating_sub(1);
        }
    }

    /// Unanswered at the most.
    fn allowed(&self) -> u32 {
        self.answered.clamp(LEAST, self.most)
    }

    /// The same of those sent lately: twice as many as are on their way at the rate of the last 100 ms.
    fn busy(&self, allowed: u32) -> u32 {
        let under_way = u64::from(self.path_ms) * 2 / (BUCKETS as u64 * BUCKET_MS);
        allowed.min(FEW.max(under_way as u32))
    }

    fn sent_ago(&self, buckets: u64) -> u32 {
        let bucket = self.bucket.checked_sub(buckets);
        bucket.map_or(0, |bucket| self.buckets[bucket as usize % BUCKETS].sent)
    }

    fn advance(&mut self, now_ms: u64) {
        let bucket = now_ms / BUCKET_MS;
        for step in 0..bucket.saturating_sub(self.bucket).min(BUCKETS as u64) {
            let gone = std::mem::take(&mut self.buckets[(bucket - step) as usize % BUCKETS]);
            self.answered -= gone.answered;
            self.path_ms -= gone.path_ms;
        }
        self.bucket = self.bucket.max(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as many as there is room for; how many.
    fn fill(window: &mut Window, now_ms: u64) -> u32 {
        let room = window.room(now_ms);
        (0..room).for_each(|_| window.sent(now_ms));
        assert_eq!(window.room(now_ms), 0);
        room
    }

    /// Rounds of `path_ms` there and back, each filled and answered; how many the last one held.
    fn rounds(window: &mut Window, now_ms: &mut u64, path_ms: u64, count: usize) -> u32 {
        let mut held = 0;
        for _ in 0..count {
            held = fill(window, *now_ms);
            let began_ms = *now_ms;
            *now_ms += path_ms;
            (0..held).for_each(|_| window.answered(*now_ms, began_ms, path_ms as u8));
        }
        held
    }

    #[test]
    fn the_window_follows_the_answers_of_the_last_tenth_of_a_second() {
        let mut window = Window::new(16 << 20);
        let mut now_ms = 0;
        assert_eq!(rounds(&mut window, &mut now_ms, 1, 1), LEAST);
        assert_eq!(rounds(&mut window, &mut now_ms, 1, 2), 2 * LEAST);
        assert_eq!(rounds(&mut window, &mut now_ms, 1, 20), FEW);
        let silence_ms = now_ms + 120;
        assert_eq!(
            window.room(silence_ms),
            LEAST,
            "a silence of 100 ms closes it to the least"
        );
    }

    #[test]
    fn a_longer_path_holds_more() {
        let mut window = Window::new(16 << 20);
        let mut now_ms = 0;
        assert!(rounds(&mut window, &mut now_ms, 25, 40) > 4 * FEW);
    }

    #[test]
    fn half_of_a_default_receive_buffer_is_the_most() {
        let mut window = Window::new(212_992);
        assert_eq!(rounds(&mut window, &mut 0, 1, 1_000), 81);
    }

    #[test]
    fn who_does_not_answer_holds_others_up_for_a_moment_only() {
        let mut window = Window::new(16 << 20);
        let mut now_ms = 0;
        rounds(&mut window, &mut now_ms, 1, 20);
        let dead = fill(&mut window, now_ms);
        let closed_ms = now_ms;
        while window.room(now_ms) == 0 {
            now_ms = window.opens_ms().expect("it opens with time");
        }
        assert!(
            now_ms - closed_ms <= LATE_MS,
            "after {} ms",
            now_ms - closed_ms
        );
        (0..dead).for_each(|_| window.given_up(closed_ms));
        assert_eq!(window.unanswered(), 0);
    }
}
