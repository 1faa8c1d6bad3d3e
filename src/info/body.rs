//! Documents as bytes: the shared parts around each subscriber's version, their lengths, and how a table is split into
//! parts. Knows no subscriber and no SIP.

use std::fmt;
use std::ops::Range;

use super::document::Format;
use super::projection::Change;
use super::server::Server;
use super::view::{Entry, View};
use super::{json, xml};

/// How many places a version takes, so that the length of a body never changes: the digits of a 32-bit number.
const VERSION_PLACES: usize = 10;

/// Where rendered bytes go: a buffer, or a count of them.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    /// For values whose text needs no escaping.
    fn display(&mut self, value: impl fmt::Display)
    where
        Self: Sized,
    {
        use fmt::Write;
        write!(Text(self), "{value}").expect("a sink takes everything");
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what would be rendered.
struct Count(usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

struct Text<'a, S>(&'a mut S);

impl<S: Sink> fmt::Write for Text<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.put(text.as_bytes());
        Ok(())
    }
}

/// What a document says of itself beside the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Full,
    /// One of the parts of a full document, counted from 1.
    Part {
        part: u32,
        parts: u32,
    },
    /// The changes since the view `base`.
    Partial {
        base: u64,
    },
}

/// A document but for its version: the only bytes that differ between subscribers of one filter and format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What comes before the digits of the version.
    prefix: Box<[u8]>,
    /// What comes after the version's ten places.
    suffix: Box<[u8]>,
    format: Format,
}

impl Body {
    /// Bytes of the whole document, whatever its version.
    pub fn len(&self) -> usize {
        self.prefix.len() + version_len(self.format) + self.suffix.len()
    }

    /// Never: a document has at least its envelope.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends the whole document.
    pub fn write(&self, version: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        let end = out.len() + version_len(self.format);
        out.number(version.into());
        if self.format == Format::Xml {
            out.push(b'"');
        }
        out.resize(end, b' ');
        out.extend_from_slice(&self.suffix);
    }

    /// The whole document in one piece.
    pub fn to_vec(&self, version: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        self.write(version, &mut out);
        out
    }
}

/// The table as one document.
pub fn full<'a>(view: &View, entries: impl Iterator<Item = &'a Entry>, format: Format) -> Body {
    render(view, Kind::Full, entries.map(Change::of), format)
}

/// Some entries of the table as part `part` of `parts`, counted from 1.
pub fn part<'a>(
    view: &View,
    entries: impl Iterator<Item = &'a Entry>,
    part: u32,
    parts: u32,
    format: Format,
) -> Body {
    let kind = Kind::Part { part, parts };
    render(view, kind, entries.map(Change::of), format)
}

/// What changed since the view `base`.
pub fn partial(view: &View, base: u64, changes: &[Change<'_>], format: Format) -> Body {
    render(
        view,
        Kind::Partial { base },
        changes.iter().copied(),
        format,
    )
}

/// What a server publishes of itself: no version, view, notifier, state or stamp.
pub fn publication_body(domain: &str, server: &Server, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    match format {
        Format::Xml => xml::publication(&mut out, domain, server),
        Format::Json => json::publication(&mut out, domain, server),
    }
    out
}

/// Bytes that a change, or an entry by [`Change::of`], adds to a document at the most: in JSON with a comma.
pub fn entry_len(change: Change<'_>, format: Format) -> usize {
    let mut count = Count(0);
    match format {
        Format::Xml => xml::change(&mut count, change),
        Format::Json => {
            json::change(&mut count, change);
            count.put(b",");
        }
    }
    count.0
}

/// Bytes of a document without entries.
pub fn envelope_len(view: &View, kind: Kind, format: Format) -> usize {
    let mut count = Count(version_len(format));
    prefix(&mut count, view, format);
    match format {
        Format::Xml => {
            xml::after_version(&mut count, view, kind);
            xml::end(&mut count);
        }
        Format::Json => {
            json::after_version(&mut count, view, kind);
            json::end(&mut count);
        }
    }
    count.0
}

/// Which entries go into which part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Ranges of the entries given, in their order; at least one, which may be empty.
    pub parts: Vec<Range<usize>>,
    /// The places of entries that alone do not fit; no range covers them.
    pub oversize: Vec<usize>,
}

/// Splits entries so that no part is longer than `budget` bytes.
pub fn split(view: &View, entries: &[&Entry], format: Format, budget: usize) -> Split {
    // No number of a part has more digits than that of all entries.
    let most = u32::try_from(entries.len().max(1)).unwrap_or(u32::MAX);
    let kind = Kind::Part {
        part: most,
        parts: most,
    };
    let room = budget.saturating_sub(envelope_len(view, kind, format));
    let mut split = Split::default();
    let (mut start, mut used) = (0, 0);
    for (place, entry) in entries.iter().enumerate() {
        let len = entry_len(Change::of(entry), format);
        if len > room {
            split.close(start..place);
            split.oversize.push(place);
            (start, used) = (place + 1, 0);
        } else if used + len > room {
            split.close(start..place);
            (start, used) = (place, len);
        } else {
            used += len;
        }
    }
    split.close(start..entries.len());
    if split.parts.is_empty() {
        split.parts.push(0..0);
    }
    split
}

impl Split {
    fn close(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            self.parts.push(range);
        }
    }
}

fn version_len(format: Format) -> usize {
    match format {
        Format::Xml => VERSION_PLACES + 1,
        Format::Json => VERSION_PLACES,
    }
}

fn prefix(out: &mut impl Sink, view: &View, format: Format) {
    match format {
        Format::Xml => xml::before_version(out, view),
        Format::Json => json::before_version(out, view),
    }
}

fn render<'a>(
    view: &View,
    kind: Kind,
    changes: impl Iterator<Item = Change<'a>>,
    format: Format,
) -> Body {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    prefix(&mut before, view, format);
    match format {
        Format::Xml => {
            xml::after_version(&mut after, view, kind);
            changes.for_each(|change| xml::change(&mut after, change));
            xml::end(&mut after);
        }
        Format::Json => {
            json::after_version(&mut after, view, kind);
            for (place, change) in changes.enumerate() {
                if place > 0 {
                    after.put(b",");
                }
                json::change(&mut after, change);
            }
            json::end(&mut after);
        }
    }
    Body {
        prefix: before.into(),
        suffix: after.into(),
        format,
    }
}
