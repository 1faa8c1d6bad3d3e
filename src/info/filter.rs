//! What a subscriber wants to see: the filter of a SUBSCRIBE body. Knows no subscription.

use super::body::Sink;
use super::document::DocumentError;
use super::server::{Server, Status, check_attribute, check_service};
use super::view::Entry;
use super::{MAX_BODY_BYTES, NAMESPACE, xml, xml_reader};

/// The most elements of one name.
const MAX_TERMS: usize = 32;

/// Elements of one name are alternatives, different names must all hold; of attributes, those of one attribute name
/// are alternatives. Kept sorted, each element once, so that equal filters are equal values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filter {
    services: Vec<Box<str>>,
    statuses: Vec<Status>,
    attributes: Vec<(Box<str>, Box<str>)>,
    most: Option<u16>,
}

impl Filter {
    /// Sorts and checks what a filter is made of. `most`: 1 or more.
    pub fn new(
        mut services: Vec<Box<str>>,
        mut statuses: Vec<Status>,
        mut attributes: Vec<(Box<str>, Box<str>)>,
        most: Option<u16>,
    ) -> Result<Self, DocumentError> {
        services.sort_unstable();
        services.dedup();
        statuses.sort_unstable();
        statuses.dedup();
        attributes.sort_unstable();
        attributes.dedup();
        let counts = [services.len(), statuses.len(), attributes.len()];
        if counts.iter().any(|count| *count > MAX_TERMS) {
            return Err(DocumentError::TooLarge("filter too long"));
        }
        services.iter().try_for_each(|name| check_service(name))?;
        attributes
            .iter()
            .try_for_each(|(name, value)| check_attribute(name, value))?;
        if most == Some(0) {
            return Err(DocumentError::Syntax("most below 1"));
        }
        Ok(Filter {
            services,
            statuses,
            attributes,
            most,
        })
    }

    /// Reads a body of type application/serverinfo. An unknown element: [`DocumentError::Syntax`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_BODY_BYTES {
            return Err(DocumentError::TooLarge("body over 65536 bytes"));
        }
        let root = xml_reader::read(bytes, "filter")?;
        let (mut services, mut statuses, mut attributes) = (Vec::new(), Vec::new(), Vec::new());
        let mut most = None;
        for element in &root.children {
            if !element.children.is_empty() {
                return Err(DocumentError::Syntax("element within a filter element"));
            }
            match &*element.name {
                "service" => services.push(element.required("name")?.into()),
                "status" => statuses.push(element.text.trim().parse()?),
                "attribute" => {
                    attributes.push((element.required("name")?.into(), element.text.clone()));
                }
                "most" if most.is_none() => most = Some(most_of(&element.text)?),
                "most" => return Err(DocumentError::Syntax("most named twice")),
                _ => return Err(DocumentError::Syntax("unknown filter element")),
            }
        }
        Filter::new(services, statuses, attributes, most)
    }

    /// The most entries shown, notifiers not counted.
    pub fn most(&self) -> Option<u16> {
        self.most
    }

    /// Whether it asks for nothing, so that all is shown.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether an entry passes, `most` left aside. A deleted entry passes only a filter that names no status and no
    /// `most`, and whose rest matches the last state known; a notifier always passes.
    pub fn admits(&self, entry: &Entry) -> bool {
        let server = &entry.server;
        if server.is_notifier() {
            return true;
        }
        if entry.deleted && (self.most.is_some() || !self.statuses.is_empty()) {
            return false;
        }
        self.admits_status(server) && self.admits_service(server) && self.admits_attributes(server)
    }

    fn admits_status(&self, server: &Server) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&server.status)
    }

    fn admits_service(&self, server: &Server) -> bool {
        self.services.is_empty() || self.services.iter().any(|name| server.has_service(name))
    }

    fn admits_attributes(&self, server: &Server) -> bool {
        self.attributes
            .chunk_by(|one, other| one.0 == other.0)
            .all(|alternatives| {
                let value = server.attribute(&alternatives[0].0);
                alternatives
                    .iter()
                    .any(|(_, wanted)| value == Some(&**wanted))
            })
    }

    /// The filter as a body: equal filters are equal bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put(b"<filter");
        xml::attribute(&mut out, "xmlns", NAMESPACE);
        out.put(b">");
        for service in &self.services {
            out.put(b"<service");
            xml::attribute(&mut out, "name", service);
            out.put(b"/>");
        }
        for status in &self.statuses {
            out.put(b"<status>");
            xml::escape(&mut out, status.as_str());
            out.put(b"</status>");
        }
        for (name, value) in &self.attributes {
            out.put(b"<attribute");
            xml::attribute(&mut out, "name", name);
            out.put(b">");
            xml::escape(&mut out, value);
            out.put(b"</attribute>");
        }
        if let Some(most) = self.most {
            out.put(b"<most>");
            out.number(most.into());
            out.put(b"</most>");
        }
        out.put(b"</filter>");
        out
    }
}

fn most_of(text: &str) -> Result<u16, DocumentError> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or(DocumentError::Syntax("most is no number up to 65535"))
}
