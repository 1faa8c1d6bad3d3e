//! Documents that are read, and such that are refused.

use super::*;

const XML: &str = concat!(
    r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    "\n",
    r#"<serverinfo xmlns="urn:fanfare:serverinfo:1" domain="example.com" notifier="n1@1795379461123" version="7"          view="42" state="partial" base="41">"#,
    r#"<server id="lg-1" status="up" load="37" updated="1795379461123.0.n1"><address ip="2001:db8::1" port="5060" transport="udp"/>"#,
    r#"<attribute name="round">17</attribute></server>"#,
    r#"<server id="p2" state="deleted" updated="1795379460000.3.n2"/></serverinfo>"#,
);

const JSON: &str = concat!(
    r#"{"domain":"example.com","notifier":"n1@1795379461123","version":7         ,"view":42,"state":"full","servers":["#,
    r#"{"id":"lg-1","status":"up","load":37,"priority":10,"weight":60,"updated":"1795379461123.0.n1","#,
    r#""addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"}],"services":["proxy"],"attributes":{"round":"17"}},"#,
    r#"{"id":"p2","state":"deleted","updated":"1795379460000.3.n2"}]}"#,
);

fn reader(format: Format) -> Reader {
    Reader::new(format, "lg-".to_owned())
}

fn refusal(format: Format, body: &str) -> Malformed {
    reader(format).read(body.as_bytes()).expect_err(body)
}

#[test]
fn an_xml_document_is_read() {
    let mut reader = reader(Format::Xml);
    let (document, version) = reader.read(XML.as_bytes()).unwrap();
    assert_eq!(version, Some(7));
    assert_eq!(
        (document.view, document.base, document.part),
        (42, Some(41), None)
    );
    assert_eq!(
        document.reached,
        [Reached {
            server: 1,
            round: 17
        }]
    );
}

#[test]
fn a_json_document_is_read() {
    let mut reader = reader(Format::Json);
    let (document, version) = reader.read(JSON.as_bytes()).unwrap();
    assert_eq!(version, Some(7));
    assert_eq!((document.view, document.base), (42, None));
    assert_eq!(
        document.reached,
        [Reached {
            server: 1,
            round: 17
        }]
    );
}

#[test]
fn copies_that_differ_in_version_alone_are_parsed_once() {
    for (format, body, short, long) in [
        (Format::Xml, XML, "\"7\"          ", "\"4294967295\" "),
        (Format::Json, JSON, ":7         ,", ":4294967295,"),
    ] {
        let mut reader = reader(format);
        reader.read(body.as_bytes()).unwrap();
        let other = body.replacen(short, long, 1);
        assert_eq!(other.len(), body.len());
        let (_, version) = reader.read(other.as_bytes()).unwrap();
        assert_eq!(version, Some(u32::MAX));
        assert_eq!(reader.parsed(), 1);
    }
}

#[test]
fn a_copy_with_one_other_byte_is_parsed_anew() {
    let mut reader = reader(Format::Xml);
    reader.read(XML.as_bytes()).unwrap();
    let other = XML.replace(">17<", ">18<");
    let (document, _) = reader.read(other.as_bytes()).unwrap();
    assert_eq!(document.reached[0].round, 18);
    assert_eq!(reader.parsed(), 2);
}

#[test]
fn more_documents_than_are_kept_are_still_read() {
    let mut reader = reader(Format::Xml);
    for round in (10..60).chain(10..60) {
        let other = XML.replace(">17<", &format!(">{round}<"));
        assert_eq!(
            reader.read(other.as_bytes()).unwrap().0.reached[0].round,
            round
        );
    }
}

#[test]
fn an_unpadded_version_is_refused() {
    let body = XML.replacen("\"7\"          ", "\"7\" ", 1);
    assert_eq!(refusal(Format::Xml, &body), Malformed::Padding);
    let body = JSON.replacen(":7         ,", ":7,", 1);
    assert_eq!(refusal(Format::Json, &body), Malformed::Padding);
}

#[test]
fn what_breaks_the_layout_is_refused() {
    for (find, replace, reason) in [
        ("</serverinfo>", "", Malformed::Syntax),
        ("serverinfo:1", "serverinfo:2", Malformed::Root),
        (" base=\"41\"", "", Malformed::Missing("base")),
        (" view=\"42\"", "", Malformed::Missing("view")),
        ("view=\"42\"", "view=\"x\"", Malformed::Value("view")),
        (
            "state=\"partial\"",
            "state=\"half\"",
            Malformed::Value("state"),
        ),
        ("id=\"p2\"", "id=\"aa\"", Malformed::Order),
        ("id=\"p2\"", "id=\"lg-1\"", Malformed::Order),
        ("id=\"p2\"", "id=\"p/2\"", Malformed::Value("id")),
        ("load=\"37\"", "load=\"101\"", Malformed::Value("load")),
        (" port=\"5060\"", "", Malformed::Missing("port")),
        ("2001:db8::1", "2001:db8", Malformed::Value("ip")),
        (
            " updated=\"1795379460000.3.n2\"",
            "",
            Malformed::Missing("updated"),
        ),
        (" status=\"up\"", "", Malformed::Missing("status")),
    ] {
        let body = XML.replacen(find, replace, 1);
        assert_ne!(body, XML);
        assert_eq!(refusal(Format::Xml, &body), reason, "{find} -> {replace}");
    }
}

#[test]
fn a_document_type_is_refused() {
    let body = XML.replacen('\n', "<!DOCTYPE serverinfo>", 1);
    assert_eq!(refusal(Format::Xml, &body), Malformed::Syntax);
}

#[test]
fn broken_json_is_refused() {
    assert_eq!(
        refusal(Format::Json, &JSON[..JSON.len() - 1]),
        Malformed::Syntax
    );
    let body = JSON.replacen(",\"status\":\"up\"", "", 1);
    assert_eq!(refusal(Format::Json, &body), Malformed::Missing("status"));
}
