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

impl Name {
    /// The name behind a header field's spelling, in any case, long or compact (RFC 3261 7.3.1, 7.3.3).
    pub fn of(raw: &[u8]) -> Name {
        let candidates: &[Name] = match raw.len() {
            1 => return Name::of_compact(raw[0]),
            2 => &[Name::To],
            3 => &[Name::Via],
            4 => &[Name::From, Name::CSeq],
            5 => &[Name::Event, Name::Route, Name::Allow],
            6 => &[Name::Accept],
            7 => &[
                Name::CallId,
                Name::Contact,
                Name::Expires,
                Name::Require,
                Name::Warning,
            ],
            8 => &[Name::SipEtag],
            9 => &[Name::Supported],
            11 => &[Name::RetryAfter, Name::MinExpires, Name::Unsupported],
            12 => &[
                Name::MaxForwards,
                Name::RecordRoute,
                Name::ContentType,
                Name::AllowEvents,
                Name::SipIfMatch,
            ],
            13 => &[Name::ProxyRequire, Name::Authorization],
            14 => &[Name::ContentLength],
            15 => &[Name::AcceptEncoding],
            16 => &[Name::ContentEncoding],
            17 => &[Name::SuppressIfMatch],
            18 => &[Name::SubscriptionState],
            _ => &[],
        };
        for name in candidates {
            let canonical = name.as_str().as_bytes();
            let same_letter = (raw[0] ^ canonical[0]) & !0x20 == 0;
            if same_letter && (raw == canonical || raw.eq_ignore_ascii_case(canonical)) {
                return *name;
            }
        }
        Name::Other
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
    pub fn as_str(self) -> &'static str {
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
