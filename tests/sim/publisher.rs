//! A model publisher: says what a server is, refreshes its lease, changes its mind, dies and starts again. Written apart
//! from the compositor.

use std::net::SocketAddr;

use rand::RngExt;

use crate::net::{Event, Net, Token};
use crate::text::{Sip, Style, write};

#[derive(Debug)]
struct Request {
    serial: u64,
    branch: String,
    bytes: Vec<u8>,
    fired: usize,
}

#[derive(Debug)]
pub struct Publisher {
    index: usize,
    id: String,
    pub address: SocketAddr,
    style: Style,
    tag: Option<String>,
    serial: u64,
    request: Option<Request>,
    status: &'static str,
    load: Option<u8>,
    region: &'static str,
    priority: u16,
    services: Vec<&'static str>,
    json: bool,
    expires_s: u64,
    /// Lets its lease run out until then.
    asleep_until_ms: u64,
}

impl Publisher {
    /// Two of them may speak for one id.
    pub fn new(index: usize, net: &mut Net) -> Publisher {
        let id = net.random.random_range(0..=index);
        let styles = [Style::Plain, Style::Lower, Style::Compact, Style::Folded];
        Publisher {
            index,
            id: format!("p{id}"),
            address: ([127, 2, 0, index as u8 + 1], 5060).into(),
            style: styles[net.random.random_range(0..4)],
            tag: None,
            serial: 0,
            request: None,
            status: "up",
            load: None,
            region: "eu-1",
            priority: 0,
            services: vec!["proxy"],
            json: net.chance(300),
            expires_s: net.random.random_range(5..60),
            asleep_until_ms: 0,
        }
    }

    pub fn wake(&mut self, net: &mut Net, token: Token) {
        match token {
            Token::Act => {
                let pause_ms = net.plan.change_ms;
                let pause_ms = net.random.random_range(1..=2 * pause_ms);
                if !net.quiet {
                    self.token(net, pause_ms, Token::Act);
                    self.act(net);
                }
            }
            Token::Anew => {}
            Token::Again(serial) => self.again(net, serial),
            Token::Refresh(serial) => {
                if serial == self.serial && self.request.is_none() {
                    if net.now_ms < self.asleep_until_ms && !net.quiet {
                        return;
                    }
                    let body = if self.tag.is_some() {
                        String::new()
                    } else {
                        self.body()
                    };
                    self.publish(net, self.expires_s, body);
                }
            }
        }
    }

    fn token(&self, net: &mut Net, after_ms: u64, token: Token) {
        net.push(
            net.now_ms + after_ms,
            Event::Publisher {
                index: self.index,
                token,
            },
        );
    }

    fn act(&mut self, net: &mut Net) {
        if self.request.is_some() || net.now_ms < self.asleep_until_ms {
            return;
        }
        match net.random.random_range(0..20) {
            0 => {
                // Starts again and has forgotten its tag.
                self.tag = None;
            }
            1 if self.tag.is_some() => return self.publish(net, 0, String::new()),
            2 => {
                self.asleep_until_ms = net.now_ms + net.random.random_range(1_000..90_000);
                let after_ms = self.asleep_until_ms - net.now_ms + 1;
                self.token(net, after_ms, Token::Refresh(self.serial));
                return;
            }
            3 | 4 => {
                self.status =
                    ["up", "draining", "overloaded", "down"][net.random.random_range(0..4)]
            }
            5 => self.region = ["eu-1", "us-1", "a<b&\"c'"][net.random.random_range(0..3)],
            6 => self.priority = net.random.random_range(0..3),
            7 => {
                self.services = [vec!["proxy"], vec!["turn"], vec!["proxy", "turn"], vec![]]
                    [net.random.random_range(0..4)]
                .clone()
            }
            _ => self.load = net.chance(950).then(|| net.random.random_range(0..=100)),
        }
        let body = self.body();
        self.publish(net, self.expires_s, body);
    }

