//! Reads XML into a small tree, then into a draft of a document. Refuses what event-package.md forbids: document types,
//! entities of one's own, processing instructions, characters outside XML 1.0. Knows no limits of the fields.

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::attributes::Attributes;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use super::document::{AddressDraft, DocumentError, Draft, Scalar, ServerDraft};
use super::{MAX_DEPTH, NAMESPACE};

const NOT_WELL_FORMED: DocumentError = DocumentError::Syntax("XML is not well-formed");

/// One element. Of foreign elements the name is empty, which no element of ours has.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: Box<str>,
    /// Those without a prefix; others are foreign.
    attributes: Vec<(Box<str>, Box<str>)>,
    pub(super) text: Box<str>,
    pub(super) children: Vec<Element>,
}

impl Element {
    fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| **key == *name);
        found.map(|(_, value)| &**value)
    }

    fn scalar(&self, name: &str) -> Option<Scalar> {
        self.attribute(name)
            .map(|value| Scalar::Written(value.into()))
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, DocumentError> {
        self.attribute(name)
            .ok_or(DocumentError::Syntax("element without name"))
    }
}

/// Reads a document or a publication; what is not ours is dropped.
pub(super) fn draft(bytes: &[u8]) -> Result<Draft, DocumentError> {
    let root = read(bytes, "serverinfo")?;
    let servers = root
        .children
        .iter()
        .filter(|child| *child.name == *"server");
    Ok(Draft {
        domain: root.scalar("domain"),
        notifier: root.scalar("notifier"),
        version: root.scalar("version"),
        view: root.scalar("view"),
        state: root.scalar("state"),
        base: root.scalar("base"),
        part: root.scalar("part"),
        parts: root.scalar("parts"),
        stale: root.scalar("stale"),
        servers: servers.map(server).collect::<Result<_, _>>()?,
    })
}

fn server(element: &Element) -> Result<ServerDraft, DocumentError> {
    let mut draft = ServerDraft {
        id: element.scalar("id"),
        state: element.scalar("state"),
        status: element.scalar("status"),
        load: element.scalar("load"),
        priority: element.scalar("priority"),
        weight: element.scalar("weight"),
        updated: element.scalar("updated"),
        ..ServerDraft::default()
    };
    for child in &element.children {
        match &*child.name {
            "address" => draft.addresses.push(AddressDraft {
                ip: child.scalar("ip"),
                port: child.scalar("port"),
                transport: child.scalar("transport"),
                host: child.scalar("host"),
                service: child.scalar("service"),
            }),
            "service" => draft.services.push(child.required("name")?.into()),
            "attribute" => {
                let attribute = (child.required("name")?.into(), child.text.clone());
                draft.attributes.push(attribute);
            }
            _ => {}
        }
    }
    Ok(draft)
}

/// Reads a whole body whose root must be `root` in our namespace.
pub(super) fn read(bytes: &[u8], root: &str) -> Result<Element, DocumentError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| DocumentError::Syntax("body is not UTF-8"))?;
    if !text.chars().all(is_char) {
        return Err(DocumentError::Syntax("character forbidden in XML"));
    }
    let element = tree(text)?;
    if *element.name != *root {
        return Err(DocumentError::Syntax("wrong root element or namespace"));
    }
    Ok(element)
}

/// XML 1.0 2.2, production 2.
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

/// The elements that are open, and the text of the innermost.
struct Builder {
    open: Vec<Element>,
    texts: Vec<String>,
    root: Option<Element>,
}

fn tree(text: &str) -> Result<Element, DocumentError> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().enable_all_checks(true);
    let mut builder = Builder {
        open: Vec::new(),
        texts: Vec::new(),
        root: None,
    };
    let mut is_first = true;
    loop {
        match reader.read_event().map_err(|_| NOT_WELL_FORMED)? {
            Event::Decl(declaration) if is_first => check_declaration(&declaration)?,
            Event::Start(start) => builder.start(element(&start, &reader)?)?,
            Event::Empty(start) => {
                builder.start(element(&start, &reader)?)?;
                builder.end()?;
            }
            Event::End(_) => builder.end()?,
            Event::Text(text) if text.contains("]]>") => return Err(NOT_WELL_FORMED),
            Event::Text(text) => builder.text(&text.xml10_content())?,
            Event::CData(_) if builder.open.is_empty() => return Err(NOT_WELL_FORMED),
            Event::CData(text) => builder.text(&text.xml10_content())?,
            Event::GeneralRef(reference) => builder.reference(&reference)?,
            Event::Comment(_) => {}
            Event::DocType(_) => return Err(DocumentError::Syntax("document type declared")),
            Event::PI(_) => return Err(DocumentError::Syntax("processing instruction")),
            Event::Decl(_) => return Err(NOT_WELL_FORMED),
            Event::Eof => break,
        }
        is_first = false;
    }
    match builder.root {
        Some(root) if builder.open.is_empty() => Ok(root),
        _ => Err(NOT_WELL_FORMED),
    }
}

