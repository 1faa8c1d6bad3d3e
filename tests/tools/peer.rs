//! A notifier of a few lines over UDP: takes requests, answers as it is told.

use std::net::{SocketAddr, UdpSocket};

use fanfare::sip::request::Request;
use fanfare::sip::scan::{Start, scan};
use fanfare::sip::write::Responder;

use crate::process::PATIENCE;

pub struct Peer {
    socket: UdpSocket,
    /// The branch of the request taken last, by which repeats are known.
    last: Vec<u8>,
}

/// One request, and where it came from.
pub struct Asked {
    pub bytes: Vec<u8>,
    pub source: SocketAddr,
}

impl Peer {
    pub fn new() -> Peer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Peer {
            socket,
            last: Vec::new(),
        }
    }

    pub fn address(&self) -> String {
        self.socket.local_addr().expect("bound").to_string()
    }

    /// The next request that is no repeat.
    pub fn request(&mut self) -> Asked {
        loop {
            let asked = self.datagram();
            let message = scan(&asked.bytes).expect("SIP");
            let Ok(request) = Request::parse(&message) else {
                continue;
            };
            let branch = request.via.branch.expect("a branch").to_vec();
            if std::mem::replace(&mut self.last, branch.clone()) != branch {
                drop(message);
                return asked;
            }
        }
    }

    /// The status of the next answer.
    pub fn status(&mut self) -> u16 {
        loop {
            if let Start::Response { status, .. } = scan(&self.datagram().bytes).expect("SIP").start
            {
                return status;
            }
        }
    }

    fn datagram(&self) -> Asked {
        let mut bytes = vec![0; 65_535];
        let (length, source) = self
            .socket
            .recv_from(&mut bytes)
            .expect("a datagram in time");
        bytes.truncate(length);
        Asked { bytes, source }
    }

    pub fn answer(&self, asked: &Asked, status: u16, headers: &[(&str, &str)]) {
        let bytes = response(&asked.bytes, asked.source, status, headers);
        self.send(&bytes, asked.source);
    }

    pub fn send(&self, bytes: &[u8], to: SocketAddr) {
        self.socket.send_to(bytes, to).expect("sent");
    }
}

pub fn response(
    request: &[u8],
    source: SocketAddr,
    status: u16,
    headers: &[(&str, &str)],
) -> Vec<u8> {
    let message = scan(request).expect("SIP");
    let mut out = Vec::new();
    let responder = Responder::new(&message, status, source).to_tag(b"peer");
    let mut response = responder.begin(&mut out).expect("a request");
    for (name, value) in headers {
        response.header(name, value.as_bytes());
    }
    response.finish();
    out
}

/// What a request says, as far as these tests ask.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub method: String,
    pub expires: Option<u32>,
    pub if_match: Option<String>,
    pub body: String,
}

pub fn said(asked: &Asked) -> Said {
    let message = scan(&asked.bytes).expect("SIP");
    let request = Request::parse(&message).expect("a request");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    Said {
        method: text(request.method_name),
        expires: request.expires,
        if_match: request.if_match.map(text),
        body: text(request.body),
    }
}
