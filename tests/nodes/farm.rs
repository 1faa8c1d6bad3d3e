//! Nodes of a cluster as processes, and a publisher of a few lines that speaks to any of them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Fanfare, PATIENCE};

/// A node that others can find.
pub struct Node {
    pub name: String,
    pub process: Fanfare,
    pub sip: SocketAddr,
    /// Unspecified where others find it by etcd.
    pub gossip: SocketAddr,
    /// What it said before it was ready.
    pub before_ready: Vec<String>,
}

impl Node {
    /// A node of this name that begins with these seeds.
    pub fn start(name: &str, join: &[SocketAddr], more: &[&str]) -> Node {
        let join: Vec<String> = join.iter().map(SocketAddr::to_string).collect();
        let join = join.join(",");
        let mut arguments = vec!["serve", "--node", name, "--shards", "1"];
        for (flag, default) in [("--listen", "127.0.0.1:0"), ("--gossip", "127.0.0.1:0")] {
            let is_other_way = flag == "--gossip" && more.contains(&"--etcd");
            if !more.contains(&flag) && !is_other_way {
                arguments.extend([flag, default]);
            }
        }
        if !join.is_empty() {
            arguments.extend(["--join", &join]);
        }
        arguments.extend(more);
        let process = Fanfare::run(&arguments);
        let mut before_ready = Vec::new();
        let ready = loop {
            match process.line() {
                line if line.starts_with("fanfare ready") => break line,
                line => before_ready.push(line),
            }
        };
        let field = |wanted: &str| -> Option<SocketAddr> {
            let mut fields = ready.split(' ').filter_map(|field| field.split_once('='));
            let (_, value) = fields.find(|(key, _)| *key == wanted)?;
            Some(value.parse().expect("an address"))
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Node {
            name: name.to_owned(),
            sip: field("udp").expect("a field of ready"),
            gossip: field("gossip").unwrap_or(nowhere),
            before_ready,
            process,
        }
    }

    /// So many nodes n1, n2 ... that all begin with the first.
    pub fn farm(count: usize) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=count {
            let join: Vec<SocketAddr> = nodes.first().map(|node| node.gossip).into_iter().collect();
            nodes.push(Node::start(&format!("n{number}"), &join, &[]));
        }
        nodes
    }

    pub fn watch(&self) -> Watch {
        let via = self.sip.to_string();
        Watch(Fanfare::run(&[
            "watch",
            "--via",
            &via,
            "--domain",
            "example.com",
            "--json",
        ]))
    }

