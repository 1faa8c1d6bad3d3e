//! SIP as these tests speak it: texts put together and taken apart by hand, so that nothing is shared with what is
//! tested; and peers over UDP and TCP.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::node::PATIENCE;

/// A request under construction: fields in order, a body.
#[derive(Debug, Clone)]
pub struct Draft {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Every draft is another transaction of another call.
static NUMBER: AtomicU64 = AtomicU64::new(1);

impl Draft {
    /// A request that comes from `peer`, with what every one must have.
    pub fn new(method: &str, transport: &str, peer: SocketAddr) -> Draft {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let scheme = match transport {
            "TCP" => ";transport=tcp",
            _ => "",
        };
        Draft {
            line: format!("{method} sip:example.com SIP/2.0"),
            fields: Vec::new(),
            body: Vec::new(),
        }
        .add(
            "Via",
            &format!("SIP/2.0/{transport} {peer};rport;branch=z9hG4bK{pid}x{number}"),
        )
        .add("Max-Forwards", "70")
        .add("From", &format!("<sip:test@{peer}>;tag=t{pid}x{number}"))
        .add("To", "<sip:example.com>")
        .add("Call-ID", &format!("{pid}-{number}@test"))
        .add("CSeq", &format!("1 {method}"))
        .add("Contact", &format!("<sip:test@{peer}{scheme}>"))
    }

    pub fn add(mut self, name: &str, value: &str) -> Draft {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces a field's value, or adds the field.
    pub fn with(mut self, name: &str, value: &str) -> Draft {
        match self.fields.iter_mut().find(|field| field.0 == name) {
            Some(field) => field.1 = value.to_owned(),
            None => return self.add(name, value),
        }
        self
    }

    pub fn without(mut self, name: &str) -> Draft {
        self.fields.retain(|field| field.0 != name);
        self
    }

    pub fn get(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|field| field.0 == name);
        &field.expect("the draft has the field").1
    }

    pub fn body(mut self, kind: &str, body: &[u8]) -> Draft {
        self.body = body.to_vec();
        self.with("Content-Type", kind)
    }

