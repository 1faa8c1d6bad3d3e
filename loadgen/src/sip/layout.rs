//! The heads of NOTIFYs that were read before, so that one laid out alike is read by place instead of line by line:
//! every byte but those of the values that may differ must be the same. What is not alike is read in full, and learnt.

use memchr::{memchr, memrchr};

use super::fields::{Fields, Repeated, Unreadable, fields};
use super::scan::{self, Message, Notify, notify_target};

/// Reads datagrams, ever quicker.
#[derive(Debug, Default)]
pub struct Scanner {
    known: Vec<Layout>,
    /// Where in `known` the last head was found.
    last: usize,
    /// Which of `known` is forgotten next.
    oldest: usize,
    learnt: u64,
}

/// Bytes compared at once.
const WIDTH: usize = 32;

/// From and to, in bytes after the first line.
type Span = (u16, u16);

/// One head, from behind the first line to the empty line.
#[derive(Debug)]
struct Layout {
    head: Box<[u8]>,
    /// For each byte of the head: all ones where it must be the same, 0 within a value that may differ.
    mask: Box<[u8]>,
    branch: Span,
    call_id: Span,
    from_tag: Span,
    to_user: Span,
    to_tag: Span,
    cseq: Span,
    method: Span,
    subscription_state: Span,
    content_length: Option<Span>,
    contact: Option<Span>,
    route: Option<Span>,
    event: Span,
    content_type: Span,
    repeated: Repeated<'static>,
}

impl Scanner {
    /// The widths of addresses and numbers, times the views that are under way at once.
    const KEPT: usize = 32;

    /// How many heads were unlike those before.
    pub fn learnt(&self) -> u64 {
        self.learnt
    }

    pub fn scan<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, Unreadable> {
        let first_end = memchr(b'\n', bytes).ok_or(Unreadable::FirstLine)?;
        let Some(target) = notify_target(bytes[..first_end].trim_ascii_end()) else {
            return scan::scan(bytes);
        };
        let start = first_end + 1;
        let count = self.known.len();
        for step in 0..count {
            let at = if self.last + step < count {
                self.last + step
            } else {
                self.last + step - count
            };
            if let Some((fields, body)) = self.known[at].read(bytes, start) {
                self.last = at;
                return Notify::new(target, fields, body).map(Message::Notify);
            }
        }
        let (fields, body) = fields(bytes, start)?;
        let layout = Layout::of(bytes, start, bytes.len() - body.len(), &fields);
        let notify = Notify::new(target, fields, body)?;
        if let Some(layout) = layout {
            self.learn(layout);
        }
        Ok(Message::Notify(notify))
    }

    fn learn(&mut self, layout: Layout) {
        self.learnt += 1;
        if self.known.len() < Self::KEPT {
            self.last = self.known.len();
            self.known.push(layout);
        } else {
            self.known[self.oldest] = layout;
            self.last = self.oldest;
            self.oldest = (self.oldest + 1) % Self::KEPT;
        }
    }
}

impl Layout {
    /// `None` for a head whose values cannot be told apart, as where one is not there.
    fn of(bytes: &[u8], start: usize, end: usize, fields: &Fields) -> Option<Layout> {
        let head = &bytes[start..end];
        let place = |value: &[u8]| place(head, value);
        let branch = place(fields.branch)?;
        let call_id = place(fields.call_id)?;
        let from_tag = place(fields.from_tag)?;
        let to_user = place(fields.to_user)?;
        let to_tag = place(fields.to_tag)?;
        let cseq = padded(head, place(fields.cseq)?)?;
        let subscription_state = padded(head, place(fields.subscription_state)?)?;
        let content_length = match fields.content_length {
            Some(value) => Some(place(value)?),
            None => None,
        };
        let route = match fields.route {
            Some(value) => Some(place(value)?),
            None => None,
        };
        let mut values = vec![
            branch,
            call_id,
            from_tag,
            to_user,
            to_tag,
            cseq,
            subscription_state,
        ];
        values.extend(content_length.into_iter().chain(route));
        // A value on several lines could hide a line end that is another's elsewhere.
        let is_folded =
            |&(from, to): &Span| memchr(b'\n', &head[usize::from(from)..usize::from(to)]).is_some();
        if values.iter().any(is_folded) {
            return None;
        }
        Some(Layout {
            head: head.into(),
            mask: mask(&values, head.len())?,
            branch,
            call_id,
            from_tag,
            to_user,
            to_tag,
            cseq,
            method: place(fields.method)?,
            subscription_state,
            content_length,
            contact: fields.contact.and_then(place),
            route,
            event: place(fields.event)?,
            content_type: place(fields.content_type).unwrap_or_default(),
            repeated: fields.repeated.without_message(start)?,
        })
    }

