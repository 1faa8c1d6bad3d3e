//! SIP as the model speaks it: a small writer in several styles and a naive reader. Shares nothing with `fanfare::sip`,
//! which the simulator judges.

/// How a model peer writes its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Lower,
    Compact,
    Folded,
}

/// A message as the naive reader sees it.
#[derive(Debug, Clone)]
pub struct Sip {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

const COMPACT: [(&str, &str); 9] = [
    ("via", "v"),
    ("from", "f"),
    ("to", "t"),
    ("call-id", "i"),
    ("contact", "m"),
    ("content-length", "l"),
    ("content-type", "c"),
    ("event", "o"),
    ("supported", "k"),
];

impl Sip {
    pub fn read(bytes: &[u8]) -> Option<Sip> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let start = lines.next()?.to_owned();
        let mut headers: Vec<(String, String)> = Vec::with_capacity(16);
        for line in lines {
            if let (Some(folded), Some((_, value))) =
                (line.strip_prefix([' ', '\t']), headers.last_mut())
            {
                value.push(' ');
                value.push_str(folded.trim());
            } else if let Some((name, value)) = line.split_once(':') {
                let name = name.trim_ascii().to_ascii_lowercase();
                let long = COMPACT.iter().find(|(_, short)| *short == name);
                let name = long.map_or(name, |(long, _)| (*long).to_owned());
                headers.push((name, value.trim_ascii().to_owned()));
            }
        }
        Some(Sip {
            start,
            headers,
            body: body.to_owned(),
        })
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.headers.iter().find(|(known, _)| known == name)?;
        Some(&field.1)
    }

    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    /// The status of a response, `None` for a request.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.get("cseq")?.trim().split_once(' ')?;
        Some((number.parse().ok()?, method.trim()))
    }

    pub fn branch(&self) -> &str {
        param(self.text("via"), "branch").unwrap_or_default()
    }

    pub fn sender_tag(&self) -> &str {
        param(self.text("from"), "tag").unwrap_or_default()
    }

    pub fn to_tag(&self) -> &str {
        param(self.text("to"), "tag").unwrap_or_default()
    }
}

/// A parameter behind the `>` of an address, or anywhere behind the first `;` where there is none.
pub fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let params = value.rsplit_once('>').map_or(value, |(_, params)| params);
    let mut pieces = params.split(';');
    pieces.next();
    pieces.find_map(|piece| {
        let (key, value) = piece.split_once('=')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// A message from its start line, header fields and body.
pub fn write(start: &str, headers: &[(&str, String)], body: &str, style: Style) -> Vec<u8> {
    let mut out = format!("{start}\r\n");
    let length = ("Content-Length", body.len().to_string());
    for (name, value) in headers.iter().chain([&length]) {
        let lower = name.to_ascii_lowercase();
        let name = match style {
            Style::Plain | Style::Folded => (*name).to_owned(),
            Style::Lower => lower,
            Style::Compact => COMPACT
                .iter()
                .find(|(long, _)| *long == lower)
                .map_or((*name).to_owned(), |(_, short)| (*short).to_owned()),
        };
        let value = match style {
            // Not within a URI.
            Style::Folded if value.contains('<') => value.replacen(">;", ">\r\n ;", 1),
            Style::Folded => value.replacen(';', "\r\n ;", 1),
            _ => value.clone(),
        };
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    out.push_str(body);
    out.into_bytes()
}

/// The answer to a request, with what every answer copies.
pub fn answer(
    request: &Sip,
    status: u16,
    to_tag: &str,
    more: &[(&str, String)],
    style: Style,
) -> Vec<u8> {
    let to = request.text("to");
    let to = if request.to_tag().is_empty() {
        format!("{to};tag={to_tag}")
    } else {
        to.to_owned()
    };
    let mut headers = vec![
        ("Via", request.text("via").to_owned()),
        ("From", request.text("from").to_owned()),
        ("To", to),
        ("Call-ID", request.text("call-id").to_owned()),
        ("CSeq", request.text("cseq").to_owned()),
    ];
    headers.extend(more.iter().cloned());
    write(&format!("SIP/2.0 {status} Said"), &headers, "", style)
}
