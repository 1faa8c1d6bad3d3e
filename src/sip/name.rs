//! The names of header fields. Knows no values.

/// The header fields that some room asks for by name; all else is `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    Via,
    From,
    To,
    CallId,
    CSeq,
    Contact,
    RecordRoute,
    Route,
    MaxForwards,
    Event,
    SubscriptionState,
    Expires,
    MinExpires,
    Accept,
    AcceptEncoding,
    Require,
    ProxyRequire,
    Supported,
    Unsupported,
    ContentType,
    ContentEncoding,
    ContentLength,
    SipEtag,
    SipIfMatch,
    SuppressIfMatch,
    RetryAfter,
    AllowEvents,
    Allow,
    Warning,
    Authorization,
    /// Stands last, so that it counts the names before it.
    Other,
}

/// A set of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Names(u32);

impl Names {
    pub const NONE: Names = Names(0);

    pub const fn of(names: &[Name]) -> Names {
        let mut set = 0;
        let mut at = 0;
        while at < names.len() {
            set |= 1 << names[at] as u32;
            at += 1;
        }
        Names(set)
    }

    #[inline]
    pub const fn has(self, name: Name) -> bool {
        self.0 & 1 << name as u32 != 0
    }

    #[inline]
    pub fn add(&mut self, name: Name) {
        self.0 |= 1 << name as u32;
    }

    #[inline]
    pub fn meets(self, other: Names) -> bool {
        self.0 & other.0 != 0
    }
}

/// All names that have a spelling.
const SPELLED: [Name; Name::Other as usize] = [
    Name::Via,
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::Contact,
    Name::RecordRoute,
    Name::Route,
    Name::MaxForwards,
    Name::Event,
    Name::SubscriptionState,
    Name::Expires,
    Name::MinExpires,
    Name::Accept,
    Name::AcceptEncoding,
    Name::Require,
    Name::ProxyRequire,
    Name::Supported,
    Name::Unsupported,
    Name::ContentType,
    Name::ContentEncoding,
    Name::ContentLength,
    Name::SipEtag,
    Name::SipIfMatch,
    Name::SuppressIfMatch,
    Name::RetryAfter,
    Name::AllowEvents,
    Name::Allow,
    Name::Warning,
    Name::Authorization,
];

/// A name as its spellings are compared with it.
#[derive(Clone, Copy)]
struct Spelling {
    name: Name,
    len: usize,
    ends: Ends,
    /// The bits in which a spelling may differ: letters have either case.
    case: Ends,
}

/// The first and the last eight bytes; of fewer than eight, the first four and the last four. What stands between the
/// ends of a long name is compared by itself.
type Ends = [u64; 2];

#[inline]
const fn ends(text: &[u8]) -> Ends {
    match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(first), Some(last)) => [u64::from_le_bytes(*first), u64::from_le_bytes(*last)],
        _ => match (text.first_chunk::<4>(), text.last_chunk::<4>(), text) {
            (Some(first), Some(last), _) => [
                u32::from_le_bytes(*first) as u64,
                u32::from_le_bytes(*last) as u64,
            ],
            (_, _, [a, b, c]) => [u32::from_le_bytes([*a, *b, *c, 0]) as u64, 0],
            (_, _, [a, b]) => [u32::from_le_bytes([*a, *b, 0, 0]) as u64, 0],
            _ => [0; 2],
        },
    }
}

impl Spelling {
    const fn of(name: Name) -> Spelling {
        let text = name.as_str().as_bytes();
        let ends = ends(text);
        // Our names have letters, and hyphens, which alone lack the bit 0x40.
        let letters = 0x4040_4040_4040_4040;
        Spelling {
            name,
            len: text.len(),
            ends,
            case: [(ends[0] & letters) >> 1, (ends[1] & letters) >> 1],
        }
    }

    #[inline]
    fn is(&self, raw: &[u8]) -> bool {
        let ends = ends(raw);
        raw.len() == self.len
            && (ends[0] ^ self.ends[0]) & !self.case[0] == 0
            && (ends[1] ^ self.ends[1]) & !self.case[1] == 0
            && (raw.len() <= 16
                || middle(raw).eq_ignore_ascii_case(middle(self.name.as_str().as_bytes())))
    }
}

/// What stands between the ends of a long name.
fn middle(long: &[u8]) -> &[u8] {
    &long[8..long.len() - 8]
}

/// Where a name stands in `PLACES`: no two of ours share a place.
#[inline]
const fn place(raw: &[u8]) -> usize {
    let (first, last) = (raw[0] as usize & 31, raw[raw.len() - 1] as usize & 31);
    (first + 6 * last + 17 * raw.len()) % 128
}