    /// The same but for the values, and no line end in a value: so there are no other lines.
    fn is_like(&self, head: &[u8]) -> bool {
        let (known, mask) = (&*self.head, &*self.mask);
        if head.len() < WIDTH || known.len() != head.len() || mask.len() != head.len() {
            return false;
        }
        // Without a branch, so that it is done for many bytes at once; the last ones overlap those before.
        let mut unlike = [0; WIDTH];
        let mut at = 0;
        loop {
            let (one, known, mask) = (
                &head[at..][..WIDTH],
                &known[at..][..WIDTH],
                &mask[at..][..WIDTH],
            );
            for byte in 0..WIDTH {
                unlike[byte] |= (one[byte] ^ known[byte]) & mask[byte]
                    | u8::from(one[byte] == b'\n') & !mask[byte];
            }
            if at + WIDTH == head.len() {
                break;
            }
            at = (at + WIDTH).min(head.len() - WIDTH);
        }
        unlike == [0; WIDTH]
    }

    /// The header fields of `bytes` and the body, if the head is laid out like this one.
    #[inline(always)]
    fn read<'a>(&self, bytes: &'a [u8], start: usize) -> Option<(Fields<'a>, &'a [u8])> {
        let (head, body) = bytes[start..].split_at_checked(self.head.len())?;
        u16::try_from(start + head.len()).ok()?;
        if !head.ends_with(b"\r\n\r\n") || !self.is_like(head) {
            return None;
        }
        let value = |(from, to): Span| &head[usize::from(from)..usize::from(to)];
        let fields = Fields {
            branch: value(self.branch),
            call_id: value(self.call_id),
            from_tag: value(self.from_tag),
            to_user: value(self.to_user),
            to_tag: value(self.to_tag),
            cseq: value(self.cseq).trim_ascii_start(),
            method: value(self.method),
            contact: self.contact.map(value),
            route: self.route.map(value),
            event: value(self.event),
            content_type: value(self.content_type),
            content_length: self.content_length.map(value),
            subscription_state: value(self.subscription_state).trim_ascii_start(),
            repeated: self.repeated.moved(bytes, start as u16),
            ..Fields::default()
        };
        Some((fields, body))
    }
}