    fn body(&self) -> String {
        let address = format!("192.0.2.{}", self.index + 1);
        if self.json {
            let server = serde_json::json!({
                "id": self.id, "status": self.status, "priority": self.priority, "weight": 7,
                "addresses": [{"ip": address, "port": 5060, "transport": "udp"}],
                "services": self.services, "attributes": {"region": self.region},
            });
            let mut root = serde_json::json!({"domain": "example.com", "servers": [server]});
            if let Some(load) = self.load {
                root["servers"][0]["load"] = load.into();
            }
            return root.to_string();
        }
        let load = self
            .load
            .map_or(String::new(), |load| format!(" load=\"{load}\""));
        let services: String = self
            .services
            .iter()
            .map(|name| format!("<service name=\"{name}\"/>"))
            .collect();
        let region = self.region.replace('&', "&amp;").replace('<', "&lt;");
        format!(
            "<serverinfo xmlns=\"urn:fanfare:serverinfo:1\" domain=\"example.com\"><server id=\"{}\" status=\"{}\"{load} priority=\"{}\" weight=\"7\"><address ip=\"{address}\" port=\"5060\" transport=\"udp\"/>{services}<attribute name=\"region\">{region}</attribute></server></serverinfo>",
            self.id, self.status, self.priority
        )
    }

    fn publish(&mut self, net: &mut Net, expires_s: u64, body: String) {
        self.serial += 1;
        let branch = format!("z9hG4bK-p{}-{}", self.index, self.serial);
        let mut headers = vec![
            (
                "Via",
                format!("SIP/2.0/UDP {};branch={branch};rport", self.address),
            ),
            ("Max-Forwards", "70".to_owned()),
            (
                "From",
                format!("<sip:p{}@example.com>;tag=t{}", self.index, self.serial),
            ),
            ("To", "<sip:cluster@example.com>".to_owned()),
            ("Call-ID", format!("p{}-{}@sim", self.index, self.serial)),
            ("CSeq", "1 PUBLISH".to_owned()),
            ("Event", "SIPserver".to_owned()),
            ("Expires", expires_s.to_string()),
        ];
        if let Some(tag) = &self.tag {
            headers.push(("SIP-If-Match", tag.clone()));
        }
        if !body.is_empty() {
            let kind = if self.json { "json" } else { "xml" };
            headers.push(("Content-Type", format!("application/serverinfo+{kind}")));
        }
        let bytes = write(
            "PUBLISH sip:example.com SIP/2.0",
            &headers,
            &body,
            self.style,
        );
        let flow = net.datagram(self.address);
        net.send_to_node(flow, bytes.clone(), 0);
        self.token(net, 500, Token::Again(self.serial));
        self.request = Some(Request {
            serial: self.serial,
            branch,
            bytes,
            fired: 0,
        });
    }

    fn again(&mut self, net: &mut Net, serial: u64) {
        let Some(request) = self
            .request
            .as_mut()
            .filter(|request| request.serial == serial)
        else {
            return;
        };
        if request.fired == 10 {
            self.request = None;
            self.tag = None;
            return self.token(net, 1, Token::Refresh(serial));
        }
        request.fired += 1;
        let next_ms = (500 << request.fired.min(3)).min(4_000);
        let bytes = request.bytes.clone();
        let flow = net.datagram(self.address);
        net.send_to_node(flow, bytes, 0);
        self.token(net, next_ms, Token::Again(serial));
    }

    pub fn receive(&mut self, net: &mut Net, bytes: &[u8]) {
        let Some(sip) = Sip::read(bytes) else { return };
        let ours = |request: &&mut Request| request.branch == sip.branch();
        let status = sip.status().unwrap_or_default();
        if status < 200 || self.request.as_mut().filter(ours).is_none() {
            return;
        }
        self.request = None;
        match status {
            200 => {
                self.tag = sip.get("sip-etag").map(str::to_owned);
                let granted_s = sip.number("expires").unwrap_or(0);
                if granted_s == 0 {
                    self.tag = None;
                }
                self.token(
                    net,
                    granted_s.max(3) * 1_000 / 3,
                    Token::Refresh(self.serial),
                );
            }
            _ => {
                self.tag = None;
                self.token(net, 2_000, Token::Refresh(self.serial));
            }
        }
    }
}
