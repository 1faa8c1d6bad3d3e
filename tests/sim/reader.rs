//! Documents and tables as the oracles see them: a naive reader of the XML and JSON documents, and rows that compare
//! field by field. Shares nothing with the codecs, projections and tables of `fanfare::info`.

use std::collections::BTreeMap;
use std::rc::Rc;

use fanfare::info::View;

/// One live server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub status: String,
    pub load: Option<u64>,
    pub updated: String,
    pub services: Vec<String>,
    pub attributes: Vec<(String, String)>,
    /// Priority, weight and addresses.
    pub rest: String,
}

/// Live servers by id.
pub type Rows = BTreeMap<String, Rc<Row>>;

/// What a subscriber asks to see.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Wanted {
    pub services: Vec<String>,
    pub statuses: Vec<String>,
    pub regions: Vec<String>,
    pub most: Option<usize>,
}

impl Wanted {
    pub fn body(&self) -> String {
        let mut text = String::from("<filter xmlns=\"urn:fanfare:serverinfo:1\">");
        for service in &self.services {
            text.push_str(&format!("<service name=\"{service}\"/>"));
        }
        for status in &self.statuses {
            text.push_str(&format!("<status>{status}</status>"));
        }
        for region in &self.regions {
            text.push_str(&format!("<attribute name=\"region\">{region}</attribute>"));
        }
        if let Some(most) = self.most {
            text.push_str(&format!("<most>{most}</most>"));
        }
        text.push_str("</filter>");
        text
    }

    /// Reads back what `body` wrote.
    pub fn read(body: &str) -> Wanted {
        let mut wanted = Wanted::default();
        for tag in tags(body) {
            match tag.name {
                "service" => wanted.services.extend(tag.get("name")),
                "status" => wanted.statuses.push(tag.text.to_owned()),
                "attribute" => wanted.regions.push(tag.text.to_owned()),
                "most" => wanted.most = tag.text.parse().ok(),
                _ => {}
            }
        }
        wanted
    }

    pub fn admits(&self, row: &Row) -> bool {
        if row.services.iter().any(|name| name == "notifier") {
            return true;
        }
        let region = row.attributes.iter().find(|(name, _)| name == "region");
        let any = |wanted: &[String], held: &[String]| {
            wanted.is_empty() || wanted.iter().any(|one| held.contains(one))
        };
        any(&self.services, &row.services)
            && any(&self.statuses, std::slice::from_ref(&row.status))
            && (self.regions.is_empty()
                || region.is_some_and(|(_, value)| self.regions.contains(value)))
    }
}

/// Live rows of a view, unfiltered.
pub fn rows_of(view: &View) -> Rows {
    let live = view.entries.iter().filter(|entry| !entry.deleted);
    live.map(|entry| {
        let server = &entry.server;
        let mut rest = format!("{} {}", server.priority, server.weight);
        for address in &server.addresses {
            rest.push_str(&format!(
                " {}/{}/{}/{}/{}",
                address.ip,
                address.port,
                address.transport.as_str(),
                address.host.as_deref().unwrap_or_default(),
                address.service.as_deref().unwrap_or_default()
            ));
        }
        let mut row = Row {
            status: server.status.as_str().to_owned(),
            load: server.load.map(u64::from),
            updated: server.updated.to_string(),
            services: server
                .services
                .iter()
                .map(|name| (**name).to_owned())
                .collect(),
            attributes: server
                .attributes
                .iter()
                .map(|(name, value)| ((**name).to_owned(), (**value).to_owned()))
                .collect(),
            rest,
        };
        row.attributes.sort();
        ((*server.id).to_owned(), Rc::new(row))
    })
    .collect()
}

/// One line of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Live(Row),
    /// Deleted, or left the filter.
    Gone,
}

#[derive(Debug, Clone, Default)]
pub struct Document {
    pub notifier: String,
    pub version: u64,
    pub view: u64,
    pub partial: bool,
    pub base: Option<u64>,
    pub part: Option<(u64, u64)>,
    pub lines: Vec<(String, Line)>,
}

impl Document {
    pub fn read(content_type: &str, body: &str) -> Option<Document> {
        match content_type {
            "application/serverinfo+xml" => read_xml(body),
            "application/serverinfo+json" => read_json(body),
            _ => None,
        }
    }
}