/// Where a value stands in the head that it is a part of; `None` for one that is not there.
fn place(head: &[u8], value: &[u8]) -> Option<Span> {
    let from = (value.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
    let to = from + value.len();
    if value.is_empty() || to > head.len() {
        return None;
    }
    Some((u16::try_from(from).ok()?, u16::try_from(to).ok()?))
}

/// A value with the white space before it, which may give way to it: from the colon on.
fn padded(head: &[u8], (from, to): Span) -> Option<Span> {
    let colon = memrchr(b':', &head[..usize::from(from)])?;
    Some((u16::try_from(colon + 1).ok()?, to))
}

/// `None` where values overlap.
fn mask(values: &[Span], length: usize) -> Option<Box<[u8]>> {
    let mut mask = vec![0xff; length];
    for &(from, to) in values {
        for place in &mut mask[usize::from(from)..usize::from(to)] {
            if *place == 0 {
                return None;
            }
            *place = 0;
        }
    }
    Some(mask.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::tests::NOTIFY;

    fn text(index: u32, cseq: &str, state: &str, body: &str) -> String {
        format!(
            "NOTIFY sip:{index:08x}@127.1.2.3:5062 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK{index:08x}{cseq};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:example.com>;tag=n{index:08x}\r\nTo: <sip:{index:08x}@example.com>;tag=lg{index:08x}\r\n\
             Call-ID: 00c0ffee-{index:08x}@x\r\nCSeq: {cseq:>10} NOTIFY\r\nContact: <sip:n1@127.0.0.1:5060>\r\n\
             Event: SIPserver\r\nSubscription-State: {state}\r\nContent-Type: application/serverinfo+xml\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn read<'a>(scanner: &mut Scanner, text: &'a str) -> Notify<'a> {
        match scanner.scan(text.as_bytes()) {
            Ok(Message::Notify(notify)) => notify,
            other => panic!("{other:?}"),
        }
    }

    /// What a scan by place gives must be what a scan in full gives.
    fn compare(scanner: &mut Scanner, text: &str) {
        let Ok(Message::Notify(full)) = scan::scan(text.as_bytes()) else {
            panic!("{text}");
        };
        let quick = read(scanner, text);
        let mut answers = [Vec::new(), Vec::new()];
        quick
            .repeated
            .write_answer(b"SIP/2.0 200 OK\r\n", &mut answers[0]);
        full.repeated
            .write_answer(b"SIP/2.0 200 OK\r\n", &mut answers[1]);
        assert_eq!(answers[0], answers[1]);
        let shown = |notify: Notify| {
            let mut shown = format!("{notify:?}");
            shown.truncate(shown.find("repeated:").unwrap());
            shown
        };
        assert_eq!(shown(quick), shown(full));
    }

    #[test]
    fn heads_laid_out_alike_are_read_by_place_and_alike() {
        let mut scanner = Scanner::default();
        for (index, cseq, state, body) in [
            (1, "1", "active;expires=1799", "<a/>"),
            (0xffff_ffff, "2", "active;expires=1698", "<b/>"),
            (2, "4294967", "       pending;expires=9", "<c/>"),
            (2, "9999999", "terminated;reason=noreso", "<c/>"),
        ] {
            compare(&mut scanner, &text(index, cseq, state, body));
        }
        assert_eq!(scanner.learnt(), 2);
        for cseq in ["1", "4294967"] {
            compare(&mut scanner, &text(7, cseq, "active;expires=1000", "<a/>"));
        }
        assert_eq!(scanner.learnt(), 3);
    }

    #[test]
    fn a_message_with_continued_and_short_lines_is_read_alike() {
        let mut scanner = Scanner::default();
        for _ in 0..2 {
            compare(&mut scanner, std::str::from_utf8(NOTIFY).unwrap());
        }
        assert_eq!(scanner.learnt(), 1);
    }

    #[test]
    fn a_line_end_within_a_value_is_a_line_end() {
        let mut scanner = Scanner::default();
        let plain = text(1, "1", "active;expires=1799", "<a/>");
        compare(&mut scanner, &plain);
        for (find, replace) in [
            ("active;expires=1799", "active\r\nExpire: 1799"),
            ("00c0ffee-", "00c0\nee: "),
            ("tag=n00000001", "tag=n00\nx: 01"),
        ] {
            let other = plain.replace(find, replace);
            assert_ne!(other, plain);
            compare(&mut scanner, &other);
        }
    }

    #[test]
    fn what_is_wrong_in_one_that_is_laid_out_alike_is_seen() {
        let mut scanner = Scanner::default();
        let plain = text(1, "1", "active;expires=1799", "<a/>");
        read(&mut scanner, &plain);
        for (find, replace, reason) in [
            ("Content-Length: 4", "Content-Length: 5", Unreadable::Length),
            ("Content-Length: 4", "Content-Length: x", Unreadable::Number),
            ("1 NOTIFY", "x NOTIFY", Unreadable::Number),
            ("1 NOTIFY", "1 NOTIFI", Unreadable::Method),
            ("\r\nFrom:", "\r\nFrxm:", Unreadable::Missing),
            ("\r\nTo:", "\r\nTx:", Unreadable::Missing),
        ] {
            let other = plain.replace(find, replace);
            assert_ne!(other, plain);
            assert_eq!(
                scanner.scan(other.as_bytes()).unwrap_err(),
                reason,
                "{find} -> {replace}"
            );
        }
        for end in 0..plain.len() {
            assert!(scanner.scan(&plain.as_bytes()[..end]).is_err());
        }
    }

    #[test]
    fn more_heads_than_are_kept_are_still_read() {
        let mut scanner = Scanner::default();
        for turn in 0..3 {
            for width in 1..50 {
                let body = "x".repeat(width * 3 + turn);
                let state = format!("active;expires={}", "1".repeat(width));
                compare(&mut scanner, &text(5, "1", &state, &body));
            }
        }
        assert_eq!(scanner.known.len(), Scanner::KEPT);
    }
}
