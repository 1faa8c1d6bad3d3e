//! A publisher that writes PUBLISH requests line by line and reads the responses the same way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use fanfare::compositor::{Compositor, CompositorConfig, Now};
use fanfare::info::*;

pub const START: Now = Now {
    mono_ms: 5_000,
    unix_ms: 1_795_379_461_123,
};

/// One request to be made.
#[derive(Debug, Clone)]
pub struct Publish {
    pub uri: String,
    pub event: Option<&'static str>,
    pub tag: Option<String>,
    pub expires: Option<u32>,
    pub content_type: Option<&'static str>,
    pub body: Vec<u8>,
    /// Further header fields, each with its CRLF.
    pub more: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

/// Where requests come from.
pub const SOURCE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), 5060);

impl Answer {
    pub fn read(response: &[u8]) -> Self {
        let text = String::from_utf8_lossy(response).into_owned();
        let status = text.split(' ').nth(1);
        Answer {
            status: status.map_or(0, |status| status.parse().unwrap()),
            text,
        }
    }

    /// The value of the only header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        assert!(lines.all(|(key, _)| key != name), "{}", self.text);
        Some(value)
    }

    pub fn tag(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        self.header("SIP-ETag").unwrap().into()
    }
}

/// A compositor, the time, and the last request.
pub struct World {
    pub compositor: Compositor,
    pub now: Now,
    pub last: Vec<u8>,
    cseq: u32,
}

pub fn server(id: &str, load: u8) -> Server {
    Server {
        id: id.into(),
        status: Status::Up,
        load: Some(load),
        priority: 0,
        weight: 1,
        updated: "0.0.x".parse().unwrap(),
        addresses: vec![Address {
            ip: "192.0.2.1".parse().unwrap(),
            port: 5060,
            transport: AddressTransport::Udp,
            host: None,
            service: None,
        }],
        services: Vec::new(),
        attributes: Vec::new(),
    }
}

/// An initial publication at example.com.
pub fn initial(server: &Server) -> Publish {
    Publish {
        uri: "sip:example.com".into(),
        event: Some("SIPserver"),
        tag: None,
        expires: None,
        content_type: Some(Format::Xml.content_type()),
        body: publication_body("example.com", server, Format::Xml),
        more: String::new(),
    }
}

/// A refresh: a tag and nothing else.
pub fn refresh(tag: &str) -> Publish {
    Publish {
        tag: Some(tag.into()),
        content_type: None,
        body: Vec::new(),
        ..initial(&server("unused", 0))
    }
}

pub fn modify(tag: &str, server: &Server) -> Publish {
    Publish {
        tag: Some(tag.into()),
        ..initial(server)
    }
}

pub fn remove(tag: &str) -> Publish {
    Publish {
        expires: Some(0),
        ..refresh(tag)
    }
}

pub fn config(domains: &[&str]) -> CompositorConfig {
    CompositorConfig {
        domains: domains.iter().map(|domain| Arc::from(*domain)).collect(),
        ..CompositorConfig::new("n1".into())
    }
}

impl World {
    pub fn new(config: CompositorConfig) -> Self {
        World {
            compositor: Compositor::new(config, [7; 16], START),
            now: START,
            last: Vec::new(),
            cseq: 0,
        }
    }

    pub fn one() -> Self {
        World::new(config(&["example.com"]))
    }

    pub fn send(&mut self, publish: &Publish) -> Answer {
        self.last = self.write(publish);
        self.repeat()
    }

    /// The bytes of a request with the next CSeq.
    pub fn write(&mut self, publish: &Publish) -> Vec<u8> {
        self.cseq += 1;
        let mut text = format!(
            "PUBLISH {} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK{}\r\nMax-Forwards: 70\r\n\
             From: <sip:p@example.com>;tag=f\r\nTo: <{}>\r\nCall-ID: c@192.0.2.9\r\nCSeq: {} PUBLISH\r\n",
            publish.uri, self.cseq, publish.uri, self.cseq
        );
        let fields = [
            ("Event", publish.event.map(Into::into)),
            ("SIP-If-Match", publish.tag.clone()),
            (
                "Expires",
                publish.expires.map(|expires| expires.to_string()),
            ),
            ("Content-Type", publish.content_type.map(Into::into)),
            ("Content-Length", Some(publish.body.len().to_string())),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text += &format!("{}\r\n", publish.more);
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&publish.body);
        bytes
    }

    /// Sends the last request once more.
    pub fn repeat(&mut self) -> Answer {
        let last = self.last.clone();
        self.send_bytes(&last)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> Answer {
        let mut response = Vec::new();
        self.compositor
            .publish(self.now, SOURCE, bytes, &mut response);
        Answer::read(&response)
    }

    /// Lets time pass, with a tick at each deadline.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while let Some(due_ms) = self
            .compositor
            .next_deadline()
            .filter(|due_ms| *due_ms <= end)
        {
            assert!(due_ms >= self.now.mono_ms, "a deadline in the past");
            self.pass(due_ms - self.now.mono_ms);
            self.compositor.tick(self.now);
            assert!(
                self.compositor.next_deadline() > Some(due_ms)
                    || self.compositor.next_deadline().is_none()
            );
        }
        self.pass(end - self.now.mono_ms);
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
    }

    pub fn view(&self) -> Arc<View> {
        Arc::clone(self.compositor.views().next().unwrap())
    }

    pub fn entry(&self, id: &str) -> Arc<Entry> {
        Arc::clone(self.view().find(id).unwrap())
    }
}

/// The stamp of the lease that a tag names.
pub fn lease(tag: &str) -> Stamp {
    tag.split('~').nth(1).unwrap().parse().unwrap()
}
