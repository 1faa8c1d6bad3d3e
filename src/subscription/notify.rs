//! What a NOTIFY says, and what is wrong with one (RFC 3261 8.2, RFC 6665 4.1.3, 7.2). Knows no subscription.

use crate::info::{Document, Format, parse};
use crate::sip::EVENT_PACKAGE;
use crate::sip::header::{MediaRange, Params, delta_seconds};
use crate::sip::request::{Method, Request};
use crate::sip::scan::Name;

/// Why a subscription ended (RFC 6665 4.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Deactivated,
    Probation,
    Rejected,
    Timeout,
    Giveup,
    NoResource,
    Invariant,
    /// None was given, or one of a later RFC.
    Unknown,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Deactivated => "deactivated",
            Ending::Probation => "probation",
            Ending::Rejected => "rejected",
            Ending::Timeout => "timeout",
            Ending::Giveup => "giveup",
            Ending::NoResource => "noresource",
            Ending::Invariant => "invariant",
            Ending::Unknown => "no reason given",
        }
    }

    fn of(name: &[u8]) -> Self {
        [
            Ending::Deactivated,
            Ending::Probation,
            Ending::Rejected,
            Ending::Timeout,
            Ending::Giveup,
            Ending::NoResource,
            Ending::Invariant,
        ]
        .into_iter()
        .find(|ending| name.eq_ignore_ascii_case(ending.as_str().as_bytes()))
        .unwrap_or(Ending::Unknown)
    }
}

/// Subscription-State; times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Active, pending, or what RFC 6665 4.1.3 wants treated so: a state of a later RFC.
    Running { expires: Option<u32> },
    Terminated {
        ending: Ending,
        retry_after: Option<u32>,
    },
}

/// A NOTIFY of our package, well formed.
#[derive(Debug)]
pub(super) struct Notify {
    pub(super) state: State,
    pub(super) document: Option<Document>,
}

/// How a request is refused: status, and the header field that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) header: Option<(&'static str, &'static str)>,
}

impl Refused {
    pub(super) fn with(status: u16) -> Self {
        Refused {
            status,
            header: None,
        }
    }

    fn naming(status: u16, name: &'static str, value: &'static str) -> Self {
        Refused {
            status,
            header: Some((name, value)),
        }
    }
}

/// Holds a request to what may be asked of a subscriber at all, whatever the dialog.
pub(super) fn acceptable(request: &Request<'_, '_>) -> Result<(), Refused> {
    match request.method {
        Method::Notify => {}
        Method::Other => return Err(Refused::with(501)),
        // RFC 3261 9.2: there is no transaction that it could cancel.
        Method::Cancel => return Err(Refused::with(481)),
        _ => return Err(Refused::naming(405, "Allow", "NOTIFY")),
    }
    let package = request.event.map(|event| event.package);
    if package != Some(EVENT_PACKAGE.as_bytes()) {
        return Err(Refused::naming(489, "Allow-Events", EVENT_PACKAGE));
    }
    Ok(())
}

impl Notify {
    pub(super) fn read(request: &Request<'_, '_>) -> Result<Notify, Refused> {
        let state = request
            .message
            .first(Name::SubscriptionState)
            .and_then(state_of);
        Ok(Notify {
            state: state.ok_or(Refused::with(400))?,
            document: document_of(request)?,
        })
    }
}

fn state_of(value: &[u8]) -> Option<State> {
    let end = value
        .iter()
        .position(|byte| *byte == b';')
        .unwrap_or(value.len());
    let name = value[..end].trim_ascii();
    let params = Params::parse(&value[end..]).filter(|_| !name.is_empty())?;
    let seconds = |name| params.get(name).and_then(delta_seconds);
    if !name.eq_ignore_ascii_case(b"terminated") {
        let expires = seconds("expires");
        return Some(State::Running { expires });
    }
    Some(State::Terminated {
        ending: params.get("reason").map_or(Ending::Unknown, Ending::of),
        retry_after: seconds("retry-after"),
    })
}

fn document_of(request: &Request<'_, '_>) -> Result<Option<Document>, Refused> {
    if request.body.is_empty() {
        return Ok(None);
    }
    let format = request.content_type.as_ref().and_then(format_of);
    let accept = || Refused::naming(415, "Accept", Format::Xml.content_type());
    let document = parse(request.body, format.ok_or_else(accept)?);
    document.map(Some).map_err(|_| Refused::with(400))
}

fn format_of(content_type: &MediaRange<'_>) -> Option<Format> {
    [Format::Xml, Format::Json].into_iter().find(|format| {
        let name = format.content_type().split_once('/');
        name.is_some_and(|(kind, subtype)| content_type.covers(kind, subtype))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscription_state_is_read_in_any_case_and_order() {
        let running = |expires| Some(State::Running { expires });
        assert_eq!(state_of(b"active;expires=60"), running(Some(60)));
        assert_eq!(
            state_of(b"  Active ; max-rate=10 ; Expires=5"),
            running(Some(5))
        );
        assert_eq!(state_of(b"pending"), running(None));
        let terminated = |ending, retry_after| {
            Some(State::Terminated {
                ending,
                retry_after,
            })
        };
        assert_eq!(
            state_of(b"Terminated;retry-after=7;reason=PROBATION"),
            terminated(Ending::Probation, Some(7))
        );
        assert_eq!(state_of(b"terminated"), terminated(Ending::Unknown, None));
        assert_eq!(
            state_of(b"terminated;reason=later"),
            terminated(Ending::Unknown, None)
        );
        assert_eq!(state_of(b""), None);
        assert_eq!(state_of(b";expires=5"), None);
        assert_eq!(state_of(b"active;=5"), None);
    }
}