    /// Content-Length is the body's unless a field says another.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.fields.iter().all(|field| field.0 != "Content-Length") {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        [text.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// A SUBSCRIBE outside a dialog.
pub fn subscribe(transport: &str, peer: SocketAddr) -> Draft {
    Draft::new("SUBSCRIBE", transport, peer)
        .add("Event", "SIPserver")
        .add("Expires", "600")
}

pub fn options(transport: &str, peer: SocketAddr) -> Draft {
    Draft::new("OPTIONS", transport, peer)
}

/// A first PUBLISH of a server with this id.
pub fn publish(transport: &str, peer: SocketAddr, id: &str) -> Draft {
    Draft::new("PUBLISH", transport, peer)
        .without("Contact")
        .add("Event", "SIPserver")
        .add("Expires", "600")
        .body("application/serverinfo+xml", &document(id, "up", ""))
}

/// A publication; `more` stands behind its address.
pub fn document(id: &str, status: &str, more: &str) -> Vec<u8> {
    format!(
        "<serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"*\"><server id=\"{id}\" status=\"{status}\">\
         <address ip=\"192.0.2.1\" port=\"5060\" transport=\"udp\"/>{more}</server></serverinfo>"
    )
    .replace("domain=\"*\"", "domain=\"example.com\"")
    .into_bytes()
}

/// A message taken apart.
#[derive(Debug, Clone)]
pub struct Message {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
    /// Bytes of the whole.
    pub len: usize,
}

impl Message {
    /// The first message of `bytes` if it is whole.
    pub fn read(bytes: &[u8]) -> Option<Message> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        // Responses give back what was sent, be it text or not.
        let head = String::from_utf8_lossy(&bytes[..end]);
        let (line, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
        let fields: Vec<(String, String)> = rest
            .split("\r\n")
            .filter_map(|field| field.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let length = fields
            .iter()
            .find(|field| field.0 == "Content-Length" || field.0 == "l")
            .map_or(0, |field| field.1.parse().expect("a length"));
        let body = bytes.get(end + 4..end + 4 + length)?;
        Some(Message {
            line: line.to_owned(),
            fields,
            body: String::from_utf8(body.to_vec()).expect("a body in UTF-8"),
            len: end + 4 + length,
        })
    }

    pub fn status(&self) -> u16 {
        let code = self.line.strip_prefix("SIP/2.0 ");
        let code = code.and_then(|rest| rest.get(..3)?.parse().ok());
        code.unwrap_or_else(|| panic!("no response: {self:?}"))
    }

    pub fn is_notify(&self) -> bool {
        self.line.starts_with("NOTIFY ")
    }

    pub fn find(&self, name: &str) -> Option<&str> {
        let field = self
            .fields
            .iter()
            .find(|field| field.0.eq_ignore_ascii_case(name));
        field.map(|field| field.1.as_str())
    }

    pub fn get(&self, name: &str) -> &str {
        self.find(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// An attribute of the document's root.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let root = &self.body[self.body.find("<serverinfo")?..];
        let root = &root[..root.find('>')?];
        let value = root.split(&format!(" {name}=\"")).nth(1)?;
        value.split('"').next()
    }

    /// The ids of the servers in the document.
    pub fn servers(&self) -> Vec<&str> {
        let starts = self.body.split("<server id=\"").skip(1);
        starts.filter_map(|rest| rest.split('"').next()).collect()
    }

    /// The response to this request.
    pub fn response(&self, status: &str) -> Vec<u8> {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            text.push_str(&format!("{name}: {}\r\n", self.get(name)));
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        text.into_bytes()
    }
}

/// A peer over UDP.
pub struct Udp {
    pub socket: UdpSocket,
    pub address: SocketAddr,
    node: SocketAddr,
}

impl Udp {
    pub fn new(node: SocketAddr) -> Udp {
        let any = match node.ip() {
            IpAddr::V4(_) => "127.0.0.1:0",
            IpAddr::V6(_) => "[::1]:0",
        };
        Udp::at(any.parse().expect("an address"), node)
    }

    pub fn at(address: SocketAddr, node: SocketAddr) -> Udp {
        let socket = UdpSocket::bind(address).expect("loopback has ports");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has a timeout");
        let address = socket.local_addr().expect("bound");
        Udp {
            socket,
            address,
            node,
        }
    }

    pub fn send(&self, bytes: &[u8]) {
        self.socket
            .send_to(bytes, self.node)
            .expect("the kernel takes it");
    }

    pub fn receive(&self) -> Message {
        self.receive_within(PATIENCE).expect("a message in time")
    }

    pub fn receive_within(&self, time: Duration) -> Option<Message> {
        let mut bytes = vec![0; 65_536];
        self.socket
            .set_read_timeout(Some(time))
            .expect("a socket has a timeout");
        let len = self.socket.recv(&mut bytes).ok()?;
        Some(Message::read(&bytes[..len]).expect("a whole message"))
    }

    pub fn ask(&self, draft: &Draft) -> Message {
        self.send(&draft.bytes());
        self.receive()
    }

    /// Subscribes, and answers the first NOTIFY.
    pub fn subscribe(&self) -> Message {
        assert_eq!(self.ask(&subscribe("UDP", self.address)).status(), 200);
        self.notified()
    }

    /// Takes a NOTIFY and answers it 200.
    pub fn notified(&self) -> Message {
        let notify = self.receive();
        assert!(notify.is_notify(), "{notify:?}");
        self.send(&notify.response("200 OK"));
        notify
    }
}

/// A peer over TCP.
pub struct Tcp {
    pub stream: TcpStream,
    pub address: SocketAddr,
    pending: Vec<u8>,
}

impl Tcp {
    pub fn new(node: SocketAddr) -> Tcp {
        Tcp::of(TcpStream::connect(node).expect("the node listens"))
    }

    pub fn of(stream: TcpStream) -> Tcp {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has a timeout");
        stream.set_nodelay(true).expect("a socket sends at once");
        Tcp {
            address: stream.local_addr().expect("connected"),
            stream,
            pending: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads");
    }

    /// The next message, `None` when the node closed the connection.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            let blank = self
                .pending
                .iter()
                .take_while(|byte| b"\r\n".contains(byte))
                .count();
            self.pending.drain(..blank);
            if let Some(message) = Message::read(&self.pending) {
                self.pending.drain(..message.len);
                return Some(message);
            }
            let mut bytes = [0; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(len) => self.pending.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing in time: {error}"),
            }
        }
    }

    pub fn receive(&mut self) -> Message {
        self.next().expect("the connection lives")
    }

    pub fn ask(&mut self, draft: &Draft) -> Message {
        self.send(&draft.bytes());
        self.receive()
    }

    /// Subscribes with the connection's own address as Contact, and answers the first NOTIFY.
    pub fn subscribe(&mut self) -> Message {
        let draft = subscribe("TCP", self.address);
        assert_eq!(self.ask(&draft).status(), 200);
        self.notified()
    }

    pub fn notified(&mut self) -> Message {
        let notify = self.receive();
        assert!(notify.is_notify(), "{notify:?}");
        self.send(&notify.response("200 OK"));
        notify
    }

    pub fn close(self) {
        // The node may have been faster.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The node still serves: an OPTIONS over UDP is answered.
pub fn serves(node: SocketAddr) {
    let peer = Udp::new(node);
    for _ in 0..10 {
        peer.send(&options("UDP", peer.address).bytes());
        if let Some(answer) = peer.receive_within(Duration::from_secs(3)) {
            assert_eq!(answer.status(), 200);
            return;
        }
    }
    panic!("the node answers no OPTIONS");
}
