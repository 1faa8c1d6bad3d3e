//! The requests that loadgen sends: templates with gaps for what is an entity's own. Knows nothing of what arrives.

use std::io::Write;
use std::net::SocketAddr;

use rsip::{Header, Headers, Method, Request, Uri, Version};

use super::Run;
use crate::document::Format;
use crate::plan::{Plan, Subject};

/// What differs from one SUBSCRIBE to the next.
#[derive(Debug, Clone, Copy)]
pub struct Subscribe<'a> {
    pub index: u32,
    /// Number of the entity's dialog.
    pub generation: u16,
    pub cseq: u32,
    pub contact: SocketAddr,
    /// Notifier's tag and remote target, once the dialog stands.
    pub dialog: Option<(&'a [u8], &'a [u8])>,
    pub expires: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Target,
    Index,
    Generation,
    Contact,
    CSeq,
    ToTag,
    Expires,
}

/// The words that mark a slot in the message that rsip writes; legal wherever they stand.
const MARKS: [(&str, Slot); 7] = [
    ("sip:slot-target", Slot::Target),
    ("slot-index", Slot::Index),
    ("slot-generation", Slot::Generation),
    ("slot-contact", Slot::Contact),
    ("slot-cseq", Slot::CSeq),
    (";slot-to-tag", Slot::ToTag),
    ("slot-expires", Slot::Expires),
];

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    Slot(Slot),
}

/// A SUBSCRIBE with gaps for what is an entity's own.
#[derive(Debug)]
pub struct SubscribeTemplate {
    pieces: Vec<Piece>,
    out_of_dialog: String,
}

impl SubscribeTemplate {
    pub fn new(run: Run, plan: &Plan) -> Self {
        let (domain, resource) = (&plan.subject.domain, plan.subject.uri());
        let run = run.0;
        let mut headers = vec![
            via(
                "slot-contact",
                &format!("z9hG4bK{run:08x}slot-indexslot-cseq"),
            ),
            Header::From(format!("<sip:entity-slot-index@{domain}>;tag=lgslot-index").into()),
            Header::To(format!("<{resource}>;slot-to-tag").into()),
            Header::CallId(
                format!("{run:08x}-slot-index-slot-generation@entity.loadgen.invalid").into(),
            ),
            Header::CSeq("slot-cseq SUBSCRIBE".into()),
            Header::MaxForwards("70".into()),
            Header::Contact("<sip:slot-index@slot-contact;transport=udp;line=slot-index>".into()),
            Header::Event(plan.subject.event.name().into()),
            Header::Accept(plan.format.media_type().into()),
            Header::Expires("slot-expires".into()),
            Header::ContentLength("0".into()),
        ];
        if plan.record_route {
            let route = format!("<sip:slot-contact;lr;ftag=lgslot-index;did={run:08x}.slot-index>");
            headers.insert(1, Header::RecordRoute(route.into()));
        }
        let request = Request {
            method: Method::Subscribe,
            uri: Uri::try_from("sip:slot-target").expect("the mark is a host name"),
            version: Version::V2,
            headers: headers.into(),
            body: Vec::new(),
        };
        SubscribeTemplate {
            pieces: cut(&request.to_string()),
            out_of_dialog: resource,
        }
    }

    /// Appends the message to `out`. The same arguments give the same bytes, so nothing is kept to repeat it.
    pub fn write(&self, message: &Subscribe, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Slot(slot) => self.fill(*slot, message, out),
            }
        }
    }

    fn fill(&self, slot: Slot, message: &Subscribe, out: &mut Vec<u8>) {
        let written = match (slot, message.dialog) {
            (Slot::Target, Some((_, target))) => out.write_all(target),
            (Slot::Target, None) => out.write_all(self.out_of_dialog.as_bytes()),
            (Slot::Index, _) => write!(out, "{:08x}", message.index),
            (Slot::Generation, _) => write!(out, "{:04x}", message.generation),
            (Slot::Contact, _) => write!(out, "{}", message.contact),
            (Slot::CSeq, _) => write!(out, "{}", message.cseq),
            (Slot::ToTag, Some((tag, _))) => {
                out.extend_from_slice(b";tag=");
                out.write_all(tag)
            }
            (Slot::ToTag, None) => Ok(()),
            (Slot::Expires, _) => write!(out, "{}", message.expires),
        };
        written.expect("a Vec takes every write");
    }
}

fn via(sent_by: &str, branch: &str) -> Header {
    Header::Via(format!("SIP/2.0/UDP {sent_by};rport;branch={branch}").into())
}

fn cut(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((at, mark, slot)) = MARKS
        .iter()
        .filter_map(|&(mark, slot)| rest.find(mark).map(|at| (at, mark, slot)))
        .min_by_key(|&(at, ..)| at)
    {
        pieces.push(Piece::Text(rest.as_bytes()[..at].to_vec()));
        pieces.push(Piece::Slot(slot));
        rest = &rest[at + mark.len()..];
    }
    pieces.push(Piece::Text(rest.as_bytes().to_vec()));
    pieces
}

/// One PUBLISH of a simulated server.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    pub run: Run,
    pub subject: &'a Subject,
    pub server: u32,
    pub cseq: u32,
    pub local: SocketAddr,
    pub entity_tag: Option<&'a str>,
    pub expires: u32,
    /// Empty for a refresh and for a removal (RFC 3903 4.3, 4.5).
    pub body: &'a str,
}

