//! PIDF (RFC 3863), as far as it shows the rounds of simulated servers: each in the note of the tuple that is its own.
//! It has no version: of two documents the one that shows the newer round is the newer.

use quick_xml::events::{BytesStart, Event};

use super::{Document, Malformed, Reached, each};

const NAMESPACE: &str = "urn:ietf:params:xml:ns:pidf";

pub(super) fn read(text: &str, prefix: &str) -> Result<Document, Malformed> {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut walk = Walk {
        prefix,
        path: Vec::new(),
        server: None,
        reached: Vec::new(),
        has_root: false,
    };
    loop {
        match reader.read_event().map_err(|_| Malformed::Syntax)? {
            Event::Start(element) => walk.open(&element)?,
            Event::Empty(element) => {
                walk.open(&element)?;
                walk.path.pop();
            }
            Event::End(_) => {
                walk.path.pop();
            }
            Event::Text(text) => walk.text(text.into_inner().as_ref())?,
            Event::DocType(_) => return Err(Malformed::Syntax),
            Event::Eof => break,
            _ => {}
        }
    }
    if !walk.path.is_empty() {
        return Err(Malformed::Syntax);
    }
    if !walk.has_root {
        return Err(Malformed::Root);
    }
    let rounds = walk.reached.iter().map(|reached| reached.round);
    Ok(Document {
        view: rounds.max().unwrap_or(0).into(),
        base: None,
        part: None,
        reached: walk.reached,
    })
}

/// Where the reader stands, and what it has gathered.
struct Walk<'a> {
    prefix: &'a str,
    /// Names without their prefixes.
    path: Vec<String>,
    /// Whose tuple is open.
    server: Option<u16>,
    reached: Vec<Reached>,
    has_root: bool,
}

impl Walk<'_> {
    fn open(&mut self, element: &BytesStart) -> Result<(), Malformed> {
        let name = element.local_name().into_inner().to_owned();
        match (self.path.len(), name.as_str()) {
            (0, "presence") if !self.has_root => {
                each(element, |key, value| {
                    let is_namespace = key == "xmlns" || key.starts_with("xmlns:");
                    self.has_root |= is_namespace && value == NAMESPACE;
                    Ok(())
                })?;
                if !self.has_root {
                    return Err(Malformed::Root);
                }
            }
            (0, _) => return Err(Malformed::Root),
            (1, "tuple") => {
                let mut id = None;
                each(element, |key, value| {
                    if key == "id" {
                        id = Some(value.to_owned());
                    }
                    Ok(())
                })?;
                let id = id.ok_or(Malformed::Missing("id"))?;
                let number = id.strip_prefix(self.prefix);
                self.server = number.and_then(|number| number.parse().ok());
            }
            _ => {}
        }
        self.path.push(name);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Malformed> {
        let is_note =
            matches!(&self.path[..], [_, tuple, note] if tuple == "tuple" && note == "note");
        if let (true, Some(server)) = (is_note, self.server) {
            let round = text.trim().strip_prefix("round ");
            let round = round.and_then(|round| round.parse().ok());
            let round = round.ok_or(Malformed::Value("note"))?;
            self.reached.push(Reached { server, round });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<?xml version=\"1.0\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"sip:a@b\">\
        <tuple id=\"lg-0\"><status><basic>open</basic></status><note>round 17</note></tuple>\
        <tuple id=\"other\"><status/><note>busy</note></tuple><note>xxx</note></presence>";

    #[test]
    fn the_rounds_stand_in_the_notes_of_our_tuples() {
        let document = read(TEXT, "lg-").unwrap();
        let reached = [Reached {
            server: 0,
            round: 17,
        }];
        assert_eq!(document.reached, reached);
        assert_eq!((document.view, document.base), (17, None));
        assert!(read(TEXT, "lh-").unwrap().reached.is_empty());
    }

    #[test]
    fn what_is_not_pidf_is_refused() {
        for (find, replace, reason) in [
            ("ns:pidf", "ns:other", Malformed::Root),
            ("</presence>", "", Malformed::Syntax),
            (" id=\"lg-0\"", "", Malformed::Missing("id")),
            ("round 17", "17", Malformed::Value("note")),
        ] {
            let other = TEXT.replacen(find, replace, 1);
            assert_ne!(other, TEXT);
            assert_eq!(read(&other, "lg-").unwrap_err(), reason);
        }
    }
}