    /// Waits until its log says so.
    pub fn await_log(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.process.log().contains(text) {
            assert!(Instant::now() < until, "{}", self.process.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A counter now.
    pub fn counter(&self, name: &str) -> u64 {
        let lines = |log: &str| -> Vec<String> {
            let lines = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let lines = lines.filter(|line| line.contains("counters shards="));
            lines.map(str::to_owned).collect()
        };
        let before = lines(&self.process.log()).len();
        self.process.signal(Signal::USR1);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = lines(&self.process.log()).get(before) {
                return counted(line, name);
            }
            assert!(Instant::now() < until, "{}", self.process.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a counter is no longer zero.
    pub fn await_count(&self, name: &str) {
        let until = Instant::now() + PATIENCE;
        while self.counter(name) == 0 {
            assert!(Instant::now() < until, "{name} {}", self.process.log());
        }
    }

    pub fn kill(self) {
        self.process.signal(Signal::KILL);
        self.process.end();
    }
}

/// What a line of counters says of one; those that are zero are left out of it.
pub fn counted(line: &str, name: &str) -> u64 {
    let mut fields = line
        .split_whitespace()
        .filter_map(|field| field.split_once('='));
    let count = fields.find(|(key, _)| *key == name);
    count.map_or(0, |(_, count)| count.parse().expect("a number"))
}

/// What an entity sees, a view at a time.
pub struct Watch(pub Fanfare);

/// One view as `watch --json` writes it.
#[derive(Debug)]
pub struct View(Value);

impl View {
    /// What is said of a server: its status, or `deleted`.
    pub fn status(&self, id: &str) -> Option<&str> {
        let servers = self.0["servers"].as_array()?;
        let server = servers.iter().find(|server| server["id"] == id)?;
        server["status"].as_str().or(server["state"].as_str())
    }

    /// Each server that is not deleted, with its status.
    pub fn statuses(&self) -> BTreeMap<String, String> {
        let servers = self.0["servers"].as_array().into_iter().flatten();
        let one = |server: &Value| {
            let text = |key: &str| server[key].as_str().map(str::to_owned);
            Some((text("id")?, text("status")?))
        };
        servers.filter_map(one).collect()
    }

    /// The load of a server that is up.
    pub fn load(&self, id: &str) -> Option<u64> {
        let mut servers = self.0["servers"].as_array()?.iter();
        let server = servers.find(|server| server["id"] == id && server["status"] == "up")?;
        server["load"].as_u64()
    }

    /// Where a server is first, by its port.
    pub fn port(&self, id: &str) -> Option<u64> {
        let servers = self.0["servers"].as_array()?;
        let server = servers.iter().find(|server| server["id"] == id)?;
        server["addresses"][0]["port"].as_u64()
    }

    pub fn is_stale(&self) -> bool {
        self.0["stale"] == true
    }
}

impl Watch {
    /// The next view that is looked for.
    pub fn view_where(&self, wanted: impl Fn(&View) -> bool) -> View {
        let parse = |line: &str| View(serde_json::from_str(line).expect("JSON"));
        parse(&self.0.line_where(|line| wanted(&parse(line))))
    }

    pub fn status(&self, id: &str, status: &str) -> View {
        self.view_where(|view| view.status(id) == Some(status))
    }
}

/// Publishes without refreshing by itself.
pub struct Publisher {
    socket: UdpSocket,
    cseq: u32,
}

pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn tag(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text);
        let tag = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix("SIP-ETag: "));
        tag.expect("a 200 to PUBLISH has an entity-tag").to_owned()
    }
}

impl Publisher {
    pub fn new() -> Publisher {
        Publisher {
            socket: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            cseq: 0,
        }
    }

    pub fn publish(&mut self, to: SocketAddr, id: &str, load: u8, expires_s: u32) -> Answer {
        let answer = self.send(to, None, expires_s, &body(id, load), PATIENCE);
        answer.unwrap_or_else(|| panic!("{to} does not answer"))
    }

    pub fn publish_body(&mut self, to: SocketAddr, body: &str) -> Answer {
        let answer = self.send(to, None, 600, body, PATIENCE);
        answer.unwrap_or_else(|| panic!("{to} does not answer"))
    }

    pub fn refresh(&mut self, to: SocketAddr, tag: &str, expires_s: u32) -> Answer {
        let answer = self.send(to, Some(tag), expires_s, "", PATIENCE);
        answer.unwrap_or_else(|| panic!("{to} does not answer"))
    }

    pub fn modify(&mut self, to: SocketAddr, tag: &str, (id, load): (&str, u8)) -> Answer {
        let answer = self.send(to, Some(tag), 600, &body(id, load), PATIENCE);
        answer.unwrap_or_else(|| panic!("{to} does not answer"))
    }

    /// With a tag it is a modification, without a body a refresh or a removal. `None`: nobody answered within this time.
    pub fn attempt(
        &mut self,
        to: SocketAddr,
        tag: Option<&str>,
        said: Option<(&str, u8)>,
        expires_s: u32,
        within: Duration,
    ) -> Option<Answer> {
        let body = said.map(|(id, load)| body(id, load));
        self.send(to, tag, expires_s, &body.unwrap_or_default(), within)
    }

    fn send(
        &mut self,
        to: SocketAddr,
        tag: Option<&str>,
        expires_s: u32,
        body: &str,
        within: Duration,
    ) -> Option<Answer> {
        self.cseq += 1;
        let (cseq, local) = (self.cseq, self.socket.local_addr().expect("it is bound"));
        let tag = tag.map_or_else(String::new, |tag| format!("SIP-If-Match: {tag}\r\n"));
        let content = match body {
            "" => "",
            _ => "Content-Type: application/serverinfo+json\r\n",
        };
        let request = format!(
            "PUBLISH sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{cseq}.{}\r\nMax-Forwards: 70\r\n\
             From: <sip:p@example.com>;tag=f\r\nTo: <sip:example.com>\r\nCall-ID: c{local}\r\nCSeq: {cseq} PUBLISH\r\n\
             Event: SIPserver\r\nExpires: {expires_s}\r\n{tag}{content}Content-Length: {}\r\n\r\n{body}",
            local.port(),
            body.len()
        );
        let mut buffer = [0; 4_096];
        let until = Instant::now() + within;
        // As RFC 3261's Timer E does, at its first step.
        self.socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("not zero");
        while Instant::now() < until {
            // A node that was killed may refuse it.
            let _ = self.socket.send_to(request.as_bytes(), to);
            let Ok((length, _)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(&format!("CSeq: {cseq} PUBLISH\r\n")) {
                let status = text
                    .split(' ')
                    .nth(1)
                    .and_then(|status| status.parse().ok());
                return Some(Answer {
                    status: status.expect("a status"),
                    text,
                });
            }
        }
        None
    }
}

fn body(id: &str, load: u8) -> String {
    format!(
        "{{\"domain\":\"example.com\",\"servers\":[{{\"id\":\"{id}\",\"status\":\"up\",\"load\":{load},\
         \"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}],\
         \"services\":[\"proxy\"]}}]}}"
    )
}

/// Subscribes by a few lines, and answers every NOTIFY.
pub struct Entity {
    socket: UdpSocket,
    dialogs: u32,
}

impl Entity {
    pub fn subscribe(to: SocketAddr) -> Entity {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut entity = Entity { socket, dialogs: 0 };
        let answer = entity.request(to, 600);
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        entity
    }

    /// The response to a SUBSCRIBE that makes a dialog of its own.
    pub fn request(&mut self, to: SocketAddr, expires_s: u32) -> String {
        self.dialogs += 1;
        let (dialog, local) = (self.dialogs, self.socket.local_addr().expect("it is bound"));
        let request = format!(
            "SUBSCRIBE sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKs{dialog}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:e@example.com>;tag=f{dialog}\r\nTo: <sip:example.com>\r\n\
             Call-ID: d{dialog}.{local}\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:{local}>\r\nEvent: SIPserver\r\n\
             Expires: {expires_s}\r\nContent-Length: 0\r\n\r\n"
        );
        let call = format!("Call-ID: d{dialog}.");
        self.until(Some((to, &request)), |text| {
            text.starts_with("SIP/2.0") && text.contains(&call)
        })
    }

    pub fn notify_where(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        self.until(None, |text| text.starts_with("NOTIFY ") && wanted(text))
    }

    /// Reads until what is wanted comes; a request is repeated meanwhile, every NOTIFY answered.
    fn until(
        &mut self,
        request: Option<(SocketAddr, &str)>,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let until = Instant::now() + PATIENCE;
        self.socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("not zero");
        let mut buffer = [0; 65_536];
        let mut is_silent = true;
        while Instant::now() < until {
            if let Some((to, request)) = request.filter(|_| is_silent) {
                self.socket
                    .send_to(request.as_bytes(), to)
                    .expect("it is sent");
            }
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else {
                is_silent = true;
                continue;
            };
            is_silent = false;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with("NOTIFY ") {
                let answer = response(&text, 200);
                self.socket
                    .send_to(answer.as_bytes(), from)
                    .expect("it is sent");
            }
            if wanted(&text) {
                return text;
            }
        }
        panic!("waited in vain");
    }
}

/// The response to a request, as who asked recognises it.
pub fn response(request: &str, status: u16) -> String {
    let echoed = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines = request
        .lines()
        .filter(|line| echoed.iter().any(|name| line.starts_with(name)));
    let lines: String = lines.map(|line| format!("{line}\r\n")).collect();
    format!("SIP/2.0 {status} X\r\n{lines}Content-Length: 0\r\n\r\n")
}