impl Publish<'_> {
    pub fn into_bytes(self) -> Vec<u8> {
        let Publish {
            run: Run(run),
            subject,
            server,
            cseq,
            ..
        } = self;
        let (domain, resource) = (&subject.domain, subject.uri());
        let mut headers = Headers::from(vec![
            via(
                &self.local.to_string(),
                &format!("z9hG4bK{run:08x}{server:08x}{cseq}"),
            ),
            Header::From(format!("<sip:{server:08x}@{domain}>;tag=lgp{server:08x}").into()),
            Header::To(format!("<{resource}>").into()),
            Header::CallId(format!("{run:08x}-{server:08x}@server.loadgen.invalid").into()),
            Header::CSeq(format!("{cseq} PUBLISH").into()),
            Header::MaxForwards("70".into()),
            Header::Event(subject.event.name().into()),
            Header::Expires(self.expires.to_string().into()),
        ]);
        if let Some(tag) = self.entity_tag {
            headers.push(Header::Other("SIP-If-Match".into(), tag.to_owned()));
        }
        if !self.body.is_empty() {
            headers.push(Header::ContentType(
                Format::published(subject.event).media_type().into(),
            ));
        }
        headers.push(Header::ContentLength(self.body.len().to_string().into()));
        let uri = Uri::try_from("sip:slot-target").expect("the mark is a host name");
        let request = Request {
            method: Method::Publish,
            uri,
            version: Version::V2,
            headers,
            body: self.body.as_bytes().to_vec(),
        };
        request
            .to_string()
            .replacen("sip:slot-target", &resource, 1)
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::plan::tests::plan;

    const RUN: Run = Run(0x00c0_ffee);

    fn message(dialog: Option<(&[u8], &[u8])>) -> String {
        let template = SubscribeTemplate::new(RUN, &plan("--format json --record-route"));
        let mut out = Vec::new();
        let contact = "127.1.2.3:5062".parse().unwrap();
        template.write(
            &Subscribe {
                index: 0x2a,
                generation: 1,
                cseq: 3,
                contact,
                dialog,
                expires: 1800,
            },
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_template_writes_a_request_that_rsip_reads() {
        for dialog in [
            None,
            Some((&b"abc"[..], &b"sip:n1@127.0.0.1:5060;gr=7"[..])),
        ] {
            let text = message(dialog);
            let request = Request::try_from(text.as_bytes()).expect(&text);
            assert_eq!(request.method, Method::Subscribe);
            assert!(!text.contains("slot-"), "{text}");
            assert!(
                text.contains("Call-ID: 00c0ffee-0000002a-0001@entity.loadgen.invalid\r\n"),
                "{text}"
            );
            assert!(
                text.contains(
                    "Contact: <sip:0000002a@127.1.2.3:5062;transport=udp;line=0000002a>\r\n"
                ),
                "{text}"
            );
            assert!(text.contains("CSeq: 3 SUBSCRIBE\r\n"), "{text}");
        }
    }

    #[test]
    fn identifiers_are_as_long_as_in_the_field() {
        let text = message(None);
        let value = |name: &str| {
            let start = text.find(name).unwrap() + name.len();
            text[start..].split("\r\n").next().unwrap().to_owned()
        };
        assert_eq!(value("\r\nCall-ID: ").len(), 45);
        let (uri, tag) = {
            let from = value("\r\nFrom: ");
            let (uri, tag) = from.split_once(";tag=").unwrap();
            (uri.len() - 2, tag.len())
        };
        assert_eq!((uri, tag), (31, 10));
        assert!((55..=65).contains(&value("\r\nContact: ").len()));
        assert!((60..=74).contains(&value("\r\nRecord-Route: ").len()));
        assert!(RUN.recorded(value("\r\nRecord-Route: ").as_bytes(), b"0000002a"));
        assert!(!RUN.recorded(value("\r\nRecord-Route: ").as_bytes(), b"0000002b"));
        assert!(!Run(1).recorded(value("\r\nRecord-Route: ").as_bytes(), b"0000002a"));
    }

    #[test]
    fn in_a_dialog_the_target_and_the_tag_are_the_notifiers() {
        let text = message(Some((b"abc", b"sip:n1@127.0.0.1:5060;gr=7")));
        assert!(
            text.starts_with("SUBSCRIBE sip:n1@127.0.0.1:5060;gr=7 SIP/2.0\r\n"),
            "{text}"
        );
        assert!(text.contains("To: <sip:example.com>;tag=abc\r\n"), "{text}");
        assert!(message(None).contains("To: <sip:example.com>\r\n"));
    }

    #[test]
    fn a_publish_is_one_that_rsip_reads() {
        let publish = Publish {
            run: RUN,
            subject: &plan("").subject,
            server: 1,
            cseq: 9,
            local: "[::1]:5062".parse().unwrap(),
            entity_tag: Some("tag7"),
            expires: 30,
            body: "<a/>",
        };
        let text = String::from_utf8(publish.into_bytes()).unwrap();
        assert!(
            text.starts_with(
                "PUBLISH sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP [::1]:5062;rport;"
            ),
            "{text}"
        );
        assert!(text.contains("SIP-If-Match: tag7\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 4\r\n\r\n<a/>"), "{text}");
    }
}
