//! How many NOTIFYs of the shard may be unanswered at once: their answers must fit its receive buffer, and no more should
//! wait for peers than keeps them busy. Knows no subscription.

/// Never fewer unanswered NOTIFYs than this.
pub const LEAST: u32 = 32;
/// Kernel memory that one waiting answer takes of a receive buffer, in bytes (measured, rounded up).
pub const ANSWER_BYTES: usize = 1300;
/// So many lately sent NOTIFYs may be unanswered whatever the paths; more would only wait in queues.
const FEW: u32 = 2048;
/// A fan-out that its window has held back goes on in runs of up to so many, not by ones as the answers come: runs to one
/// next hop are one send, and fewer turns carry the same.
const RUN: u32 = 256;
/// A window holds so many runs: with fewer, the peers would have nothing to do while the next one is made.
const RUNS: u32 = 8;
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

/// No more than half the receive buffer holds. Of those sent in the last 30 ms, twice what the paths hold at the rate of the
/// last 100 ms; or as many as were answered in those, between `LEAST` and `FEW`.
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
        let room = self.most.saturating_sub(self.unanswered);
        room.min(self.busy().saturating_sub(self.sent_lately()))
    }

    /// Whether a fan-out should go on now: there is room for a run of it, or so few answers are expected soon that it would
    /// have to wait for more than them.
    pub fn has_room_for_run(&mut self, now_ms: u64) -> bool {
        let room = self.room(now_ms);
        let run = (self.busy() / RUNS).clamp(1, RUN);
        room >= run || (room > 0 && self.sent_lately() < run)
    }

    /// When there is more room at the latest although nobody answers; `None`: when a NOTIFY is given up.
    pub fn opens_ms(&self) -> Option<u64> {
        (self.sent_lately() > 0).then_some((self.bucket + 1) * BUCKET_MS)
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

    /// So many of those sent lately keep the peers busy.
    fn busy(&self) -> u32 {
        let under_way = u64::from(self.path_ms) * 2 / (BUCKETS as u64 * BUCKET_MS);
        let few = self.answered.clamp(LEAST, FEW);
        few.max(under_way as u32).min(self.most)
    }

    fn sent_lately(&self) -> u32 {
        (0..LATE as u64).map(|ago| self.sent_ago(ago)).sum()
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

    /// Seconds until a fan-out to so many peers has been answered, which takes `path_ms`, by all but each `dead_each`th.
    fn fan_out_s(peers: u32, path_ms: u64, dead_each: u32) -> f64 {
        let mut window = Window::new(16 << 20);
        let (mut left, mut now_ms) = (peers, 0);
        let mut under_way = std::collections::VecDeque::new();
        while left > 0 || under_way.iter().any(|&(_, dead): &(u64, bool)| !dead) {
            while let Some(&(began_ms, dead)) = under_way.front()
                && began_ms + path_ms <= now_ms
            {
                under_way.pop_front();
                if !dead {
                    window.answered(now_ms, began_ms, path_ms.min(255) as u8);
                }
            }
            if window.has_room_for_run(now_ms) {
                for _ in 0..window.room(now_ms).min(left) {
                    window.sent(now_ms);
                    under_way.push_back((now_ms, left % dead_each == 0));
                    left -= 1;
                }
            }
            now_ms += 1;
        }
        now_ms as f64 / 1e3
    }

    #[test]
    fn neither_long_paths_nor_dead_peers_hold_a_fan_out_up() {
        for (path_ms, dead_each, most_s) in [
            (0, 5, 0.6),
            (30, 5, 0.8),
            (100, 5, 1.3),
            (300, 5, 2.5),
            (300, 2, 3.0),
        ] {
            let took_s = fan_out_s(5_000, path_ms, dead_each);
            assert!(
                took_s < most_s,
                "{path_ms} ms, each {dead_each}th dead: {took_s} s"
            );
        }
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

    #[test]
    fn a_run_is_waited_for_only_while_answers_are_expected() {
        let mut window = Window::new(16 << 20);
        assert!(window.has_room_for_run(0));
        let sent = fill(&mut window, 0);
        (1..sent / RUNS).for_each(|_| window.answered(1, 0, 1));
        assert!(window.room(1) > 0 && !window.has_room_for_run(1));
        window.answered(1, 0, 1);
        assert!(window.has_room_for_run(1), "a run of them came");
        fill(&mut window, 1);
        window.answered(2, 1, 1);
        assert!(!window.has_room_for_run(2));
        assert!(
            window.has_room_for_run(LATE_MS + 10),
            "no more will come soon"
        );
    }
}