/// The one name that a spelling can be, by its ends and its length.
static PLACES: [Spelling; 128] = {
    // No spelling of two bytes or more is as long as this says.
    let mut places = [Spelling {
        name: Name::Other,
        len: 0,
        ends: [0; 2],
        case: [0; 2],
    }; 128];
    let mut at = 0;
    while at < SPELLED.len() {
        let place = place(SPELLED[at].as_str().as_bytes());
        assert!(places[place].len == 0);
        places[place] = Spelling::of(SPELLED[at]);
        at += 1;
    }
    places
};

impl Name {
    /// The name behind a header field's spelling, in any case, long or compact (RFC 3261 7.3.1, 7.3.3).
    #[inline]
    pub fn of(raw: &[u8]) -> Name {
        match raw {
            [] => Name::Other,
            [letter] => Name::of_compact(*letter),
            _ => {
                let spelling = &PLACES[place(raw)];
                if spelling.is(raw) {
                    spelling.name
                } else {
                    Name::Other
                }
            }
        }
    }

    fn of_compact(letter: u8) -> Name {
        match letter.to_ascii_lowercase() {
            b'v' => Name::Via,
            b'f' => Name::From,
            b't' => Name::To,
            b'i' => Name::CallId,
            b'm' => Name::Contact,
            b'l' => Name::ContentLength,
            b'c' => Name::ContentType,
            b'e' => Name::ContentEncoding,
            b'k' => Name::Supported,
            b'o' => Name::Event,
            b'u' => Name::AllowEvents,
            _ => Name::Other,
        }
    }

    /// The long spelling, as the RFCs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Name::Via => "Via",
            Name::From => "From",
            Name::To => "To",
            Name::CallId => "Call-ID",
            Name::CSeq => "CSeq",
            Name::Contact => "Contact",
            Name::RecordRoute => "Record-Route",
            Name::Route => "Route",
            Name::MaxForwards => "Max-Forwards",
            Name::Event => "Event",
            Name::SubscriptionState => "Subscription-State",
            Name::Expires => "Expires",
            Name::MinExpires => "Min-Expires",
            Name::Accept => "Accept",
            Name::AcceptEncoding => "Accept-Encoding",
            Name::Require => "Require",
            Name::ProxyRequire => "Proxy-Require",
            Name::Supported => "Supported",
            Name::Unsupported => "Unsupported",
            Name::ContentType => "Content-Type",
            Name::ContentEncoding => "Content-Encoding",
            Name::ContentLength => "Content-Length",
            Name::SipEtag => "SIP-ETag",
            Name::SipIfMatch => "SIP-If-Match",
            Name::SuppressIfMatch => "Suppress-If-Match",
            Name::RetryAfter => "Retry-After",
            Name::AllowEvents => "Allow-Events",
            Name::Allow => "Allow",
            Name::Warning => "Warning",
            Name::Authorization => "Authorization",
            Name::Other => "header field",
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_by_every_letter_of_it() {
        for name in SPELLED {
            let spelled = name.as_str().as_bytes();
            for place in 0..spelled.len() {
                for byte in 0..=u8::MAX {
                    let mut raw = spelled.to_vec();
                    raw[place] = byte;
                    let expected = if raw.eq_ignore_ascii_case(spelled) {
                        name
                    } else {
                        Name::Other
                    };
                    assert_eq!(Name::of(&raw), expected, "{}", raw.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn names_are_known_in_any_case_and_in_compact_form() {
        let spelled = [
            (&b"vIa"[..], Name::Via),
            (b"SIP-ETAG", Name::SipEtag),
            (b"Call-Id", Name::CallId),
            (b"contact", Name::Contact),
            (b"max-forwards", Name::MaxForwards),
            (b"suppress-if-match", Name::SuppressIfMatch),
            (b"User-Agent", Name::Other),
            (b"Max_Forwards", Name::Other),
            (b"", Name::Other),
        ];
        for (raw, name) in spelled {
            assert_eq!(Name::of(raw), name, "{}", raw.escape_ascii());
        }
        for (compact, long) in b"vftimlceKoU".iter().zip([
            Name::Via,
            Name::From,
            Name::To,
            Name::CallId,
            Name::Contact,
            Name::ContentLength,
            Name::ContentType,
            Name::ContentEncoding,
            Name::Supported,
            Name::Event,
            Name::AllowEvents,
        ]) {
            assert_eq!(Name::of(&[*compact]), long);
            assert_eq!(Name::of(long.as_str().as_bytes()), long);
        }
    }
}