/// XML 1.0 2.8, production 23: version, encoding, standalone, in this order; held to what this package allows.
fn check_declaration(declaration: &BytesDecl<'_>) -> Result<(), DocumentError> {
    let content = declaration.strip_prefix("xml").ok_or(NOT_WELL_FORMED)?;
    if !is_spaced(content) {
        return Err(NOT_WELL_FORMED);
    }
    let mut names = ["version", "encoding", "standalone"].into_iter();
    let mut has_version = false;
    for attribute in Attributes::new(content, 0) {
        let attribute = attribute.map_err(|_| NOT_WELL_FORMED)?;
        let name = attribute.key.into_inner();
        if !names.by_ref().any(|expected| expected == name) {
            return Err(NOT_WELL_FORMED);
        }
        let (is_allowed, otherwise) = match (name, &*attribute.value) {
            ("version", value) => (value == "1.0", "XML is not of version 1.0"),
            ("encoding", value) => (value.eq_ignore_ascii_case("utf-8"), "XML is not in UTF-8"),
            (_, value) => (matches!(value, "yes" | "no"), "XML is not well-formed"),
        };
        has_version |= name == "version";
        if !is_allowed {
            return Err(DocumentError::Syntax(otherwise));
        }
    }
    has_version.then_some(()).ok_or(NOT_WELL_FORMED)
}

/// XML 1.0 3.1: white space stands before each attribute. The reader lets it be left out after a value.
fn is_spaced(attributes: &str) -> bool {
    let mut open = None;
    let mut bytes = attributes.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match open {
            None if matches!(byte, b'"' | b'\'') => open = Some(byte),
            Some(quote) if byte == quote => {
                open = None;
                if bytes.peek().is_some_and(|next| !is_space((*next).into())) {
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}

fn element(start: &BytesStart<'_>, reader: &NsReader<&[u8]>) -> Result<Element, DocumentError> {
    let (namespace, local) = reader.resolver().resolve_element(start.name());
    let is_ours = match namespace {
        ResolveResult::Bound(namespace) => namespace.into_inner() == NAMESPACE,
        ResolveResult::Unbound => false,
        ResolveResult::Unknown(_) => return Err(DocumentError::Syntax("unknown prefix")),
    };
    if !is_name(start.name().into_inner()) || !is_spaced(start.attributes_raw()) {
        return Err(NOT_WELL_FORMED);
    }
    let mut element = Element::default();
    if is_ours {
        element.name = local.into_inner().into();
    }
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|_| NOT_WELL_FORMED)?;
        let name = attribute.key.into_inner();
        // XML 1.0 3.1: no `<` in attribute values.
        if !is_name(name) || attribute.value.contains('<') {
            return Err(NOT_WELL_FORMED);
        }
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|_| DocumentError::Syntax("unknown entity"))?;
        if !value.chars().all(is_char) {
            return Err(DocumentError::Syntax("character forbidden in XML"));
        }
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        match reader.resolver().resolve_attribute(attribute.key).0 {
            ResolveResult::Unbound => element.attributes.push((name.into(), (*value).into())),
            ResolveResult::Bound(_) => {}
            ResolveResult::Unknown(_) => return Err(DocumentError::Syntax("unknown prefix")),
        }
    }
    Ok(element)
}

/// XML 1.0 2.3, productions 4 to 5, all but ASCII taken as it comes; Namespaces 1.0: at most one colon, within.
fn is_name(name: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let continues = |c: char| starts(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    let mut parts = name.split(':');
    parts
        .by_ref()
        .take(2)
        .all(|part| part.starts_with(starts) && part.chars().all(continues))
        && parts.next().is_none()
}

impl Builder {
    fn start(&mut self, element: Element) -> Result<(), DocumentError> {
        if self.open.len() == MAX_DEPTH {
            return Err(DocumentError::Syntax("XML is too deep"));
        }
        if self.root.is_some() {
            return Err(NOT_WELL_FORMED);
        }
        self.open.push(element);
        self.texts.push(String::new());
        Ok(())
    }

    fn end(&mut self) -> Result<(), DocumentError> {
        let (Some(mut element), Some(text)) = (self.open.pop(), self.texts.pop()) else {
            return Err(NOT_WELL_FORMED);
        };
        // Only the elements that hold values hold text; in the others it would be lost in silence.
        let holds_elements = matches!(&*element.name, "serverinfo" | "server" | "filter");
        if holds_elements && !text.chars().all(is_space) {
            return Err(DocumentError::Syntax("text between elements"));
        }
        element.text = text.into();
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), DocumentError> {
        match self.texts.last_mut() {
            Some(open) => open.push_str(text),
            None if text.chars().all(is_space) => {}
            None => return Err(NOT_WELL_FORMED),
        }
        Ok(())
    }

    fn reference(&mut self, reference: &BytesRef<'_>) -> Result<(), DocumentError> {
        let open = self.texts.last_mut().ok_or(NOT_WELL_FORMED)?;
        match reference.resolve_char_ref().map_err(|_| NOT_WELL_FORMED)? {
            Some(c) if is_char(c) => open.push(c),
            Some(_) => return Err(DocumentError::Syntax("character forbidden in XML")),
            None => {
                let text = resolve_predefined_entity(reference)
                    .ok_or(DocumentError::Syntax("unknown entity"))?;
                open.push_str(text);
            }
        }
        Ok(())
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}