fn read_xml(body: &str) -> Option<Document> {
    let mut document = Document::default();
    let mut ended = false;
    for tag in tags(body) {
        let row = document.lines.last_mut().and_then(|(_, line)| match line {
            Line::Live(row) => Some(row),
            Line::Gone => None,
        });
        match tag.name {
            "serverinfo" => {
                let number = |name| tag.get(name).and_then(|text| text.parse().ok());
                document.notifier = tag.get("notifier")?;
                document.version = number("version")?;
                document.view = number("view")?;
                document.partial = tag.get("state")? == "partial";
                document.base = number("base");
                document.part = number("part").zip(number("parts"));
            }
            "server" => {
                let line = match tag.get("state") {
                    Some(_) => Line::Gone,
                    None => Line::Live(Row {
                        status: tag.get("status")?,
                        load: tag.get("load").and_then(|text| text.parse().ok()),
                        updated: tag.get("updated")?,
                        rest: format!("{} {}", tag.get("priority")?, tag.get("weight")?),
                        ..Row::default()
                    }),
                };
                document.lines.push((tag.get("id")?, line));
            }
            "address" => row?.rest.push_str(&format!(
                " {}/{}/{}/{}/{}",
                tag.get("ip")?,
                tag.get("port")?,
                tag.get("transport")?,
                tag.get("host").unwrap_or_default(),
                tag.get("service").unwrap_or_default()
            )),
            "service" => row?.services.push(tag.get("name")?),
            "attribute" => row?.attributes.push((tag.get("name")?, unescape(tag.text))),
            "/serverinfo" => ended = true,
            _ => {}
        }
    }
    for (_, line) in &mut document.lines {
        if let Line::Live(row) = line {
            row.attributes.sort();
        }
    }
    ended.then_some(document)
}

fn read_json(body: &str) -> Option<Document> {
    let root: serde_json::Value = serde_json::from_str(body).ok()?;
    let text = |value: &serde_json::Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let number = |value: &serde_json::Value, name: &str| value.get(name)?.as_u64();
    let mut document = Document {
        notifier: text(&root, "notifier")?,
        version: number(&root, "version")?,
        view: number(&root, "view")?,
        partial: text(&root, "state")? == "partial",
        base: number(&root, "base"),
        part: number(&root, "part").zip(number(&root, "parts")),
        lines: Vec::new(),
    };
    for server in root.get("servers")?.as_array()? {
        let id = text(server, "id")?;
        if server.get("state").is_some() {
            document.lines.push((id, Line::Gone));
            continue;
        }
        let mut rest = format!(
            "{} {}",
            number(server, "priority").unwrap_or(0),
            number(server, "weight").unwrap_or(1)
        );
        for address in server.get("addresses")?.as_array()? {
            rest.push_str(&format!(
                " {}/{}/{}/{}/{}",
                text(address, "ip")?,
                number(address, "port")?,
                text(address, "transport")?,
                text(address, "host").unwrap_or_default(),
                text(address, "service").unwrap_or_default()
            ));
        }
        let services = server.get("services").and_then(|list| list.as_array());
        let attributes = server.get("attributes").and_then(|map| map.as_object());
        let mut row = Row {
            status: text(server, "status")?,
            load: number(server, "load"),
            updated: text(server, "updated")?,
            services: services
                .into_iter()
                .flatten()
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect(),
            attributes: attributes
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            rest,
        };
        row.attributes.sort();
        document.lines.push((id, Line::Live(row)));
    }
    Some(document)
}

struct Tag<'a> {
    name: &'a str,
    attributes: &'a str,
    text: &'a str,
}

impl Tag<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let mut rest = self.attributes;
        while let Some((key, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"')?;
            if key.trim() == name {
                return Some(unescape(value));
            }
            rest = after;
        }
        None
    }
}

fn tags(body: &str) -> impl Iterator<Item = Tag<'_>> {
    body.split('<').skip(1).map(|piece| {
        let (inside, text) = piece.split_once('>').unwrap_or((piece, ""));
        let inside = inside.strip_suffix('/').unwrap_or(inside);
        let (name, attributes) = inside.split_once(' ').unwrap_or((inside, ""));
        Tag {
            name,
            attributes,
            text,
        }
    })
}

fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&#9;", "\t")
        .replace("&#10;", "\n")
        .replace("&#13;", "\r")
        .replace("&amp;", "&")
}
